"""Random draws and permutations as pure functions.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a key
(the seed) and a counter into four 32-bit words. Every random decision of the pipeline is one such
call, so it depends only on the seed and on what its counter names:

    counter = (branch << 16 | block, stream << 16 | view, record number, epoch)

`branch` is the number of the pipeline's branch, 0 in a pipeline without branches.
`stream` is the stream of random numbers of an operation (see `language.ops`). `view` is the number
of the view that the decision is about: 0 before any split, afterwards the view's place in the
flattened order of the splits so far. `Patches` counts the patches that it makes, `Jigsaw` and
`Pair` count the groups of patches, and all others count the views that they are given. Streams from
0xfff0 on belong to the loader.

The words of a block turn into
    uniform(word)        word / 2**32, a double in [0, 1)
    below(word, n)       (word * n) >> 32, an integer in 0..n-1

and into the decisions of the operations. With w0..w3 the words of block 0:
    Resize (randomize)   method number below(w0, 4) of `ops.METHODS`
    Crop                 top = below(w0, H - h + 1), left = below(w1, W - w + 1)
    InceptionCrop        try t uses block t; see `inception_crop`
    Flip                 mirrored if uniform(w0) < 0.5
    RandomResizedCrop    try t uses block t; see `random_resized_crop`
    Gray                 grey if uniform(w0) < probability
    Distort              order: fast: 0 if uniform(w0) < 0.25, else 1; slow: below(w0, 4)
                         brightness (2 uniform(w1) - 1) * 32, on values of [0, 255]
                         saturation 0.5 + uniform(w2)
                         hue (2 uniform(w3) - 1) * 0.2, contrast 0.5 + uniform(w0 of block 1)
    ColorJitter          as Gray; its parts in the order of permutation number below(w1, 24) of
                         (brightness, contrast, saturation, hue), counted lexicographically; the
                         amount of each is low + (high - low) * uniform(word), with w0..w3 of
                         block 1 for the parts as they are written here
    Blur                 as Gray; sigma = low + (high - low) * uniform(w1)
    Solarize             as Gray
    Erase                as Gray; try t uses block 1 + t; see `erased`
    Patches              top = below(w0, jitter + 1), left = below(w1, jitter + 1) in its cell
    Jigsaw, Pair         label below(w0, number of labels)

With `on_error="skip"`, a record that cannot be used is replaced by record below(w0, records). The
words are those of stream 0xfffc, view 0 and the number of the record that is replaced, in block 0;
if that record cannot be used either, in block 1, and so on.

The order of an epoch is a permutation of 0..n-1 computed index by index: a Feistel network of six
rounds on the smallest even number of bits (at least 2) that holds n - 1, applied again and again
until the result is below n (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
2002). With half = bits / 2, round r maps (left, right) to (right, left ^ f(right)), and f(right) is
the low `half` bits of w0 of the counter (right, domain << 16 | r, which, epoch).
"""

import math
from typing import Tuple

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

# The domains of the permutations, and the stream of replacements; see the top of the module.
ORDER_RECORDS = 0xFFFF
ORDER_BLOCKS = 0xFFFE
ORDER_WINDOW = 0xFFFD
REPLACEMENT = 0xFFFC
FEISTEL_ROUNDS = 6

Words = Tuple[int, int, int, int]


def philox(seed: int, counter: Words) -> Words:
    """The four 32-bit words of Philox4x32-10 for a 64-bit seed and four 32-bit counter words."""
    x0, x1, x2, x3 = counter
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(10):
        p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 & _MASK, (p0 >> 32) ^ x3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return x0, x1, x2, x3


def uniform(word: int) -> float:
    """A double in [0, 1)."""
    return word / 2**32


def below(word: int, n: int) -> int:
    """An integer in 0..n-1."""
    return (word * n) >> 32


class Draws:
    """The random draws of one branch of the pipeline for one record in one epoch."""

    def __init__(self, seed: int, epoch: int, record: int, branch: int = 0):
        self._seed, self._epoch, self._record, self._branch = seed, epoch, record, branch

    def block(self, stream: int, view: int, block: int = 0) -> Words:
        """The four words of one block of a stream."""
        counter = (self._branch << 16 | block, stream << 16 | view, self._record, self._epoch)
        return philox(self._seed, counter)


