"""A `Loader` as a PyTorch iterable dataset."""

from typing import Any, Iterator, Tuple

from .loader import Loader

try:
    import torch
    from torch.utils.data import IterableDataset
except ImportError:
    raise ImportError("PyTorch is not installed: pip install 'pretexture[torch]'") from None


class LoaderDataset(IterableDataset):
    """One epoch of the loader for each iteration.

    Elements are whole batches (image, label, index) of tensors that share the loader's memory; use
    it as it is, or in a `torch.utils.data.DataLoader` with `batch_size=None` and no workers: the
    loader's threads take their place.
    """

    def __init__(self, loader: Loader):
        super().__init__()
        self.loader = loader

    def __iter__(self) -> Iterator[Tuple[Any, Any, Any]]:
        for batch in self.loader:
            yield (
                torch.from_numpy(batch.image),
                torch.from_numpy(batch.label),
                torch.from_numpy(batch.index),
            )

    def __len__(self) -> int:
        return len(self.loader)
