"""The order of an epoch: a pure function from positions to record numbers.

Nothing is shuffled and nothing is stored. A keyed permutation (see `draws.permute`) says which
record stands at a position, so an epoch can be entered at any position and shared by any number of
workers.
"""

import dataclasses
from typing import List, Sequence, Tuple, Union

import numpy as np

from .. import _core
from . import draws


@dataclasses.dataclass(frozen=True)
class WindowShuffle:
    """Shuffles within a moving window, for storage on which random access is slow.

    The data set is cut into blocks of consecutive records; the last block may be shorter. The
    blocks are permuted, and every `blocks` of them in that order form a window; the last window may
    have fewer. Records are permuted within their window. So at any time only the blocks of one
    window, and of the next one, are being read.

    Args:
        block: number of records in a block.
        blocks: number of blocks in a window.
    """

    block: int = 1024
    blocks: int = 16

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**32:
                raise ValueError(
                    f"{field.name} must be a whole number from 1 to 2**32 - 1, not {value!r}"
                )


Shuffle = Union[bool, WindowShuffle]


def record_at(seed: int, epoch: int, n: int, shuffle: Shuffle, position: int) -> int:
    """The record at `position` of an epoch over `n` records.

    True permutes all records, False leaves them in file order. Each takes constant time and no
    memory.
    """
    if isinstance(shuffle, WindowShuffle):
        return _in_windows(seed, epoch, n, shuffle, position)
    if shuffle:
        return draws.permute(seed, epoch, draws.ORDER_RECORDS, 0, n, position)
    return position


def records_at(
    seed: int, epoch: int, n: int, shuffle: Shuffle, positions: Sequence[int]
) -> np.ndarray:
    """`record_at` for several positions, by the compiled core: int64, one for each."""
    order = (seed, epoch, n, *core_arguments(shuffle))
    return np.array([_core.record_at(*order, int(position)) for position in positions], np.int64)


def core_arguments(shuffle: Shuffle) -> Tuple[str, int, int]:
    """What the compiled core is told about a shuffle: its kind, block and blocks."""
    if isinstance(shuffle, WindowShuffle):
        return "window", shuffle.block, shuffle.blocks
    return "global" if shuffle else "none", 1, 1


def window_at(seed: int, epoch: int, n: int, shuffle: WindowShuffle, position: int) -> int:
    """The number of the window that has a position of an epoch over `n` records."""
    return _Windows(seed, epoch, n, shuffle).at(position)


def window_blocks(
    seed: int, epoch: int, n: int, shuffle: WindowShuffle, window: int
) -> List[Tuple[int, int]]:
    """The records of a window: for each of its blocks the first record and the end."""
    windows = _Windows(seed, epoch, n, shuffle)
    first, end = windows.places(window)
    chosen = [windows.block(place) * shuffle.block for place in range(first, end)]
    return [(begin, min(begin + shuffle.block, n)) for begin in chosen]


def _in_windows(seed: int, epoch: int, n: int, shuffle: WindowShuffle, position: int) -> int:
    windows, block = _Windows(seed, epoch, n, shuffle), shuffle.block
    window = windows.at(position)
    first, end = windows.places(window)
    begin = windows.start(first)
    size = windows.start(end) - begin
    record = draws.permute(seed, epoch, draws.ORDER_WINDOW, window, size, position - begin)

    # If the window has the short block, records after it are shifted by what that block lacks.
    short = windows.short
    if first <= short < end and record >= windows.start(short + 1) - begin:
        record += windows.missing
    return windows.block(first + record // block) * block + record % block


class _Windows:
    """The order of the blocks in an epoch, cut into windows.

    Attributes:
        count: number of blocks.
        missing: number of records that the last block of the data set lacks.
        short: place of that block in the order; later windows begin earlier because of it.
    """

    def __init__(self, seed: int, epoch: int, n: int, shuffle: WindowShuffle):
        self._key = (seed, epoch)
        self._shuffle = shuffle
        self.count = -(-n // shuffle.block)
        self.missing = self.count * shuffle.block - n
        self.short = draws.permute_inverse(
            seed, epoch, draws.ORDER_BLOCKS, 0, self.count, self.count - 1
        )

    def start(self, place: int) -> int:
        """The first position of the block at `place` in the order."""
        return place * self._shuffle.block - (self.missing if place > self.short else 0)

    def places(self, window: int) -> Tuple[int, int]:
        """The first place of a window in the order, and its end."""
        blocks = self._shuffle.blocks
        return window * blocks, min((window + 1) * blocks, self.count)

    def at(self, position: int) -> int:
        """The number of the window that has a position."""
        window = position // (self._shuffle.block * self._shuffle.blocks)
        return window + (position >= self.start(self.places(window)[1]))

    def block(self, place: int) -> int:
        """The block at a place of the order."""
        return draws.permute(*self._key, draws.ORDER_BLOCKS, 0, self.count, place)
