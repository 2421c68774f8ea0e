"""The geometry and colour changes of all views of a batch, drawn and composed in NumPy.

It is for backends whose pixels are made elsewhere, such as on a GPU. The draws are those that the
core and the reference make image by image (see `epoch.draws`), here for all views of a batch at
once. As in the core, crops, resizes, patch offsets, flips and turns compose into one window of the
image and one map from the view's pixels into that window.

Arrays [N, V] have a value for each of the V views of each of N images.
"""

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ...errors import PipelineError
from ...language import ops
from ...language.pipeline import Plan
from ...language.steps import STREAMS_PER_STEP
from .batch_draws import below, philox, uniform
from .colors import COLORS, Color

INCEPTION_TRIES = 100
LARGEST_SIDE = 2**24

_CUTS = (ops.Crop, ops.InceptionCrop, ops.CentralFraction, ops.Patches)
_SPLITS = (ops.Views, ops.Patches, ops.Rotate)


class BatchViews(NamedTuple):
    """The views of N images. Pairs are (y, x), in pixels.

    Attributes:
        start, shape: int32 [N, V, 2], the window of the image that a view is resampled from. Its
            outermost pixels are repeated beyond its edges.
        roi_start, roi_end: float32 [N, V, 2], the part of the window that a view shows, from edge
            to edge. If the end comes before the start, the part is mirrored.
        method: int32 [N, V], number of the resampling method in `ops.METHODS`.
        turned: [V], whether rows and columns are exchanged after resampling.
        colors: changes of the colours after that, in order.
        label: int32 [N, labels of an image]; None if the label is the class.
        refused: reasons why images cannot be used, by their places in the batch.
    """

    start: np.ndarray
    shape: np.ndarray
    roi_start: np.ndarray
    roi_end: np.ndarray
    method: np.ndarray
    turned: np.ndarray
    colors: List[Color]
    label: Optional[np.ndarray]
    refused: Dict[int, str]


class Planner:
    """Draws the views of batches.

    Args:
        plan: a compiled pipeline.
        seed: random seed for every draw.

    Attributes:
        in_turns: whether each view that is drawn stands for four, turned by 0, 90, 180 and 270
            degrees counter-clockwise. If steps that draw follow the turns, all four are drawn.
        own_windows: whether views of one image may have different windows.
        whole: whether every window is the whole image.
        method: resampling method; None if it is drawn.
        antialias: whether bilinear resampling uses antialiasing.

    Raises: PipelineError for an operation that cannot be drawn here.
    """

    def __init__(self, plan: Plan, seed: int):
        for op in plan.ops:
            if type(op) not in _OPERATIONS:
                raise PipelineError(f"{step_of(op)}: {type(op).__name__} is not drawn in batches")
        self._seed = seed
        self._ops = plan.ops
        kinds = [type(op) for op in plan.ops]
        self.in_turns = ops.Rotate in kinds and {ops.Normalize, ops.Standardize}.issuperset(
            kinds[kinds.index(ops.Rotate) + 1 :]
        )
        resize = next(
            (op for op in plan.ops if isinstance(op, (ops.Resize, ops.ResizeSmall))), None
        )
        self.antialias = isinstance(resize, ops.Resize) and resize.antialias
        self.method: Optional[str] = "nearest"
        if isinstance(resize, ops.ResizeSmall):
            self.method = "area"
        elif isinstance(resize, ops.Resize):
            self.method = None if resize.randomize else resize.method
        before = plan.ops if resize is None else plan.ops[: plan.ops.index(resize)]
        cuts = [i for i, op in enumerate(before) if isinstance(op, _CUTS)]
        splits = [i for i, op in enumerate(before) if isinstance(op, _SPLITS)]
        self.whole = not cuts
        self.own_windows = bool(cuts and splits) and splits[0] <= cuts[-1]

    def draw(
        self,
        heights: Sequence[int],
        widths: Sequence[int],
        records: Sequence[int],
        epoch: int,
    ) -> BatchViews:
        """The views of images of these sizes, which belong to these records, in that epoch."""
        state = _State(self._seed, epoch, np.array(records), np.array(heights), np.array(widths))
        for op in self._ops:
            if isinstance(op, ops.Rotate) and self.in_turns:
                state.label = np.tile(np.arange(4), (len(records), state.views))
                break
            _OPERATIONS[type(op)](op, state)
        return state.finish()


