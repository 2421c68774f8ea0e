"""What a `Loader` runs on: the compiled core, the reference that it is tested against, or DALI."""

from typing import Callable, Dict

from .base import Backend, Config, Work
from .native import NativeBackend

__all__ = ["Backend", "Config", "Work", "make"]


def _reference(work: Work) -> Backend:
    from .reference.backend import ReferenceBackend

    return ReferenceBackend(work)


def _dali(work: Work) -> Backend:
    from .dali.backend import DaliBackend

    return DaliBackend(work)


_BACKENDS: Dict[str, Callable[[Work], Backend]] = {
    "native": NativeBackend,
    "reference": _reference,
    "dali": _dali,
}


def make(name: str, work: Work) -> Backend:
    """The backend of that name.

    Raises: ValueError for an unknown name, or for a device that it cannot use; ImportError for a
        package that is not installed.
    """
    if name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, not {name!r}")
    device = work.config.device
    if name != "dali" and device != "cpu":
        raise ValueError(
            f"device={device!r} needs backend='dali'; the {name} backend makes its batches in the "
            "memory of the host"
        )
    return _BACKENDS[name](work)
