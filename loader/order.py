"""The order of an epoch: a pure function from positions to record numbers.

Nothing is shuffled and nothing stored. A keyed permutation (see `draws.permute`) says which record
stands at a position, so that an epoch can be entered anywhere and shared among any workers.
"""

import dataclasses
from typing import Union

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


def _in_windows(seed: int, epoch: int, n: int, shuffle: WindowShuffle, position: int) -> int:
    block, blocks = shuffle.block, shuffle.blocks
    count = -(-n // block)
    missing = count * block - n  # records by which the last block of the data set is short
    # Where the order of blocks puts that one decides where the windows after it begin.
    short = draws.permute_inverse(seed, epoch, draws.ORDER_BLOCKS, 0, count, count - 1)

    def start(place: int) -> int:
        """The first position of the block at `place` in the order of blocks."""
        return place * block - (missing if place > short else 0)

    window = position // (block * blocks)
    if position >= start(min((window + 1) * blocks, count)):
        window += 1
    first, end = window * blocks, min((window + 1) * blocks, count)
    size = start(end) - start(first)
    place = position - start(first)
    record = draws.permute(seed, epoch, draws.ORDER_WINDOW, window, size, place)

    # Count through the window's blocks: behind the short one, every record is `missing` further.
    if first <= short < end and record >= start(short + 1) - start(first):
        record += missing
    chosen = draws.permute(seed, epoch, draws.ORDER_BLOCKS, 0, count, first + record // block)
    return chosen * block + record % block
