"""Which positions of an epoch a worker owns, and how they make up its batches.

This is the only copy of this arithmetic in Python; the compiled core has one in `order.cc`.
"""

import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from ..console.arguments import whole
from .order import Shuffle, records_at

Position = Tuple[int, int]  # epoch and batch


@dataclasses.dataclass(frozen=True)
class WorkerShare:
    """What one of several workers reads in every epoch.

    Worker w of W owns the positions w, w + W, … of the epoch's order.

    Attributes:
        num_records: number of records in the data set.
        seed, shuffle: seed and kind of the order.
        worker, workers: number of this worker, counted from 0, and number of workers.
        batch_size: records per batch.
        drop_remainder: whether an incomplete last batch is left out. Every worker then has the same
            number of batches.
    """

    num_records: int
    seed: int
    shuffle: Shuffle
    worker: int
    workers: int
    batch_size: int
    drop_remainder: bool

    @property
    def size(self) -> int:
        """Positions that this worker owns."""
        if self.drop_remainder:
            return self.num_records // self.workers
        return -(-(self.num_records - self.worker) // self.workers)

    @property
    def batches(self) -> int:
        """Batches per epoch."""
        if self.drop_remainder:
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def positions(self, batch: int) -> range:
        """The positions of a batch in the order of an epoch."""
        begin = batch * self.batch_size
        end = min(self.size, begin + self.batch_size)
        return range(
            self.worker + self.workers * begin, self.worker + self.workers * end, self.workers
        )

    def records(self, epoch: int, batch: int) -> np.ndarray:
        """The records that belong in a batch, int64; one that is skipped gives way to another."""
        return records_at(self.seed, epoch, self.num_records, self.shuffle, self.positions(batch))

    def state(self, epoch: int, batch: int) -> Dict[str, Any]:
        """The state of a loader whose next batch is this one; see `Loader.state_dict`."""
        return {"version": 1, "epoch": epoch, "batch": batch, **self._identity()}

    def position(self, state: Mapping[str, Any]) -> Position:
        """The batch that a state says comes next; equal to `batches` at the end of an epoch.

        Raises: ValueError naming the entry that does not fit this share.
        """
        if not isinstance(state, dict) or state.get("version") != 1:
            raise ValueError("not the state of a Loader, or the state of another version")
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise ValueError(
                    f"the state was taken with {key}={state.get(key)!r}, this Loader has {value!r}"
                )
        epoch = whole("epoch in the state", state.get("epoch"), 0, 2**32 - 1)
        batch = whole("batch in the state", state.get("batch"), 0, self.batches)
        return epoch, batch

    def _identity(self) -> Dict[str, Any]:
        """The values that the sequence of record numbers depends on."""
        return {
            "seed": self.seed,
            "records": self.num_records,
            "batch_size": self.batch_size,
            "shard": [self.worker, self.workers],
            "shuffle": repr(self.shuffle),
            "drop_remainder": self.drop_remainder,
        }

    def after(self, epoch: int, batch: int, into_next_epoch: bool) -> Optional[Position]:
        """The batch after this one; None at the end of an epoch, unless the next one follows."""
        if batch + 1 < self.batches:
            return epoch, batch + 1
        return (epoch + 1, 0) if into_next_epoch else None
