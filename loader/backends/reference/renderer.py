"""What every operation does, written to be read.

A pipeline is carried out step by step on whole images, in NumPy. The compiled core composes the
geometry instead and computes only the pixels that are kept. Both make the same random draws, so
their views agree one by one: this is the specification that the core is tested against.
"""

import itertools
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy as np

from ...epoch.draws import Draws, below, erased, inception_crop, random_resized_crop, uniform
from ...language import ops
from ...language.check import BranchPlan, Plan
from ...shards.limits import MAX_PIXELS
from . import ops as reference_ops
from .records import class_label, decode_image, parse_example, read_record

__all__ = ["Renderer", "class_label", "parse_example", "read_record"]


class Renderer:
    """Makes the views of an image and their labels.

    Args:
        plan: a compiled pipeline.
        seed: random seed for every draw, 64 bits.
        dtype: "float32"; "float16", which is float32 rounded; or "uint8", the pixels before
            normalisation, clipped to [0, 255] and rounded, halves to even.
        layout: "NHWC", or "NCHW" with the channels before height and width.
        max_pixels: size of the largest image that is decoded, in pixels.
        fast_dct: see `decode_image`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        seed: int,
        dtype: str,
        layout: str,
        max_pixels: int = MAX_PIXELS,
        fast_dct: bool = False,
    ):
        self._plan = plan
        self._seed = seed
        self._dtype = dtype
        self._layout = layout
        self._max_pixels = max_pixels
        self._fast_dct = fast_dct

    def views(
        self, encoded: bytes, class_label: int, record: int, epoch: int
    ) -> Tuple[Any, np.ndarray]:
        """The views of one record in one epoch.

        Args:
            encoded: a JPEG or a PNG.
            class_label: the label, unless the pipeline sets another.
            record: record number.
            epoch: epoch number.

        Returns: the views, [*plan.views, H, W, 3] or [*plan.views, 3, H, W], in a tuple by branch
            if there are several branches; and int32 labels of shape plan.label_dims.
        Raises: ValueError with the reason, for an image that cannot be decoded or is too small.
        """
        image = decode_image(encoded, self._max_pixels, self._fast_dct).astype(np.float32)
        label = np.int32(class_label)
        images = []
        for number, branch in enumerate(self._plan.branches):
            draws = Draws(self._seed, epoch, record, number)
            views, labels = self._draw(branch, image, draws, record)
            images.append(self._finish(views, branch.views))
            if branch.sets_label:
                label = np.array(labels, np.int32).reshape(branch.label_dims)
        return images[0] if len(images) == 1 else tuple(images), np.asarray(label)

    def _draw(
        self, branch: BranchPlan, image: np.ndarray, draws: Draws, record: int
    ) -> Tuple[List[np.ndarray], List[int]]:
        """The views of a branch, and the labels that it gives them."""
        views = [image]
        labels: List[int] = []
        split = 1  # views that the latest split made of each view
        for op in branch.ops:
            if isinstance(op, (ops.Views, ops.Patches, ops.Rotate)):
                before = len(views)
                views = [
                    part
                    for number, view in enumerate(views)
                    for part in _SPLITS[type(op)](op, view, number, draws)
                ]
                split = len(views) // before
                if isinstance(op, ops.Rotate):
                    labels = [0, 1, 2, 3] * before
            elif isinstance(op, (ops.Jigsaw, ops.Pair)):
                groups = [views[i : i + split] for i in range(0, len(views), split)]
                arrangements = _arrangements(op, split)
                labels = [
                    _label(op, len(arrangements), number, draws, record)
                    for number in range(len(groups))
                ]
                views = [
                    group[place]
                    for group, label in zip(groups, labels)
                    for place in arrangements[label]
                ]
                split = len(arrangements[0])
            elif not (isinstance(op, (ops.Normalize, ops.Standardize)) and self._dtype == "uint8"):
                views = [
                    _CHANGES[type(op)](op, view, number, draws) for number, view in enumerate(views)
                ]
        return views, labels

    def _finish(self, views: List[np.ndarray], dims: Tuple[int, ...]) -> np.ndarray:
        image = np.stack(views)
        image = image.reshape(dims + image.shape[1:])
        if self._dtype == "uint8":
            image = np.rint(np.clip(image, 0, 255))
        if self._layout == "NCHW":
            image = np.moveaxis(image, -1, -3)
        return np.ascontiguousarray(image, self._dtype)


# What follows is one function for each operation. Functions that change a view take the operation,
# the view, its number among the views and the draws, and return the changed view.


def _resize(op: ops.Resize, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    method = op.method
    if op.randomize:
        method = ops.METHODS[below(draws.block(op.stream, number)[0], len(ops.METHODS))]
    return reference_ops.resize(view, op.height, op.width, method, op.coords, op.antialias)


def _resize_small(op: ops.ResizeSmall, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    smaller = min(view.shape[:2])
    height, width = (_round_ratio(side * op.size, smaller) for side in view.shape[:2])
    return reference_ops.resize(view, height, width, "area", "half_pixel", antialias=False)


def _round_ratio(numerator: int, denominator: int) -> int:
    """The integer nearest to a fraction, computed exactly; halves are rounded to even."""
    whole, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
        return whole + 1
    return whole


def _window(view: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return view[top : top + height, left : left + width]


def _crop(op: ops.Crop, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    height, width = view.shape[:2]
    if op.height > height or op.width > width:
        raise ValueError(
            f"a crop of {op.height}x{op.width} does not fit in {height}x{width} pixels"
        )
    top, left = (height - op.height) // 2, (width - op.width) // 2
    if op.random:
        words = draws.block(op.stream, number)
        top = below(words[0], height - op.height + 1)
        left = below(words[1], width - op.width + 1)
    return _window(view, top, left, op.height, op.width)


def _inception_crop(
    op: ops.InceptionCrop, view: np.ndarray, number: int, draws: Draws
) -> np.ndarray:
    height, width = view.shape[:2]
    window = (op.area, op.aspect, op.last_position)
    return _window(view, *inception_crop(draws, op.stream, number, height, width, *window))


def _central_fraction(
    op: ops.CentralFraction, view: np.ndarray, number: int, draws: Draws
) -> np.ndarray:
    height, width = view.shape[:2]
    top, left = (int(side * (1 - op.fraction) / 2) for side in (height, width))
    return _window(view, top, left, height - 2 * top, width - 2 * left)


def _flip(op: ops.Flip, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    return view[:, ::-1] if uniform(draws.block(op.stream, number)[0]) < 0.5 else view


def _gray(op: ops.Gray, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    if uniform(draws.block(op.stream, number)[0]) >= op.probability:
        return view
    if op.luma:
        return reference_ops.luma_gray(view)
    return reference_ops.wrapped_gray(view) if op.wrap else reference_ops.gray(view)


def _distort(op: ops.Distort, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    words = draws.block(op.stream, number)
    order: Tuple[str, ...]
    if op.fast:
        order = reference_ops.DISTORT_FAST_ORDERS[0 if uniform(words[0]) < 0.25 else 1]
    else:
        order = reference_ops.DISTORT_ORDERS[below(words[0], 4)]
    return reference_ops.distort(
        view,
        order,
        brightness=(2 * uniform(words[1]) - 1) * 32,
        saturation=0.5 + uniform(words[2]),
        hue=(2 * uniform(words[3]) - 1) * 0.2,
        contrast=0.5 + uniform(draws.block(op.stream, number, 1)[0]),
    )


def _random_resized_crop(
    op: ops.RandomResizedCrop, view: np.ndarray, number: int, draws: Draws
) -> np.ndarray:
    height, width = view.shape[:2]
    ranges = (op.area, op.aspect, op.log_aspect)
    window = random_resized_crop(draws, op.stream, number, height, width, *ranges)
    return _resized(op, _window(view, *window), op.height, op.width)


def _central_resized_crop(
    op: ops.CentralResizedCrop, view: np.ndarray, number: int, draws: Draws
) -> np.ndarray:
    smaller = min(view.shape[:2])
    height, width = (op.size * side // smaller for side in view.shape[:2])
    top, left = round((height - op.height) / 2), round((width - op.width) / 2)
    return _window(_resized(op, view, height, width), top, left, op.height, op.width)


def _resized(
    op: Union[ops.RandomResizedCrop, ops.CentralResizedCrop],
    view: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    view = reference_ops.resize(view, height, width, op.method, "half_pixel", op.antialias)
    return np.clip(view, 0, 255) if op.method == "bicubic" else view


def _color_jitter(op: ops.ColorJitter, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    words = draws.block(op.stream, number)
    if uniform(words[0]) >= op.probability:
        return view
    amounts = draws.block(op.stream, number, 1)
    parts = ("brightness", "contrast", "saturation", "hue")
    orders = list(itertools.permutations(range(4)))
    for which in orders[below(words[1], len(orders))]:
        low, high = getattr(op, parts[which])
        neutral = 0 if parts[which] == "hue" else 1
        if not low == high == neutral:
            amount = low + (high - low) * uniform(amounts[which])
            view = reference_ops.jitter(view, parts[which], amount)
    return view


def _blur(op: ops.Blur, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    words = draws.block(op.stream, number)
    if uniform(words[0]) >= op.probability:
        return view
    sigma = op.sigma[0] + (op.sigma[1] - op.sigma[0]) * uniform(words[1])
    size = op.kernel_size or 2 * (view.shape[0] // 10 // 2) + 1
    return reference_ops.blur(view, sigma, size)


def _solarize(op: ops.Solarize, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    if uniform(draws.block(op.stream, number)[0]) >= op.probability:
        return view
    return reference_ops.solarize(view, op.threshold)


def _erase(op: ops.Erase, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    if uniform(draws.block(op.stream, number)[0]) >= op.probability:
        return view
    rows, columns = view.shape[:2]
    ranges = (op.area, op.log_aspect)
    top, left, height, width = erased(draws, op.stream, number, rows, columns, *ranges)
    view = view.copy()
    _window(view, top, left, height, width)[:] = op.value
    return view


def _normalize(op: ops.Normalize, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    return view * np.array(op.scale, np.float32) + np.array(op.bias, np.float32)


def _standardize(op: ops.Standardize, view: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    return reference_ops.standardize(view)


_CHANGES: Dict[type, Callable[[Any, np.ndarray, int, Draws], np.ndarray]] = {
    ops.Resize: _resize,
    ops.ResizeSmall: _resize_small,
    ops.Crop: _crop,
    ops.InceptionCrop: _inception_crop,
    ops.CentralFraction: _central_fraction,
    ops.RandomResizedCrop: _random_resized_crop,
    ops.CentralResizedCrop: _central_resized_crop,
    ops.Flip: _flip,
    ops.Gray: _gray,
    ops.Distort: _distort,
    ops.ColorJitter: _color_jitter,
    ops.Blur: _blur,
    ops.Solarize: _solarize,
    ops.Erase: _erase,
    ops.Normalize: _normalize,
    ops.Standardize: _standardize,
}


# Functions that split a view take the same arguments and return the views that it becomes.


def _views(op: ops.Views, view: np.ndarray, number: int, draws: Draws) -> List[np.ndarray]:
    return [view] * op.n


def _patches(op: ops.Patches, view: np.ndarray, number: int, draws: Draws) -> List[np.ndarray]:
    cell_height, cell_width = (side // op.n for side in view.shape[:2])
    patches: List[np.ndarray] = []
    for row in range(op.n):
        for column in range(op.n):
            top = left = op.jitter // 2
            if op.random:
                words = draws.block(op.stream, number * op.n**2 + len(patches))
                top, left = below(words[0], op.jitter + 1), below(words[1], op.jitter + 1)
            patches.append(
                _window(
                    view,
                    row * cell_height + top,
                    column * cell_width + left,
                    cell_height - op.jitter,
                    cell_width - op.jitter,
                )
            )
    return patches


def _rotate(op: ops.Rotate, view: np.ndarray, number: int, draws: Draws) -> List[np.ndarray]:
    return [np.rot90(view, k) for k in range(4)]


_SPLITS: Dict[type, Callable[[Any, np.ndarray, int, Draws], List[np.ndarray]]] = {
    ops.Views: _views,
    ops.Patches: _patches,
    ops.Rotate: _rotate,
}


def _arrangements(op: Union[ops.Jigsaw, ops.Pair], patches: int) -> Tuple[Tuple[int, ...], ...]:
    """For each label the patches of an image, in the order of their new places."""
    if isinstance(op, ops.Jigsaw):
        return op.permutations
    centre = patches // 2
    return tuple((centre, neighbour) for neighbour in range(patches) if neighbour != centre)


def _label(
    op: Union[ops.Jigsaw, ops.Pair], labels: int, group: int, draws: Draws, record: int
) -> int:
    return below(draws.block(op.stream, group)[0], labels) if op.random else record % labels