def inception_crop(
    draws: Draws,
    stream: int,
    view: int,
    height: int,
    width: int,
    area: Tuple[float, float],
    aspect: Tuple[float, float],
    last_position: bool = True,
) -> Tuple[int, int, int, int]:
    """Top, left, height and width of a random window, drawn as by `sample_distorted_bounding_box`.

    TensorFlow's function never draws the last of several positions; this one may if `last_position`
    is set. Halves are rounded to even, and everything is computed in doubles.
    """
    smallest, largest = area[0] * (height * width), area[1] * (height * width)
    for attempt in range(100):
        w0, w1, w2, w3 = draws.block(stream, view, attempt)
        ratio = aspect[0] + (aspect[1] - aspect[0]) * uniform(w0)
        low, high = round(math.sqrt(smallest / ratio)), round(math.sqrt(largest / ratio))
        if round(high * ratio) > width:
            high = int((width + 0.5 - 1e-7) / ratio)
            if round(high * ratio) > width:
                high -= 1
        high = min(high, height)
        low = min(low, high)
        h = low + below(w1, high - low + 1)
        w = round(h * ratio)
        covered = h * w
        if h < 1 or w < 1 or w > width or not smallest <= covered <= largest:
            continue
        if covered < 0.1 * (height * width):
            continue
        down, across = (
            room + 1 if last_position else max(1, room) for room in (height - h, width - w)
        )
        return below(w2, down), below(w3, across), h, w
    return 0, 0, height, width


def random_resized_crop(
    draws: Draws,
    stream: int,
    view: int,
    height: int,
    width: int,
    area: Tuple[float, float],
    aspect: Tuple[float, float],
    log_aspect: Tuple[float, float],
) -> Tuple[int, int, int, int]:
    """Top, left, height and width of a random window, drawn as by torchvision's RandomResizedCrop.

    Halves are rounded to even, and everything is computed in doubles. After ten tries it is the
    largest central window whose aspect ratio is in the range.
    """
    for attempt in range(10):
        w0, w1, w2, w3 = draws.block(stream, view, attempt)
        w, h = _sides(height * width, area, log_aspect, w0, w1)
        if 0 < w <= width and 0 < h <= height:
            return below(w2, height - h + 1), below(w3, width - w + 1), h, w
    h, w = height, width
    if width / height < aspect[0]:
        h = round(width / aspect[0])
    elif width / height > aspect[1]:
        w = round(height * aspect[1])
    return (height - h) // 2, (width - w) // 2, h, w


def _sides(
    pixels: int, area: Tuple[float, float], log_aspect: Tuple[float, float], w0: int, w1: int
) -> Tuple[int, int]:
    """Sides of a rectangle with a share of `pixels` from `area` and a ratio first / second side."""
    part = pixels * (area[0] + (area[1] - area[0]) * uniform(w0))
    ratio = math.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * uniform(w1))
    return round(math.sqrt(part * ratio)), round(math.sqrt(part / ratio))


def erased(
    draws: Draws,
    stream: int,
    view: int,
    height: int,
    width: int,
    area: Tuple[float, float],
    log_aspect: Tuple[float, float],
) -> Tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle, drawn as by torchvision's RandomErasing.

    After ten tries it is empty.
    """
    for attempt in range(10):
        w0, w1, w2, w3 = draws.block(stream, view, 1 + attempt)
        h, w = _sides(height * width, area, log_aspect, w0, w1)
        if h < height and w < width:
            return below(w2, height - h + 1), below(w3, width - w + 1), h, w
    return 0, 0, 0, 0


def permute(seed: int, epoch: int, domain: int, which: int, n: int, index: int) -> int:
    """The number that the keyed permutation of 0..n-1 sends `index` to.

    `domain` and `which` tell the permutations of one seed and epoch apart.
    """
    half = _half_bits(n)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for r in range(FEISTEL_ROUNDS):
            word = philox(seed, (right, domain << 16 | r, which, epoch))[0]
            left, right = right, left ^ (word & mask)
        index = left << half | right
        if index < n:
            return index


def permute_inverse(seed: int, epoch: int, domain: int, which: int, n: int, index: int) -> int:
    """The number that `permute` sends to `index`: the same rounds, undone from the last one."""
    half = _half_bits(n)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for r in reversed(range(FEISTEL_ROUNDS)):
            word = philox(seed, (left, domain << 16 | r, which, epoch))[0]
            left, right = right ^ (word & mask), left
        index = left << half | right
        if index < n:
            return index


def _half_bits(n: int) -> int:
    return max(1, ((n - 1).bit_length() + 1) // 2)
