"""A `Loader` as a PyTorch iterable dataset."""

import warnings
from typing import Any, Dict, Iterator, NamedTuple, Tuple, Union

import numpy as np

from .loader import Loader

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError:
    raise ImportError("PyTorch is not installed: pip install 'pretexture[torch]'") from None


class TensorBatch(NamedTuple):
    """A batch of tensors, with the fields of `pretexture.loader.Batch`.

    If the pipeline has several branches, `image` is a tuple of tensors.
    """

    image: Union[torch.Tensor, Tuple[torch.Tensor, ...]]
    label: torch.Tensor
    index: torch.Tensor


class LoaderDataset(IterableDataset):
    """One epoch of the loader for each iteration.

    Elements are whole batches, `TensorBatch(image, label, index)`, whose tensors share the loader's
    memory. Use the dataset directly, or in a `torch.utils.data.DataLoader` (or torchdata's
    `StatefulDataLoader`) with `batch_size=None` and no workers: the loader has threads instead.

    `state_dict`, `load_state_dict` and `set_epoch` are those of the loader, so that a
    StatefulDataLoader and Lightning continue in the middle of an epoch with the batches that would
    have come next. A dataset can be pickled, so processes can be spawned with it; make its loader
    with `shard="auto"` if several ranks train together.

    Args:
        loader: the loader.
        elastic: whether `load_state_dict` accepts the state of another rank, as Lightning needs it,
            which saves that of rank 0, and of another number of ranks or batch size; see
            `Loader.load_state_dict`.

    Raises: RuntimeError in a worker process of a DataLoader, or if a DataLoader collates batches
        into batches. Warns if a rank of a process group reads another rank's records.
    """

    def __init__(self, loader: Loader, elastic: bool = False):
        super().__init__()
        self.loader = loader
        self._elastic = elastic
        self._warned = False

    def __iter__(self) -> Iterator[TensorBatch]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "LoaderDataset cannot be used in worker processes; use num_workers=0: the Loader "
                "has threads of its own"
            )
        self._check_ranks()
        return map(_tensors, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> Dict[str, Any]:
        """The state of the loader; see `Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Continues from `state`; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state, elastic=self._elastic)

    def set_epoch(self, epoch: int) -> None:
        """Makes an epoch the next one; see `Loader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def _check_ranks(self) -> None:
        distributed = torch.distributed
        if self._warned or not (distributed.is_available() and distributed.is_initialized()):
            return
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        worker, workers = self.loader.shard
        if ranks > 1 and workers == ranks and worker != rank:
            self._warned = True
            warnings.warn(
                f"rank {rank} of {ranks} reads the records of shard=({worker}, {workers}), as "
                f"another rank may do; make its Loader with shard=({rank}, {ranks})",
                stacklevel=3,
            )


def _tensors(batch: Any) -> TensorBatch:
    image = batch.image
    return TensorBatch(
        tuple(map(_tensor, image)) if isinstance(image, tuple) else _tensor(image),
        torch.from_numpy(batch.label),
        torch.from_numpy(batch.index),
    )


def _tensor(array: Any) -> Any:
    # DALI's images on a GPU are not NumPy arrays.
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else torch.from_dlpack(array)


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError(
        "a LoaderDataset gives whole batches, and this DataLoader would collate them into batches "
        "of batches; use DataLoader(dataset, batch_size=None)"
    )


try:  # PyTorch 2.0 and later
    from torch.utils.data._utils.collate import default_collate_fn_map
except ImportError:
    pass
else:
    default_collate_fn_map[TensorBatch] = _refuse
