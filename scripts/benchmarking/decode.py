"""libjpeg-turbo alone: the limit of every loader that leaves decoding to it.

Decodes the region of each image that our views need, drawn as the Loader draws it, from records in
memory.
"""

import dataclasses
import math
from typing import Any, Iterator, List, Tuple

from pretexture.loader import TFRecords, presets
from pretexture.loader._core import decode_jpeg
from pretexture.loader.epoch import draws
from pretexture.loader.language import ops
from pretexture.loader.language.check import Plan

from .jobs import TASKS, Job, Source

# Images kept in memory, and regions drawn for each.
IMAGES, EPOCHS = 1024, 4

Region = Tuple[int, int, int, int]


def open(job: Job) -> "_Regions":
    """The regions of a job."""
    return _Regions(job)


class _Regions(Source):
    def __init__(self, job: Job):
        records = TFRecords(job.paths)
        plan = presets.find(TASKS[job.task].pipeline).compile(job.training)
        self._batch_size = job.batch_size
        self._work: List[Tuple[bytes, Region]] = []
        count = min(len(records), IMAGES)
        images = [records[number].image for number in range(count)]
        sizes = [decode_jpeg(image).shape[:2] for image in images]
        for epoch in range(EPOCHS):
            for place in range(count):
                number = draws.permute(job.seed, epoch, draws.ORDER_RECORDS, 0, count, place)
                region = needed_region(plan, job.seed, epoch, number, *sizes[number])
                self._work.append((images[number], region))

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        done = 0
        while True:
            for image, region in self._work:
                decode_jpeg(image, region, plain=True)
                done += 1
                if done % self._batch_size == 0:
                    yield None, None


@dataclasses.dataclass(frozen=True)
class _Span:
    """One axis of a view: its beginning in the image, image pixels per view pixel, its length."""

    begin: float
    step: float
    count: int

    def crop(self, begin: int, count: int) -> "_Span":
        return _Span(self.begin + begin * self.step, self.step, count)

    def resize(self, count: int) -> "_Span":
        return _Span(self.begin, self.step * self.count / count, count)

    @property
    def end(self) -> float:
        return self.begin + self.step * self.count


@dataclasses.dataclass(frozen=True)
class _View:
    rows: _Span
    columns: _Span

    def crop(self, top: int, left: int, height: int, width: int) -> "_View":
        return _View(self.rows.crop(top, height), self.columns.crop(left, width))

    def resize(self, height: int, width: int) -> "_View":
        return _View(self.rows.resize(height), self.columns.resize(width))


def needed_region(
    plan: Plan, seed: int, epoch: int, record: int, height: int, width: int
) -> Region:
    """Top, left, height and width of the smallest part of an image that holds all its views."""
    views: List[_View] = []
    for number, branch in enumerate(plan.branches):
        draw = draws.Draws(seed, epoch, record, number)
        drawn = [_View(_Span(0, 1, height), _Span(0, 1, width))]
        for op in branch.ops:
            drawn = [part for n, view in enumerate(drawn) for part in _apply(op, view, n, draw)]
        views += drawn
    top = math.floor(min(view.rows.begin for view in views))
    left = math.floor(min(view.columns.begin for view in views))
    bottom = min(height, math.ceil(max(view.rows.end for view in views)))
    right = min(width, math.ceil(max(view.columns.end for view in views)))
    return top, left, bottom - top, right - left


def _apply(op: ops.Op, view: _View, number: int, draw: draws.Draws) -> List[_View]:
    """The geometry of one operation; see the reference backend's renderer for the whole."""
    height, width = view.rows.count, view.columns.count
    if isinstance(op, ops.Views):
        return [view] * op.n
    if isinstance(op, ops.InceptionCrop):
        return [
            view.crop(
                *draws.inception_crop(draw, op.stream, number, height, width, op.area, op.aspect)
            )
        ]
    if isinstance(op, ops.RandomResizedCrop):
        ranges = (op.area, op.aspect, op.log_aspect)
        return [
            view.crop(
                *draws.random_resized_crop(draw, op.stream, number, height, width, *ranges)
            ).resize(op.height, op.width)
        ]
    if isinstance(op, ops.Resize):
        return [view.resize(op.height, op.width)]
    if isinstance(op, ops.ResizeSmall):
        smaller = min(height, width)
        return [view.resize(round(height * op.size / smaller), round(width * op.size / smaller))]
    if isinstance(op, ops.Crop):
        top, left = _place(op, number, draw, height - op.height, width - op.width)
        return [view.crop(top, left, op.height, op.width)]
    if isinstance(op, ops.Patches):
        return [_patch(op, view, number, patch, draw) for patch in range(op.n**2)]
    # The others change neither the place of a view nor the region of all views together.
    return [view]


def _patch(op: ops.Patches, view: _View, number: int, patch: int, draw: draws.Draws) -> _View:
    height, width = view.rows.count // op.n, view.columns.count // op.n
    row, column = divmod(patch, op.n)
    top, left = _place(op, number * op.n**2 + patch, draw, op.jitter, op.jitter)
    return view.crop(
        row * height + top, column * width + left, height - op.jitter, width - op.jitter
    )


def _place(op: Any, number: int, draw: draws.Draws, down: int, across: int) -> Tuple[int, int]:
    if not op.random:
        return down // 2, across // 2
    words = draw.block(op.stream, number)
    return draws.below(words[0], down + 1), draws.below(words[1], across + 1)
