"""Batches as the engines need them; no TensorFlow."""

from typing import Any, Iterator, Tuple

import numpy as np
from pretexture.loader.loader import Batch

from ..runs.skipped import replaced


def endless(loader: Any) -> Iterator[Tuple[Any, int]]:
    """A loader's batches, epoch after epoch, each with how many of its records are replacements."""
    while True:
        for batch in loader:
            yield batch, int(replaced(loader, batch).sum())


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
