"""The number of processors that this process may use, by its affinity and by container quotas.

A container that may use two of a machine's 64 processors sees all 64. Its quota is in the files of
its control group (https://docs.kernel.org/admin-guide/cgroup-v2.html, "CPU").
"""

import math
import os
import pathlib
from typing import Iterator, Optional, Tuple


def available(root: str = "/") -> int:
    """Number of processors that threads of this process can keep busy, at least 1.

    Args:
        root: folder that holds /proc and /sys.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    for quota in _quotas(pathlib.Path(root)):
        count = min(count, max(1, math.ceil(quota)))
    return count


def _quotas(root: pathlib.Path) -> Iterator[float]:
    """The quotas of the process's control group and of the groups above it, in processors."""
    mounted = root / "sys/fs/cgroup"
    for controllers, path in _groups(root):
        if controllers == "":
            for group in _upwards(mounted, path):
                limit, _, period = _read(group / "cpu.max").partition(" ")
                yield from _ratio(limit, period)
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                for group in _upwards(mounted / name, path):
                    limit = _read(group / "cpu.cfs_quota_us")
                    yield from _ratio(limit, _read(group / "cpu.cfs_period_us"))


def _groups(root: pathlib.Path) -> Iterator[Tuple[str, str]]:
    """Controllers and path of each control group; version 2 has one group, without controllers."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            yield controllers, path


def _upwards(mounted: pathlib.Path, path: str) -> Iterator[pathlib.Path]:
    """The folders of a group and of the groups above it. A container may only see the top one."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for length in range(len(parts), -1, -1):
        yield mounted.joinpath(*parts[:length])


def _ratio(limit: str, period: str) -> Iterator[float]:
    """The quota in processors; nothing if it is "max" or -1, which mean no limit."""
    numbers: Tuple[Optional[int], ...] = tuple(
        int(text) if text.isdigit() else None for text in (limit, period)
    )
    if numbers[0] and numbers[1]:
        yield numbers[0] / numbers[1]


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
