"""Batches as the engines need them; no TensorFlow."""

from typing import Any, Iterator

import numpy as np
from pretexture.loader.loader import Batch


def endless(loader: Any) -> Iterator[Any]:
    """A loader's batches, epoch after epoch."""
    while True:
        yield from loader


def padded(batch: Any, size: int) -> Any:
    """A batch of exactly `size` images; record number -1 marks those that were added."""
    missing = size - len(batch.index)
    if not missing:
        return batch
    image, label, index = batch.image, batch.label, batch.index
    return Batch(
        np.concatenate([image, np.zeros((missing, *image.shape[1:]), image.dtype)]),
        np.concatenate([label, np.zeros((missing, *label.shape[1:]), label.dtype)]),
        np.concatenate([index, np.full(missing, -1, index.dtype)]),
    )
