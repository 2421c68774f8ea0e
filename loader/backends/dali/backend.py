"""Views made by an NVIDIA DALI graph, which can decode JPEGs and make views on a GPU.

DALI's own reader and random numbers are not used. Records are read, checked and ordered as for the
other backends (`batch_reader`), and crops, flips and colours are drawn in the same way
(`batch_views`, `colors`). The graph gets encoded images and these numbers through an external
source. So the order, the workers' shares, resuming, skipped records, errors and every single view
are the same as those of the other backends. `fn.readers.tfrecord` would shuffle within a buffer,
check no checksums, not say which record is wrong, and not continue within an epoch. Our reading
takes 0.09 ms more of a CPU per image, checksums and draws included, while the graph on a CPU takes
from 3 ms (jigsaw) to 30 ms (exemplar); no difference in images per second was measured.

The graph decodes the window that the views need, resamples each view from it (crop, resize, flip
and the place of a patch are one region of interest of `fn.resize`), and then changes the colours of
all views of an image, and normalises them, as one array.

Differences from the other backends:

- Area averaging (`resize_small`, `resize(method="area")`): DALI has none. Its Gaussian filter is
  used instead; on photographs the pixels differ by about one grey level on average.
- Bicubic and antialiased resampling at the edge: DALI repeats the outermost pixels, and the other
  backends leave out taps outside the image. Bicubic with coords="tf1" has a = -0.5 here and
  a = -0.75 there.
- Rounding: values differ by about a hundredth of a grey level; uint8 rounds halves away from zero.
- `gray(wrap=True)` is refused; on a GPU `dct="fast"` is refused, too.
- Decoding on a GPU: the pixels of nvJPEG are not exactly those of libjpeg, and it may accept a JPEG
  whose data ends early.

The tests run the graph on a CPU, and decoding there is bit for bit the same. They have not run it
on a GPU; there the same operators run on another device, and images are not copied to NumPy.
"""

import collections
import functools
import importlib
import os
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ... import _core
from ...epoch.sharding import Position
from ...errors import RecordError
from ..base import Backend, Skipped, Work
from .batch_reader import BatchReader, Image
from .batch_views import BatchViews, Planner
from .graph import Graph, box


class _Prepared(NamedTuple):
    """A batch that is given to DALI, or the error if there is none."""

    position: Position
    images: List[Image]
    error: Optional[RecordError] = None
    views: Optional[BatchViews] = None
    label: Optional[np.ndarray] = None


