"""The machine and the software: the processor, and the versions of packages and libraries."""

import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Dict, Iterable, List, Optional, Tuple

try:
    from importlib import metadata
except ImportError:  # Python 3.7
    metadata = None  # type: ignore[assignment]


def processor() -> str:
    """The processor's name, or its architecture if the system does not give a name."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available() -> List[int]:
    """Numbers of the processors that this process may use; [] if the system cannot tell."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def processors() -> int:
    """Number of processors that this process may use."""
    return len(available()) or os.cpu_count() or 1


def version(distributions: Iterable[str]) -> Optional[str]:
    """Name and version of the first of these distributions that is installed, or None."""
    for name in distributions:
        try:
            return f"{name} {_version(name)}"
        except LookupError:
            continue
    return None


def _version(name: str) -> str:
    """The version of an installed distribution. Raises: LookupError."""
    if metadata is not None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise LookupError(name) from error
    import pkg_resources  # of setuptools

    found = pkg_resources.working_set.by_key.get(name)
    if found is None:
        raise LookupError(name)
    return found.version


def libjpeg_version() -> str:
    """The version of libjpeg-turbo that the compiled core uses, or "unknown".

    It is looked up in a new process, because other packages may have loaded copies of their own
    into this one.
    """
    code = (
        "from pretexture.loader import _core\n"
        "for line in open('/proc/self/maps'):\n"
        "    if 'jpeg' in line: print(line.split(None, 5)[-1].strip())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    paths = process.stdout.splitlines()
    if process.returncode != 0 or not paths:
        return "unknown"
    library = pathlib.Path(paths[0]).read_bytes()
    versions = re.findall(rb"libjpeg-turbo version ([0-9.]+)", library)
    return f"libjpeg-turbo {versions[0].decode()}" if versions else "unknown"


def description() -> Dict[str, str]:
    """Processor, system and Python."""
    names: Tuple[Tuple[str, str], ...] = (
        ("processor", processor()),
        ("processors", str(processors())),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("python", platform.python_version()),
    )
    return dict(names)
