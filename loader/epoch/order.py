"""The order of an epoch: a pure function from positions to record numbers.

Nothing is shuffled and nothing stored. A keyed permutation (see `draws.permute`) says which record
stands at a position, so that an epoch can be entered anywhere and shared among any workers.
"""

import dataclasses
from typing import List, Sequence, Tuple, Union

import numpy as np

from .. import _core
from . import draws


@dataclasses.dataclass(frozen=True)
class WindowShuffle:
    """Shuffles within a moving window, for storage where reading all over the data set is slow.

    The data set is cut into blocks of consecutive records, the last of which may be shorter. The
    blocks are permuted; every `blocks` of that order form a window, of which the last may hold
    fewer; and records are permuted within their window. So at any time only one window's blocks,
    and the next one's, are being read.

    Args:
        block: records in a block.
        blocks: blocks in a window.
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
    """The record at `position` of an epoch over `n` records; each stands at one position.

    True permutes all records, False leaves them in file order. Every case takes constant time and
    no memory.
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
    """The window that holds a position of an epoch over `n` records."""
    return _Windows(seed, epoch, n, shuffle).at(position)


def window_blocks(
    seed: int, epoch: int, n: int, shuffle: WindowShuffle, window: int
) -> List[Tuple[int, int]]:
    """The records of a window: for each of its blocks the first, and the one behind the last."""
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

    # Count through the window's blocks: behind the short one, every record is further on by what
    # it lacks.
    short = windows.short
    if first <= short < end and record >= windows.start(short + 1) - begin:
        record += windows.missing
    return windows.block(first + record // block) * block + record % block


class _Windows:
    """The order of the blocks in an epoch, cut into windows.

    Attributes:
        count: blocks.
        missing: records by which the last block of the data set is short.
        short: the place of that one in the order; it decides where later windows begin.
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
        """The window's first place in the order, and the one behind its last."""
        blocks = self._shuffle.blocks
        return window * blocks, min((window + 1) * blocks, self.count)

    def at(self, position: int) -> int:
        """The window that holds a position."""
        window = position // (self._shuffle.block * self._shuffle.blocks)
        return window + (position >= self.start(self.places(window)[1]))

    def block(self, place: int) -> int:
        """Which block stands at a place."""
        return draws.permute(*self._key, draws.ORDER_BLOCKS, 0, self.count, place)
