"""What was measured on: the processor and the versions of all that takes part."""

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
    import importlib_metadata as metadata  # type: ignore[no-redef]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available() -> List[int]:
    """Numbers of the processors that this process may run on; [] where one cannot choose."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def version(distributions: Iterable[str]) -> Optional[str]:
    """Name and version of the first distribution that is installed."""
    for name in distributions:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def libjpeg_version() -> str:
    """The version of libjpeg-turbo that the compiled core runs on.

    Asked of a process of its own, since other libraries may have brought their copies into this
    one.
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
        ("processors", str(len(available()) or os.cpu_count() or 1)),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("python", platform.python_version()),
    )
    return dict(names)
