"""How a step is run on a device: `tf2` on TensorFlow 2, `estimator` on TensorFlow 1.15."""

from typing import Any

import tensorflow as tf


def choose() -> Any:
    """The module whose `open_device` and `Engine` this TensorFlow takes."""
    if tf.__version__.startswith("1."):
        from . import estimator as engine
    else:
        from . import tf2 as engine  # type: ignore[no-redef]
    return engine
