"""Which shards are read now and which come next, for remote records."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..epoch.order import Shuffle, WindowShuffle, window_at, window_blocks
from .cache import FETCHERS, RemoteShards
from .records import Index

_Place = Tuple[int, int]  # epoch; and window, or in file order shard


class Reading(NamedTuple):
    """How a Loader goes through its records; its arguments of the same names say what they are."""

    seed: int
    shuffle: Shuffle
    shard: Tuple[int, int]
    batch_size: int
    batches: int
    prefetch: int
    run_ahead: bool


class FetchAhead:
    """Tells remote shards what a Loader is going to read.

    In file order that is one shard after the other; with a `WindowShuffle` the shards of a whole
    window, and then those of the next. A global shuffle reads everywhere at once, so there is
    nothing to tell.
    """

    def __init__(self, shards: RemoteShards, index: Index, reading: Reading):
        self._shards = shards
        self._begin = index.shard_begin
        self._reading = reading
        self._said: Optional[Tuple[_Place, _Place]] = None

    def at(self, epoch: int, batch: int) -> None:
        """Tells what is read for this batch, those made ahead of it, and afterwards."""
        reading = self._reading
        if reading.shuffle is True:
            return
        first = self._place(epoch, batch, 0)
        ahead = batch + reading.prefetch
        if ahead < reading.batches:
            last = self._place(epoch, ahead, reading.batch_size - 1)
        elif reading.run_ahead:
            ahead -= reading.batches
            further = ahead // reading.batches
            last = self._place(
                epoch + 1 + further, ahead - further * reading.batches, reading.batch_size - 1
            )
        else:
            last = self._place(epoch, reading.batches - 1, reading.batch_size - 1)
        if (first, last) == self._said:
            return
        self._said = (first, last)
        now = self._shards_of(first)
        place = first
        while place != last:
            place = self._after(place)
            now += self._shards_of(place)
        following: List[int] = []
        for _ in range(1 if isinstance(reading.shuffle, WindowShuffle) else FETCHERS):
            place = self._after(place)
            if place[0] == epoch or reading.run_ahead:
                following += self._shards_of(place)
        self._shards.expect(_unique(now), _unique(following))

    def _place(self, epoch: int, batch: int, place: int) -> _Place:
        """Where in the order of an epoch a record of a batch stands."""
        worker, workers = self._reading.shard
        position = worker + workers * (batch * self._reading.batch_size + place)
        position = min(position, self._records - 1)
        if isinstance(self._reading.shuffle, WindowShuffle):
            return epoch, window_at(
                self._reading.seed, epoch, self._records, self._reading.shuffle, position
            )
        return epoch, int(np.searchsorted(self._begin, position, side="right")) - 1

    def _after(self, place: _Place) -> _Place:
        epoch, number = place
        last = self._place(epoch, self._reading.batches - 1, self._reading.batch_size - 1)
        return (epoch + 1, 0) if place >= last else (epoch, number + 1)

    def _shards_of(self, place: _Place) -> List[int]:
        epoch, number = place
        if not isinstance(self._reading.shuffle, WindowShuffle):
            return [number]
        blocks = window_blocks(
            self._reading.seed, epoch, self._records, self._reading.shuffle, number
        )
        shards: List[int] = []
        for begin, end in blocks:
            first, last = np.searchsorted(self._begin, [begin, end - 1], side="right") - 1
            shards += range(int(first), int(last) + 1)
        return shards

    @property
    def _records(self) -> int:
        return int(self._begin[-1])


def _unique(shards: Sequence[int]) -> List[int]:
    return list(dict.fromkeys(shards))
