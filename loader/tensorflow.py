"""A `Loader` as a `tf.data.Dataset`, on TensorFlow 1.15, 2.6 and current."""

import inspect
from typing import Any

from .loader import Batch, Loader


def dataset(loader: Loader) -> Any:
    """One epoch of the loader for each iteration of the dataset.

    Elements are `Batch(image, label, index)` of tensors with static shapes (but for the batch size
    where the loader keeps an incomplete last batch). The loader prefetches, so `.prefetch` is
    needed only to overlap the copy to a device.

    Raises: ImportError where TensorFlow is not installed; whatever the loader raises reaches the
        consumer as a TensorFlow error that quotes it.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError(
            "TensorFlow is not installed: pip install 'pretexture[tensorflow]'"
        ) from None

    spec = loader.element_spec
    from_generator = tf.data.Dataset.from_generator
    if "output_signature" in inspect.signature(from_generator).parameters:
        signature = Batch(*(tf.TensorSpec(s.shape, s.dtype) for s in spec))
        return from_generator(lambda: iter(loader), output_signature=signature)
    types = Batch(*(tf.as_dtype(s.dtype) for s in spec))
    shapes = Batch(*(tf.TensorShape(s.shape) for s in spec))
    return from_generator(lambda: iter(loader), types, shapes)
