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
        begin: an epoch, and the position from which on it is read, because other workers have read
            what comes before. Other epochs are read from position 0.
    """

    num_records: int
    seed: int
    shuffle: Shuffle
    worker: int
    workers: int
    batch_size: int
    drop_remainder: bool
    begin: Tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Positions that this worker owns in a whole epoch."""
        return self._size(self.num_records)

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return self._batches(self.num_records)

    def start(self, epoch: int) -> int:
        """The position from which on an epoch is read."""
        return self.begin[1] if epoch == self.begin[0] else 0

    def batches_in(self, epoch: int) -> int:
        """Batches of an epoch."""
        return self._batches(self.num_records - self.start(epoch))

    def positions(self, epoch: int, batch: int) -> range:
        """The positions of a batch in the order of an epoch."""
        start = self.start(epoch)
        begin = batch * self.batch_size
        end = min(self._size(self.num_records - start), begin + self.batch_size)
        first = start + self.worker
        return range(first + self.workers * begin, first + self.workers * end, self.workers)

    def _size(self, positions: int) -> int:
        """How many of so many positions this worker owns."""
        if self.drop_remainder:
            return positions // self.workers
        return -(-(positions - self.worker) // self.workers)

    def _batches(self, positions: int) -> int:
        if self.drop_remainder:
            return self._size(positions) // self.batch_size
        return -(-self._size(positions) // self.batch_size)

    def records(self, epoch: int, batch: int) -> np.ndarray:
        """The records that belong in a batch, int64; one that is skipped gives way to another."""
        positions = self.positions(epoch, batch)
        return records_at(self.seed, epoch, self.num_records, self.shuffle, positions)

    def state(self, epoch: int, batch: int) -> Dict[str, Any]:
        """The state of a loader whose next batch is this one; see `Loader.state_dict`."""
        state = {"version": 1, "epoch": epoch, "batch": batch, **self._identity()}
        if self.start(epoch):
            # A version that does not know this entry must not load the state.
            state.update(version=2, begin=list(self.begin))
        return state

    def position(self, state: Mapping[str, Any]) -> Position:
        """The batch that a state of a share with the same `begin` says comes next.

        Raises: ValueError naming the entry that does not fit this share.
        """
        _, epoch, batch = self.resume(state)
        return epoch, batch

    def resume(
        self, state: Mapping[str, Any], elastic: bool = False
    ) -> Tuple["WorkerShare", int, int]:
        """This share as it continues from a state.

        Args:
            state: state of a loader.
            elastic: whether the state may be of another number of workers or another batch size.
                What these workers had read is then left out, to the very record.

        Returns: the share, with `begin` set; the epoch; and the batch that comes next in it, which
            is `batches_in(epoch)` at its end.
        Raises: ValueError naming the entry that does not fit this share.
        """
        if not isinstance(state, dict) or state.get("version") not in (1, 2):
            raise ValueError("not the state of a Loader, or the state of another version")
        for key, value in self._identity().items():
            if state.get(key) != value and not (elastic and key in ("batch_size", "shard")):
                hint = ""
                if key in ("batch_size", "shard"):
                    hint = "; load_state_dict(state, elastic=True) continues from the same place"
                raise ValueError(
                    f"the state was taken with {key}={state.get(key)!r}, this Loader has "
                    f"{value!r}{hint}"
                )
        epoch = whole("epoch in the state", state.get("epoch"), 0, 2**32 - 1)
        begin = _pair("begin", state.get("begin", [0, 0]) if state["version"] == 2 else [0, 0])
        whole("begin in the state", begin[1], 0, self.num_records)
        _, workers = _pair("shard", state.get("shard"))
        before = dataclasses.replace(
            self,
            begin=begin,
            workers=whole("workers in the state", workers, 1, 2**31 - 1),
            batch_size=whole("batch_size in the state", state.get("batch_size"), 1, 2**31 - 1),
        )
        if elastic:
            before = dataclasses.replace(before, worker=0)
        batch = whole("batch in the state", state.get("batch"), 0, before.batches_in(epoch))
        if (before.workers, before.batch_size) == (self.workers, self.batch_size):
            return dataclasses.replace(self, begin=begin), epoch, batch
        read = before.start(epoch) + before.workers * before.batch_size * batch
        after = dataclasses.replace(self, begin=(epoch, read) if read else (0, 0))
        at_end = read >= self.num_records or (self.drop_remainder and not after.batches_in(epoch))
        if at_end or 0 < batch == before.batches_in(epoch):
            return dataclasses.replace(self, begin=(0, 0)), epoch + 1, 0
        return after, epoch, 0

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
        if batch + 1 < self.batches_in(epoch):
            return epoch, batch + 1
        return (epoch + 1, 0) if into_next_epoch else None


def _pair(name: str, value: Any) -> Tuple[int, int]:
    """Two numbers of a state. Raises: ValueError."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name} in the state must be two numbers, not {value!r}")
    first, second = (whole(f"{name} in the state", x, 0, 2**32 - 1) for x in value)
    return first, second
