"""Choosing a GPU, in the words that TensorFlow has had for it since 1.15."""

from typing import Any, Optional

import tensorflow as tf


def choose_gpu(name: str) -> Optional[Any]:
    """The first GPU, the only one that is then visible; None for the CPU.

    Args:
        name: "auto" takes a GPU where there is one; "cpu" or "gpu".

    Raises: ValueError where a GPU is asked for and there is none.
    """
    config = tf.config.experimental
    gpus = config.list_physical_devices("GPU")
    if name == "gpu" and not gpus:
        raise ValueError(
            f"--device gpu: TensorFlow {tf.__version__} sees no GPU "
            f"({'it is' if tf.test.is_built_with_cuda() else 'and it is not'} built for CUDA)"
        )
    if name == "cpu":
        config.set_visible_devices([], "GPU")
    if name == "cpu" or not gpus:
        return None
    for gpu in gpus:
        config.set_memory_growth(gpu, True)
    config.set_visible_devices(gpus[:1], "GPU")
    return gpus[0]
