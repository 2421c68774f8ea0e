"""Random windows for contenders that have none of their own."""

import math
import random
from typing import NamedTuple

ASPECT, AREA = (3 / 4, 4 / 3), (0.05, 1.0)


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_window(draw: random.Random, height: int, width: int) -> Window:
    """An Inception crop as torchvision's `RandomResizedCrop` draws it."""
    for _ in range(10):
        area = draw.uniform(*AREA) * height * width
        aspect = math.exp(draw.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return Window(draw.randint(0, height - h), draw.randint(0, width - w), h, w)
    return Window(0, 0, height, width)


def random_patch(draw: random.Random, patch: int, cell: int, jitter: int) -> Window:
    """The place of patch number `patch` of 3 x 3, drawn within its cell."""
    top, left = (cell * place for place in divmod(patch, 3))
    side = cell - jitter
    return Window(top + draw.randint(0, jitter), left + draw.randint(0, jitter), side, side)
