"""The Loader's batches in PyTorch on a GPU, copied while the next ones are made."""

from typing import Any, Dict, Iterator, Tuple

import torch
from pretexture.loader.torch import LoaderDataset
from torch.utils.data import DataLoader

from .jobs import Job, Source
from .pretexture_loader import Batches

DEVICE = "cuda"


def open(job: Job) -> Source:
    """The batches of a job. Raises: RuntimeError if PyTorch sees no GPU."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
    return _Batches(job)


class _Batches(Source):
    def __init__(self, job: Job):
        self._batches = Batches(job)

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        # A thread of the DataLoader copies each batch to pinned memory; the GPU fetches it from
        # there while the next one is being made.
        batches = DataLoader(LoaderDataset(self._batches.loader), batch_size=None, pin_memory=True)
        while True:
            for image, label, _ in batches:
                if isinstance(image, tuple):
                    yield tuple(map(_to_gpu, image)), _to_gpu(label)
                else:
                    yield _to_gpu(image), _to_gpu(label)

    def times(self) -> Dict[str, float]:
        return self._batches.times()


def _to_gpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(DEVICE, non_blocking=True)
