"""The primitive operations that every backend carries out.

A pipeline's steps are what people write; each turns, for training or for evaluation, into a few of
these. `stream` numbers the operation's random draws (see `pretexture.loader.random`); it depends on
the step's place in the pipeline alone, so that training and evaluation agree on it.
"""

import dataclasses
from typing import Tuple, Union

METHODS = ("bilinear", "nearest", "bicubic", "area")
COORDS = ("half_pixel", "tf1")


@dataclasses.dataclass(frozen=True)
class Views:
    """Splits into n equal views, whose later draws differ."""

    stream: int
    n: int


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resamples to height x width; `randomize` draws the method instead."""

    stream: int
    height: int
    width: int
    method: str
    coords: str
    antialias: bool
    randomize: bool


@dataclasses.dataclass(frozen=True)
class ResizeSmall:
    """Area averaging to a smaller side of `size`, keeping the aspect ratio."""

    stream: int
    size: int


@dataclasses.dataclass(frozen=True)
class Crop:
    """A window of height x width, at a uniform random position or in the centre."""

    stream: int
    height: int
    width: int
    random: bool


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
    """A random window with relative `area` and `aspect` (width / height) in the given ranges.

    Without `last_position` it touches the bottom or the right edge only if it is as high or as wide
    as the image.
    """

    stream: int
    area: Tuple[float, float]
    aspect: Tuple[float, float]
    last_position: bool


@dataclasses.dataclass(frozen=True)
class CentralFraction:
    """The central window left when int(side x (1 - fraction) / 2) pixels go from each edge."""

    stream: int
    fraction: float


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left-right with probability 1/2."""

    stream: int


@dataclasses.dataclass(frozen=True)
class Gray:
    """With the given probability every channel becomes the mean of the three.

    With `wrap` it is the sum of the three bytes modulo 256, divided by three and rounded down.
    """

    stream: int
    probability: float
    wrap: bool


@dataclasses.dataclass(frozen=True)
class Distort:
    """Colour distortion: brightness and saturation; with `fast=False` hue and contrast too."""

    stream: int
    fast: bool


@dataclasses.dataclass(frozen=True)
class Patches:
    """Splits into n x n patches, row by row, each `jitter` pixels smaller than its cell."""

    stream: int
    n: int
    jitter: int
    random: bool


@dataclasses.dataclass(frozen=True)
class Jigsaw:
    """Puts patch `permutations[label][i]` in place i; the label is drawn or the record number's."""

    stream: int
    permutations: Tuple[Tuple[int, ...], ...]
    random: bool


@dataclasses.dataclass(frozen=True)
class Pair:
    """Keeps the centre patch and neighbour number `label`; the label as for `Jigsaw`."""

    stream: int
    random: bool


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Splits into the view turned by 0, 90, 180 and 270 degrees counter-clockwise."""

    stream: int


@dataclasses.dataclass(frozen=True)
class Normalize:
    """x * scale + bias for each channel, on values of [0, 255]."""

    stream: int
    scale: Tuple[float, float, float]
    bias: Tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Standardize:
    """(x - mean) / max(std, 1 / sqrt(n)) over all n values of the view."""

    stream: int


Op = Union[
    Views,
    Resize,
    ResizeSmall,
    Crop,
    InceptionCrop,
    CentralFraction,
    Flip,
    Gray,
    Distort,
    Patches,
    Jigsaw,
    Pair,
    Rotate,
    Normalize,
    Standardize,
]
