"""Changes of colours: how they are drawn for a batch, and the DALI operators that make them."""

import importlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from ...language import ops
from .batch_draws import below, uniform

# The four random words of each view; `block` says which.
_Words = Callable[..., List[np.ndarray]]

# The order of colour changes is drawn for each view, but all views of a batch go through one fixed
# sequence. So the sequence contains every order as a subsequence, and changes of the sequence that
# are not in a view's order get an amount that does nothing. After each sequence come, for every
# order in `reference.ops`, the places of its changes in the sequence.
_FAST = (
    ("brightness", "saturation", "brightness"),
    ((0, 1), (1, 2)),
)
_SLOW = (
    (
        "contrast",
        "hue",
        "brightness",
        "saturation",
        "brightness",
        "contrast",
        "brightness",
        "hue",
        "contrast",
    ),
    ((2, 3, 7, 8), (3, 4, 5, 7), (0, 1, 2, 3), (1, 3, 5, 6)),
)
_NEUTRAL = {"brightness": 0.0, "saturation": 1.0, "hue": 0.0, "contrast": 1.0}


class Color(NamedTuple):
    """A change of colours, on values of [0, 255].

    Attributes:
        kind: "gray" (1: every channel becomes the mean of the three; 0: nothing), "luma" (the same
            with the luma), "brightness"
            (added), "saturation" (factor), "hue" (turn, in circles), "contrast" (factor) or "clip"
            (to [0, 255]; no amount).
        amount: float32 [N, V].
    """

    kind: str
    amount: Optional[np.ndarray] = None


def _gray(op: ops.Gray, words: _Words) -> List[Color]:
    gray = uniform(words()[0]) < op.probability
    return [Color("luma" if op.luma else "gray", gray.astype(np.float32))]


def _distort(op: ops.Distort, words: _Words) -> List[Color]:
    sequence, places = _FAST if op.fast else _SLOW
    w0, w1, w2, w3 = words()
    order = np.where(uniform(w0) < 0.25, 0, 1) if op.fast else below(w0, 4)
    drawn = {
        "brightness": (2 * uniform(w1) - 1) * 32,
        "saturation": 0.5 + uniform(w2),
        "hue": (2 * uniform(w3) - 1) * 0.2,
    }
    if not op.fast:
        drawn["contrast"] = 0.5 + uniform(words(block=1)[0])
    colors = []
    for place, kind in enumerate(sequence):
        here = np.isin(order, [number for number, taken in enumerate(places) if place in taken])
        amount = np.where(here, drawn[kind], _NEUTRAL[kind])
        colors.append(Color(kind, amount.astype(np.float32)))
    return [*colors, Color("clip")]


# How an operation is drawn, for each operation that changes colours.
COLORS: Dict[type, Callable[[Any, _Words], List[Color]]] = {
    ops.Gray: _gray,
    ops.Distort: _distort,
}


def apply(views: Any, kind: str, amount: Any) -> Any:
    """The DALI operators that make a change of colours, as `reference.ops` makes it.

    Args:
        views: node of the graph, float32 [V, H, W, 3].
        kind: kind of a `Color`.
        amount: node with its amount, [V, 1, 1, 1]; None if it has none.
    """
    fn = importlib.import_module("nvidia.dali.fn")
    math = importlib.import_module("nvidia.dali.math")
    number = importlib.import_module("nvidia.dali.types").FLOAT
    if kind == "clip":
        return math.clamp(views, 0.0, 255.0)
    if kind == "brightness":
        return views + amount
    if kind == "contrast":
        mean = fn.reductions.mean(views, axes=[1, 2], keep_dims=True)
        return (views - mean) * amount + mean
    red, green, blue = (views[:, :, :, i : i + 1] for i in range(3))
    if kind == "gray":
        return views * (1 - amount) + (red + green + blue) / 3 * amount
    if kind == "luma":
        return views * (1 - amount) + (red * 0.2989 + green * 0.587 + blue * 0.114) * amount
    value = math.max(math.max(red, green), blue)
    least = math.min(math.min(red, green), blue)
    spread = math.max(value - least, 1e-6)  # avoids a division by 0; a grey pixel stays grey
    if kind == "saturation":
        ratio = math.min(math.max(value, 0.0) / spread, amount)
        return views * ratio + value * (1 - ratio)
    is_red = fn.cast(value == red, dtype=number)
    is_green = fn.cast(value == green, dtype=number) * (1 - is_red)
    hue = is_red * (green - blue) + is_green * (2 * spread + blue - red)
    hue = hue + (1 - is_red - is_green) * (4 * spread + red - green)
    hue = hue / spread + 6 * amount
    hue = hue - 6 * math.floor(hue / 6)
    shares = (math.abs(hue - 3) - 1, 2 - math.abs(hue - 2), 2 - math.abs(hue - 4))
    channels = (least + (value - least) * math.clamp(share, 0.0, 1.0) for share in shares)
    return fn.cat(*channels, axis=3)
