"""How a step runs on a device: `tf2` on TensorFlow 2, `estimator` on TensorFlow 1.15."""

from typing import Any


def choose() -> Any:
    """The module whose `open_device` and `Engine` are for this TensorFlow."""
    import tensorflow as tf

    if tf.__version__.startswith("1."):
        from . import estimator as engine
    else:
        from . import tf2 as engine  # type: ignore[no-redef]
    return engine


def several_processes() -> bool:
    """Whether the environment says that this process is one of several.

    Raises: ValueError for a TF_CONFIG or RANK_SIZE that is not valid.
    """
    from . import ascend, devices

    return devices.cluster().workers > 1 or ascend.several_ranks()


def require_one_process(what: str) -> None:
    """Raises ValueError if this process is one of several; see `several_processes`."""
    if several_processes():
        raise ValueError(f"{what} runs in one process: start it without pretexture launch")