class DaliBackend(Backend):
    """A DALI graph, and threads that read for it.

    Raises: ImportError if DALI is not installed; PipelineError for an operation that it cannot
        carry out; ValueError for a device that is not there.
    """

    def __init__(self, work: Work):
        try:
            importlib.import_module("nvidia.dali")
        except ImportError:
            raise ImportError(
                "NVIDIA DALI is not installed: pip install 'pretexture[dali]'"
            ) from None
        config = work.config
        self._config, self._share = config, work.share
        self._planner = Planner(config.plan, config.seed)
        self._graph = Graph(config, self._planner)
        self._pipeline = self._graph.build(self._feed)
        self._reader = BatchReader(work)
        self._process = os.getpid()
        self._feeding: Optional[Position] = None  # what DALI is given next
        self._under_way: Deque[_Prepared] = collections.deque()
        self._skipped = Skipped()
        self._counts = dict.fromkeys(("records", "bytes", "warnings"), 0)
        self._wait = 0.0

    def seek(self, epoch: int, batch: int) -> None:
        """Says which batch comes next."""
        self._check_process()
        at = self._under_way[0].position if self._under_way else self._feeding
        if at != (epoch, batch):
            self._start((epoch, batch))

    def next(self) -> Tuple[Any, np.ndarray, np.ndarray]:
        """Image, label and index of the next batch. Raises: RecordError."""
        self._check_process()
        begin = time.perf_counter()
        image = None
        while image is None:
            try:
                self._schedule()
                if self._under_way[0].error is not None:
                    break
                image = self._take()
            except Exception as error:
                self._recover(error)
        batch = self._under_way.popleft()
        self._count(batch)
        if batch.error is not None:
            raise batch.error
        try:
            self._schedule()  # so that DALI works while this batch is in use
        except Exception as error:
            self._recover(error)
        self._wait += time.perf_counter() - begin
        assert batch.label is not None
        return image, batch.label, np.array([i.record for i in batch.images], np.int64)

    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`. DALI does not say how long its parts take: those times are 0."""
        return {
            **self._counts,
            **dict.fromkeys(("decode_seconds", "resample_seconds", "color_seconds"), 0.0),
            "skipped": self._skipped.count,
            "read_seconds": self._reader.seconds,
            "wait_seconds": self._wait,
        }

    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""
        return self._skipped.take()

    def close(self) -> None:
        """Ends the threads, if there are any."""
        self._feeding = None
        self._under_way.clear()
        self._pipeline = None
        self._reader.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this Loader was created before a fork and its threads are in the parent; create "
                "it in the process that uses it"
            )

    def _start(self, position: Position) -> None:
        """Drops the batches under way and continues at `position`."""
        try:
            for batch in self._under_way:
                if batch.error is None:
                    self._take()
            self._pipeline.reset()
        except Exception:  # a DALI pipeline cannot be used after an error
            self._pipeline = self._graph.build(self._feed)
        self._under_way.clear()
        self._feeding = position

    def _schedule(self) -> None:
        """Makes DALI work on as many batches as may be under way."""
        while self._feeding is not None and len(self._under_way) < self._config.prefetch:
            self._pipeline.schedule_run()  # calls _feed, the first time for several batches

    def _take(self) -> Any:
        """The images that DALI finishes next."""
        (images,) = self._pipeline.share_outputs()
        self._pipeline.release_outputs()  # images that are still referenced stay valid
        tensor = images.as_tensor()
        return np.asarray(tensor) if self._config.device == "cpu" else tensor

    def _feed(self) -> List[Any]:
        """The inputs of the graph for a batch. Raises: StopIteration if there is none."""
        if self._feeding is None:
            raise StopIteration
        batch = self._prepare(self._feeding)
        self._under_way.append(batch)
        self._feeding = None
        if not batch.error:
            self._feeding = self._share.after(
                *batch.position, into_next_epoch=self._config.training
            )
        if batch.views is None:
            raise StopIteration
        encoded = [np.frombuffer(image.encoded, np.uint8) for image in batch.images]
        return [encoded, *self._graph.inputs(batch.views).values()]

    def _prepare(self, position: Position) -> _Prepared:
        epoch = position[0]
        images = self._reader.read(position)
        while True:
            good = next((i for i, image in enumerate(images) if image.error), len(images))
            if good == 0:
                return _Prepared(position, images, images[0].error)
            views = self._planner.draw(
                [image.height for image in images[:good]],
                [image.width for image in images[:good]],
                [image.record for image in images[:good]],
                epoch,
            )
            if not views.refused:
                break
            for place, reason in views.refused.items():
                self._reader.refuse(images[place], epoch, ValueError(reason))
        if good < len(images):
            return _Prepared(position, images, images[good].error)
        label = views.label
        if label is None:
            label = np.array([image.label for image in images], np.int32)
        label = label.reshape((len(images), *self._config.plan.label_dims))
        return _Prepared(position, images, None, views, label)

    def _count(self, batch: _Prepared) -> None:
        if batch.error is None:
            self._counts["records"] += len(batch.images)
            self._counts["bytes"] += sum(image.bytes for image in batch.images)
        for image in batch.images:
            for fault in image.skipped:
                self._skipped.add(fault)

    def _recover(self, error: Exception) -> None:
        """Finds the images that DALI failed on, and starts again without them.

        DALI does not say which image it failed on, and its pipeline cannot be used after an error.
        So the images under way are decoded one by one: by the core, and if that finds nothing, by
        DALI.

        Raises: the error, if no image is at fault.
        """
        under_way = list(self._under_way)
        self._feeding = None
        self._under_way.clear()
        self._pipeline = self._graph.build(self._feed)
        by_core = functools.partial(_decode, max_pixels=self._config.max_pixels)
        for decode in (by_core, self._graph.decode_alone):
            found = False
            for batch in under_way:
                if batch.views is None:
                    continue
                for image, *region in zip(batch.images, *box(batch.views)):
                    try:
                        decode(image.encoded, *region)
                    except Exception as reason:
                        found = True
                        self._reader.remember(image.record, batch.position[0], str(reason))
            if found:
                self._feeding = under_way[0].position
                return
        raise error


def _decode(encoded: bytes, start: np.ndarray, shape: np.ndarray, max_pixels: int) -> None:
    _core.decode_jpeg(encoded, (*start.tolist(), *shape.tolist()), max_pixels=max_pixels)