def step_of(op: ops.Op) -> str:
    """The name in error messages of the step that an operation belongs to."""
    return f"step {op.stream // STREAMS_PER_STEP + 1}"


class _Axis(NamedTuple):
    """One dimension of the views, as in csrc/geometry.h; every array [N, V].

    Source pixels begin..begin+size-1 form the window that the resize sees. Of the resized pixels,
    `length` from `first` on are kept.
    """

    begin: np.ndarray
    size: np.ndarray
    mirrored: np.ndarray  # the window is read backwards
    resized: np.ndarray
    first: np.ndarray
    length: np.ndarray
    reversed: np.ndarray  # the kept pixels come out backwards

    @classmethod
    def whole(cls, sizes: np.ndarray) -> "_Axis":
        size = sizes.astype(np.int64)[:, None]
        zero, no = np.zeros_like(size), np.zeros(size.shape, bool)
        return cls(zero, size, no, size, zero, size, no)

    def crop(self, offset: Any, length: Any) -> "_Axis":
        first = self.first + np.where(self.reversed, self.length - offset - length, offset)
        return self._replace(first=first, length=np.broadcast_to(length, first.shape))

    def resize(self, length: Any) -> "_Axis":
        length = np.broadcast_to(length, self.length.shape)
        zero, no = np.zeros_like(self.first), np.zeros_like(self.reversed)
        return _Axis(self.begin + self.first, self.length, self.reversed, length, zero, length, no)

    def flip(self, where: Any = True) -> "_Axis":
        return self._replace(reversed=self.reversed ^ where)

    def roi(self, shift: np.ndarray, scaled_shift: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Start and end of what is kept, from edge to edge, in pixels of the window.

        They are moved by `shift` + `scaled_shift` * scale.
        """
        scale = self.size / self.resized
        start = (self.first + scaled_shift) * scale + shift
        end = start + self.length * scale
        start, end = (np.where(self.mirrored, self.size - x, x) for x in (start, end))
        return np.where(self.reversed, end, start), np.where(self.reversed, start, end)


class _State:
    """The views of a batch between two operations."""

    def __init__(
        self,
        seed: int,
        epoch: int,
        records: np.ndarray,
        heights: np.ndarray,
        widths: np.ndarray,
    ):
        self._seed, self._epoch = seed, epoch
        self.records = records
        self.row, self.column = _Axis.whole(heights), _Axis.whole(widths)
        self.turned = np.zeros(1, bool)
        self.resampled = False
        self.method = np.zeros((len(records), 1), np.int32)
        self.coords = "half_pixel"
        self.colors: List[Color] = []
        self.label: Optional[np.ndarray] = None
        self.refused: Dict[int, str] = {}
        self.latest_split = 1

    @property
    def views(self) -> int:
        return self.row.length.shape[1]

    def words(self, op: ops.Op, block: int = 0, views: Optional[int] = None) -> List[np.ndarray]:
        """The four words of a block for each image and view, uint64 [N, V]."""
        view = np.arange(self.views if views is None else views, dtype=np.uint64)
        return philox(
            self._seed,
            np.uint64(block),
            np.uint64(op.stream << 16) | view,
            self.records.astype(np.uint64)[:, None],
            np.uint64(self._epoch),
        )

    def words_at(self, op: ops.Op, image: np.ndarray, view: np.ndarray, block: int):
        """The same for pairs of an image and a view."""
        return philox(
            self._seed,
            np.uint64(block),
            np.uint64(op.stream << 16) | view.astype(np.uint64),
            self.records[image].astype(np.uint64),
            np.uint64(self._epoch),
        )

    def take(self, index: np.ndarray) -> None:
        """Keeps the views with these numbers, [N, V'], in this order."""

        def taken(array: np.ndarray) -> np.ndarray:
            return np.take_along_axis(array, index, 1)

        self.row = _Axis(*map(taken, self.row))
        self.column = _Axis(*map(taken, self.column))
        self.method = taken(self.method)
        self.turned = self.turned[index[0]]  # the same in all images
        self.colors = [
            Color(kind, None if amount is None else taken(amount)) for kind, amount in self.colors
        ]

    def split(self, n: int) -> np.ndarray:
        """Replaces each view by n equal ones; returns which of the n each is, [V * n]."""
        index = np.repeat(np.arange(self.views), n)
        which = np.tile(np.arange(n), self.views)
        self.take(np.broadcast_to(index, (len(self.records), len(index))))
        self.latest_split = n
        return which

    def crop(self, top: Any, left: Any, height: Any, width: Any) -> None:
        self.row, self.column = self.row.crop(top, height), self.column.crop(left, width)

    def refuse(self, images: np.ndarray, reason: Callable[[int, int], str]) -> None:
        """Refuses images, bool [N, V]; the reason is made from the view's height and width."""
        for image, view in zip(*np.nonzero(images)):
            height, width = self.row.length[image, view], self.column.length[image, view]
            self.refused.setdefault(int(image), reason(int(height), int(width)))

    def finish(self) -> BatchViews:
        if not self.resampled:
            self.row, self.column = (x.resize(x.length) for x in (self.row, self.column))
            self.method = np.full_like(self.method, ops.METHODS.index("nearest"))
        y, x = (
            _Axis(*(np.where(self.turned, turned, as_is) for turned, as_is in zip(other, axis)))
            for axis, other in ((self.row, self.column), (self.column, self.row))
        )
        # TensorFlow 1 samples at i * scale, which is half a scale minus half a pixel further left.
        # "nearest" takes the pixel at the position; the shift keeps rounding from leaving the edge.
        nearest = self.method == ops.METHODS.index("nearest")
        area = self.method == ops.METHODS.index("area")
        tf1 = (self.coords == "tf1") & ~area
        shift = np.where(nearest, 1e-3, np.where(tf1, 0.5, 0))
        scaled_shift = np.where(tf1, -0.5, 0)
        (top, bottom), (left, right) = (axis.roi(shift, scaled_shift) for axis in (y, x))
        return BatchViews(
            np.stack([y.begin, x.begin], 2).astype(np.int32),
            np.stack([y.size, x.size], 2).astype(np.int32),
            np.stack([top, left], 2).astype(np.float32),
            np.stack([bottom, right], 2).astype(np.float32),
            self.method,
            self.turned,
            self.colors,
            None if self.label is None else self.label.astype(np.int32),
            self.refused,
        )


# One function for each operation.


def _views(op: ops.Views, state: _State) -> None:
    state.split(op.n)


def _resize(op: ops.Resize, state: _State) -> None:
    state.method = np.full((len(state.records), state.views), ops.METHODS.index(op.method))
    if op.randomize:
        state.method = below(state.words(op)[0], len(ops.METHODS))
    state.coords, state.resampled = op.coords, True
    state.row, state.column = state.row.resize(op.height), state.column.resize(op.width)


def _resize_small(op: ops.ResizeSmall, state: _State) -> None:
    height, width = state.row.length, state.column.length
    smaller = np.minimum(height, width)
    sides = []
    for side in (height, width):
        whole, rest = np.divmod(side * op.size, smaller)
        up = (2 * rest > smaller) | ((2 * rest == smaller) & (whole % 2 == 1))
        sides.append(np.maximum(whole + up, 1))
    state.refuse(
        np.maximum(*sides) > LARGEST_SIDE, lambda *_: "the image is too narrow to be resized"
    )
    state.method = np.full((len(state.records), state.views), ops.METHODS.index("area"))
    state.resampled = True
    state.row, state.column = state.row.resize(sides[0]), state.column.resize(sides[1])


def _crop(op: ops.Crop, state: _State) -> None:
    down, across = state.row.length - op.height, state.column.length - op.width
    size = f"{op.height}x{op.width}"
    state.refuse(
        (down < 0) | (across < 0), lambda h, w: f"a crop of {size} does not fit in {h}x{w} pixels"
    )
    down, across = np.maximum(down, 0), np.maximum(across, 0)
    top, left = down // 2, across // 2
    if op.random:
        words = state.words(op)
        top, left = below(words[0], down + 1), below(words[1], across + 1)
    state.crop(top, left, op.height, op.width)


def _inception_crop(op: ops.InceptionCrop, state: _State) -> None:
    """Draws as `draws.inception_crop` does; further tries are for the views without a window."""
    windows = np.stack(
        [np.zeros_like(state.row.length)] * 2 + [state.row.length, state.column.length]
    )
    image, view = np.nonzero(np.ones(state.row.length.shape, bool))
    for attempt in range(INCEPTION_TRIES):
        if not len(image):
            break
        height, width = state.row.length[image, view], state.column.length[image, view]
        smallest, largest = op.area[0] * (height * width), op.area[1] * (height * width)
        w0, w1, w2, w3 = state.words_at(op, image, view, attempt)
        ratio = op.aspect[0] + (op.aspect[1] - op.aspect[0]) * uniform(w0)
        low, high = np.rint(np.sqrt(smallest / ratio)), np.rint(np.sqrt(largest / ratio))
        lowered = np.trunc((width + 0.5 - 1e-7) / ratio)
        lowered -= np.rint(lowered * ratio) > width
        high = np.minimum(np.where(np.rint(high * ratio) > width, lowered, high), height)
        low = np.minimum(low, high)
        h = low + below(w1, high - low + 1)
        w = np.rint(h * ratio)
        covered = h * w
        found = (h >= 1) & (w >= 1) & (w <= width) & (smallest <= covered) & (covered <= largest)
        found &= covered >= 0.1 * (height * width)
        h, w = np.where(found, h, 1).astype(np.int64), np.where(found, w, 1).astype(np.int64)
        down, across = height - h, width - w
        if op.last_position:
            down, across = down + 1, across + 1
        drawn = np.stack([below(w2, np.maximum(down, 1)), below(w3, np.maximum(across, 1)), h, w])
        windows[:, image[found], view[found]] = drawn[:, found]
        image, view = image[~found], view[~found]
    state.crop(*windows)


def _central_fraction(op: ops.CentralFraction, state: _State) -> None:
    height, width = state.row.length, state.column.length
    top, left = ((side * (1 - op.fraction) / 2).astype(np.int64) for side in (height, width))
    state.crop(top, left, height - 2 * top, width - 2 * left)


def _flip(op: ops.Flip, state: _State) -> None:
    state.column = state.column.flip(uniform(state.words(op)[0]) < 0.5)


def _patches(op: ops.Patches, state: _State) -> None:
    place = state.split(op.n**2)
    height, width = state.row.length // op.n, state.column.length // op.n
    top = left = np.full(height.shape, op.jitter // 2)
    if op.random:
        words = state.words(op)
        top, left = below(words[0], op.jitter + 1), below(words[1], op.jitter + 1)
    top, left = top + place // op.n * height, left + place % op.n * width
    state.crop(top, left, height - op.jitter, width - op.jitter)


def _arrange(op: Any, arrangements: np.ndarray, state: _State) -> None:
    """Puts the patches of each group in the order that its label stands for."""
    cells = state.latest_split
    groups = state.views // cells
    if op.random:
        state.label = below(state.words(op, views=groups)[0], len(arrangements))
    else:
        state.label = np.repeat(state.records[:, None] % len(arrangements), groups, axis=1)
    index = np.arange(groups)[:, None] * cells + arrangements[state.label]
    state.take(index.reshape(len(state.records), -1))
    state.latest_split = arrangements.shape[1]


def _jigsaw(op: ops.Jigsaw, state: _State) -> None:
    _arrange(op, np.array(op.permutations), state)


def _pair(op: ops.Pair, state: _State) -> None:
    centre = state.latest_split // 2
    neighbours = [i for i in range(state.latest_split) if i != centre]
    _arrange(op, np.array([(centre, i) for i in neighbours]), state)


def _rotate(op: ops.Rotate, state: _State) -> None:
    turns = state.split(4)
    for turn in (1, 2, 3):
        # Row i of the turned view is column W - 1 - i of the view.
        more = turns >= turn
        row, column = state.row, state.column
        state.row = _Axis(*(np.where(more, a, b) for a, b in zip(column.flip(), row)))
        state.column = _Axis(*(np.where(more, a, b) for a, b in zip(row, column)))
        state.turned = state.turned ^ more
    state.label = np.tile(turns, (len(state.records), 1))


def _color(op: ops.Op, state: _State) -> None:
    state.colors += COLORS[type(op)](op, functools.partial(state.words, op))


def _nothing(op: ops.Op, state: _State) -> None:
    """Normalisation is the same for every view; the graph does it."""


_OPERATIONS: Dict[type, Callable[[Any, _State], None]] = {
    ops.Views: _views,
    ops.Resize: _resize,
    ops.ResizeSmall: _resize_small,
    ops.Crop: _crop,
    ops.InceptionCrop: _inception_crop,
    ops.CentralFraction: _central_fraction,
    ops.Flip: _flip,
    ops.Patches: _patches,
    ops.Jigsaw: _jigsaw,
    ops.Pair: _pair,
    ops.Rotate: _rotate,
    ops.Normalize: _nothing,
    ops.Standardize: _nothing,
    **dict.fromkeys(COLORS, _color),
}
