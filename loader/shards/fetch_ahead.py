"""Which shards are read now and which come next, for remote records."""

from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..epoch.order import WindowShuffle, window_at, window_blocks
from ..epoch.sharding import WorkerShare
from .access import Shards
from .cache import FETCHERS
from .index import Index

_Place = Tuple[int, int]  # epoch; and number of the window, or in file order of the shard


class FetchAhead:
    """Tells remote shards what a Loader is going to read.

    In file order that is one shard after the other; with a `WindowShuffle` it is the shards of a
    whole window, then those of the next window. A global shuffle reads from all shards at once, so
    there is nothing to tell.

    Args:
        shards: told what comes.
        index: index of the shards.
        share: what the worker reads.
        prefetch: batches made ahead of the one in use.
        run_ahead: whether batches of the next epoch are made before this one ends.
    """

    def __init__(
        self, shards: Shards, index: Index, share: WorkerShare, prefetch: int, run_ahead: bool
    ):
        self._shards = shards
        self._begin = index.shard_begin
        self._share = share
        self._prefetch = prefetch
        self._run_ahead = run_ahead
        self._said: Optional[Tuple[_Place, _Place]] = None

    def at(self, epoch: int, batch: int) -> None:
        """Tells what is read for this batch, for those made ahead of it, and afterwards."""
        if self._share.shuffle is True:
            return
        share = self._share
        first = self._place(epoch, batch, 0)
        end, ahead = epoch, batch + self._prefetch
        while ahead >= share.batches_in(end):
            if not self._run_ahead:
                ahead = share.batches_in(end) - 1
                break
            ahead -= share.batches_in(end)
            end += 1
        last = self._place(end, ahead, -1)
        if (first, last) == self._said:
            return
        self._said = (first, last)
        now = self._shards_of(first)
        place = first
        while place != last:
            place = self._after(place)
            now += self._shards_of(place)
        following: List[int] = []
        for _ in range(1 if isinstance(self._share.shuffle, WindowShuffle) else FETCHERS):
            place = self._after(place)
            if place[0] == epoch or self._run_ahead:
                following += self._shards_of(place)
        self._shards.expect(_unique(now), _unique(following))

    def _place(self, epoch: int, batch: int, which: int) -> _Place:
        """The window or shard of a batch's first (0) or last (-1) record."""
        share = self._share
        position = share.positions(epoch, batch)[which]
        if isinstance(share.shuffle, WindowShuffle):
            window = window_at(share.seed, epoch, share.num_records, share.shuffle, position)
            return epoch, window
        return epoch, int(np.searchsorted(self._begin, position, side="right")) - 1

    def _after(self, place: _Place) -> _Place:
        epoch, number = place
        last = self._place(epoch, self._share.batches_in(epoch) - 1, -1)
        return (epoch + 1, 0) if place >= last else (epoch, number + 1)

    def _shards_of(self, place: _Place) -> List[int]:
        epoch, number = place
        share = self._share
        if not isinstance(share.shuffle, WindowShuffle):
            return [number]
        shards: List[int] = []
        for begin, end in window_blocks(
            share.seed, epoch, share.num_records, share.shuffle, number
        ):
            first, last = np.searchsorted(self._begin, [begin, end - 1], side="right") - 1
            shards += range(int(first), int(last) + 1)
        return shards


def _unique(shards: Sequence[int]) -> List[int]:
    return list(dict.fromkeys(shards))
