"""The views as an NVIDIA DALI graph, so that JPEGs can be decoded and views made on a GPU.

DALI's own reader and random numbers are not used. Records are read, checked and put in order as for
the other backends (`batch_reader`), and crops, flips and colours are drawn as theirs are
(`batch_views`); the graph gets encoded images and these numbers through an external source. So
order, sharding, resuming, skipped records, errors and every single view are those of the other
backends. `fn.readers.tfrecord`, given our index in its format, would shuffle within a buffer, check
no checksums, not say which record is wrong and not continue within an epoch. Reading in our way
takes 0.09 ms more of a CPU an image, checksums and draws included, where the graph on a CPU takes
from 3 ms (jigsaw) to 30 ms (exemplar); in images a second no difference was measured.

The graph decodes the window that the views need, resamples each view from it (crop, resize, flip
and the place of a patch are one region of interest of `fn.resize`), and changes colours and
normalises all views of an image as one array.

What differs from the other backends:

- Area averaging (`resize_small`, `resize(method="area")`): DALI has none. Its Gaussian takes its
  place, on photographs about one grey level off on average.
- Bicubic and antialiased resampling near the edge, where DALI repeats the outermost pixels and the
  others leave out what is beyond; and bicubic with coords="tf1", which has a = -0.75 there and
  -0.5 here.
- Rounding, by about a hundredth of a grey level; uint8 rounds halves away from zero.
- `gray(wrap=True)` is refused, and on a GPU `dct="fast"`, too.
- On a GPU also decoding: nvJPEG's pixels are not bit for bit libjpeg's, and it may take a JPEG
  whose data end early.

The tests run the graph on a CPU, where decoding is bit for bit the same. They have not run it on a
GPU: what is different there is where the operators run, and that images are not copied to NumPy.
"""

import collections
import functools
import importlib
import os
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from ... import _core
from ...errors import PipelineError, RecordError
from ...language import ops
from ...shards.records import Index, Shards, TFRecords
from ..base import Config, kind_of
from .batch_reader import BatchReader, Image, Position
from .batch_views import BatchViews, Planner, step_of

# What `fn.stack` takes.
MAX_VIEWS = 999

_INTERPOLATION = {
    "bilinear": "INTERP_LINEAR",
    "nearest": "INTERP_NN",
    "bicubic": "INTERP_CUBIC",
    "area": "INTERP_GAUSSIAN",
}


class _Prepared(NamedTuple):
    """A batch that DALI is given, or why there is none."""

    position: Position
    images: List[Image]
    error: Optional[RecordError] = None
    views: Optional[BatchViews] = None
    label: Optional[np.ndarray] = None


class DaliBackend:
    """A DALI pipeline, and threads that read for it.

    Raises: ImportError where DALI is not installed; PipelineError for what it cannot carry out;
        ValueError for a device that is not there.
    """

    def __init__(self, records: TFRecords, shards: Shards, index: Index, config: Config):
        try:
            importlib.import_module("nvidia.dali")
        except ImportError:
            raise ImportError(
                "NVIDIA DALI is not installed: pip install 'pretexture[dali]'"
            ) from None
        self._config = config
        self._planner = Planner(config.plan, config.seed)
        self._graph = _Graph(config, self._planner)
        self._pipeline = self._graph.build(self._feed)
        self._reader = BatchReader(records, shards, index, config)
        self._process = os.getpid()
        self._feeding: Optional[Position] = None  # what DALI is given next
        self._under_way: Deque[_Prepared] = collections.deque()
        self._skipped: List[RecordError] = []
        self._skipped_kinds: Set[str] = set()
        self._counts = dict.fromkeys(("records", "bytes", "skipped", "warnings"), 0)
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
            self._schedule()  # DALI works while this batch is in use
        except Exception as error:
            self._recover(error)
        self._wait += time.perf_counter() - begin
        assert batch.label is not None
        return image, batch.label, np.array([i.record for i in batch.images], np.int64)

    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`. DALI does not say what it spends on what: those times are 0."""
        times = dict.fromkeys(("decode_seconds", "resample_seconds", "color_seconds"), 0.0)
        read = self._reader.seconds
        return {**self._counts, **times, "read_seconds": read, "wait_seconds": self._wait}

    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def close(self) -> None:
        """Ends the threads, if there are any."""
        self._feeding = None
        self._under_way.clear()
        self._pipeline = None
        self._reader.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this Loader was made before a fork and its threads are in the parent; make it in "
                "the process that uses it"
            )

    def _start(self, position: Position) -> None:
        """Drops what is under way and goes on at `position`."""
        try:
            for batch in self._under_way:
                if batch.error is None:
                    self._take()
            self._pipeline.reset()
        except Exception:  # after which a DALI pipeline is of no use
            self._pipeline = self._graph.build(self._feed)
        self._under_way.clear()
        self._feeding = position

    def _schedule(self) -> None:
        """Sets DALI to work on as many batches as it may have under way."""
        while self._feeding is not None and len(self._under_way) < self._config.prefetch:
            self._pipeline.schedule_run()  # calls _feed, the first time for several batches

    def _take(self) -> Any:
        """The images that DALI finishes next."""
        (images,) = self._pipeline.share_outputs()
        self._pipeline.release_outputs()  # what is kept stays valid
        tensor = images.as_tensor()
        return np.asarray(tensor) if self._config.device == "cpu" else tensor

    def _feed(self) -> List[Any]:
        """What DALI is given for a batch. Raises: StopIteration where there is none."""
        if self._feeding is None:
            raise StopIteration
        batch = self._prepare(self._feeding)
        self._under_way.append(batch)
        self._feeding = None if batch.error else self._reader.after(batch.position)
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
                self._reader.refuse(images[place], epoch, reason)
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
            self._counts["skipped"] += len(image.skipped)
            for fault in image.skipped:
                kind = kind_of(fault.reason)
                if kind not in self._skipped_kinds:
                    self._skipped_kinds.add(kind)
                    self._skipped.append(fault)

    def _recover(self, error: Exception) -> None:
        """Finds the images that DALI failed on, and begins anew without them.

        DALI names no image, and after an error its pipeline cannot be used any more. So the images
        under way are decoded one by one, by the core and if that finds nothing by DALI.

        Raises: the error, where no image is at fault.
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
                for image, *region in zip(batch.images, *_box(batch.views)):
                    try:
                        decode(image.encoded, *region)
                    except Exception as reason:
                        found = True
                        self._reader.remember(image.record, batch.position[0], str(reason))
            if found:
                self._feeding = under_way[0].position
                return
        raise error


def _box(views: BatchViews) -> Tuple[np.ndarray, np.ndarray]:
    """Start and shape, [N, 2], of what each image's windows lie in."""
    start = views.start.min(1)
    return start, (views.start + views.shape).max(1) - start


def _decode(encoded: bytes, start: np.ndarray, shape: np.ndarray, max_pixels: int) -> None:
    _core.decode_jpeg(encoded, (*start.tolist(), *shape.tolist()), max_pixels=max_pixels)


class _Graph:
    """From encoded images and drawn numbers to views.

    Every input but the encoded images is an array with the batch first.

    Args:
        config: the plan, dtype, layout and device.
        planner: of the views.

    Raises: PipelineError.
    """

    def __init__(self, config: Config, planner: Planner):
        if config.fast_dct and config.device != "cpu":
            raise ValueError("dct='fast' is libjpeg's, which decodes on a CPU only")
        self._config, self._planner = config, planner
        # What is the same in all batches is taken from one that is drawn for an image at random.
        views = planner.draw([512], [512], [0], 0)
        self._views = len(views.turned)
        self._turned = views.turned
        self._colors = [color.kind for color in views.colors]
        self._inputs = {"encoded": np.zeros((1, 1), np.uint8), **self.inputs(views)}
        for op in config.plan.ops:
            if self._views > MAX_VIEWS and isinstance(op, (ops.Views, ops.Patches)):
                raise PipelineError(
                    f"{step_of(op)}: an image has {self._views} views, and DALI stacks at most "
                    f"{MAX_VIEWS}"
                )
            if isinstance(op, ops.Gray) and op.wrap:
                raise PipelineError(f"{step_of(op)}: DALI has no grey that wraps around")

    def inputs(self, views: BatchViews) -> Dict[str, np.ndarray]:
        """The numbers that go with a batch's encoded images, by name."""
        arrays: Dict[str, np.ndarray] = {}
        top_left, shape = _box(views)
        if not self._planner.whole:
            arrays.update(box_start=top_left, box_shape=shape)
        for v in range(len(views.turned)):
            if self._planner.own_windows:
                arrays[f"start{v}"] = views.start[:, v] - top_left
                arrays[f"shape{v}"] = views.shape[:, v]
            arrays[f"roi_start{v}"] = views.roi_start[:, v]
            arrays[f"roi_end{v}"] = views.roi_end[:, v]
            if self._planner.method is None:
                arrays[f"method{v}"] = views.method[:, v].astype(np.int32)
        for number, color in enumerate(views.colors):
            if color.amount is not None:
                arrays[f"color{number}"] = color.amount[:, :, None, None, None]
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def build(self, feed: Any) -> Any:
        """A DALI pipeline that calls `feed` for the inputs of each batch."""
        pipeline = self._pipeline(self._config.batch_size, self._config.prefetch)
        with pipeline:
            nodes = _fn().external_source(
                source=feed,
                num_outputs=len(self._inputs),
                dtype=[_dtype(array.dtype.name) for array in self._inputs.values()],
                ndim=[array.ndim - 1 for array in self._inputs.values()],
            )
            pipeline.set_outputs(self._define(dict(zip(self._inputs, nodes))))
        try:
            pipeline.build()
        except RuntimeError as error:
            if self._config.device == "cpu":
                raise
            raise ValueError(
                f"device {self._config.device!r} cannot be used by DALI: {_first_line(error)}"
            ) from error
        return pipeline

    def decode_alone(self, encoded: bytes, start: np.ndarray, shape: np.ndarray) -> None:
        """Has DALI decode one image. Raises: ValueError."""
        pipeline = self._pipeline(1, 1)
        with pipeline:
            inputs = [[np.frombuffer(encoded, np.uint8)], [start], [shape]]
            nodes = _fn().external_source(source=lambda: inputs, num_outputs=3)
            pipeline.set_outputs(self._decode(*nodes))
        try:
            pipeline.run()
        except Exception as error:
            raise ValueError(f"DALI cannot decode the image: {_first_line(error)}") from error

    def _pipeline(self, batch_size: int, prefetch: int) -> Any:
        kind, _, number = self._config.device.partition(":")
        return importlib.import_module("nvidia.dali").Pipeline(
            batch_size=batch_size,
            num_threads=self._config.threads,
            device_id=None if kind == "cpu" else int(number or 0),
            prefetch_queue_depth=prefetch,
        )

    # From here on, what the graph is made of. Views are [V, H, W, 3], float32 of [0, 255] at first.

    def _define(self, nodes: Dict[str, Any]) -> Any:
        fn, config, plan = _fn(), self._config, self._config.plan
        image = self._decode(nodes["encoded"], nodes.get("box_start"), nodes.get("box_shape"))
        parts = [self._resample(image, nodes, v) for v in range(self._views)]
        shape = [len(parts), plan.height, plan.width, 3]
        views = fn.stack(*parts) if len(parts) > 1 else parts[0]
        views = fn.reshape(views, shape=shape, layout="FHWC")
        for number, kind in enumerate(self._colors):
            views = self._color(views, kind, nodes.get(f"color{number}"))
        if config.dtype != "uint8":
            for op in plan.ops:
                if isinstance(op, ops.Normalize):
                    views = fn.crop_mirror_normalize(
                        views,
                        mean=[-bias / scale for bias, scale in zip(op.bias, op.scale)],
                        std=[1 / scale for scale in op.scale],
                        output_layout="FHWC",
                        dtype=_types().FLOAT,
                    )
                elif isinstance(op, ops.Standardize):
                    views = _standardize(views, 3 * plan.height * plan.width)
        if config.dtype == "uint8":
            views = fn.cast(views, dtype=_types().UINT8)
        if self._planner.in_turns:
            views = _turns(views)
        if config.dtype == "float16":  # which `fn.flip` does not take
            views = fn.cast(views, dtype=_types().FLOAT16)
        views = fn.reshape(views, shape=[*plan.views, plan.height, plan.width, 3], layout="")
        if config.layout == "NCHW":
            axes = list(range(len(plan.views)))
            perm = [*axes, *(len(axes) + i for i in (2, 0, 1))]
            views = fn.transpose(views, perm=perm, transpose_layout=False)
        return views

    def _on_device(self, node: Any) -> Any:
        return node if self._config.device == "cpu" else node.gpu()

    def _decode(self, encoded: Any, start: Optional[Any], shape: Optional[Any]) -> Any:
        """The box of each image, or all of it: uint8 [H, W, 3]."""
        options = {
            "device": "cpu" if self._config.device == "cpu" else "mixed",
            "output_type": _types().RGB,
            "adjust_orientation": False,
            "jpeg_fancy_upsampling": True,
            "use_fast_idct": self._config.fast_dct,
        }
        if start is None:
            return _fn().decoders.image(encoded, **options)
        return _fn().decoders.image_slice(
            encoded, start=start, shape=shape, axis_names="HW", **options
        )

    def _resample(self, image: Any, nodes: Dict[str, Any], v: int) -> Any:
        """View number v, [H, W, 3]."""
        fn, planner, plan = _fn(), self._planner, self._config.plan
        if planner.own_windows:
            start, shape = nodes[f"start{v}"], nodes[f"shape{v}"]
            image = fn.slice(image, start=start, shape=shape, axis_names="HW")

        def by(method: str) -> Any:
            return fn.resize(
                image,
                size=[plan.width, plan.height] if self._turned[v] else [plan.height, plan.width],
                roi_start=nodes[f"roi_start{v}"],
                roi_end=nodes[f"roi_end{v}"],
                interp_type=getattr(_types(), _INTERPOLATION[method]),
                antialias=method == "area" or planner.antialias,
                dtype=_types().FLOAT,
            )

        if planner.method is None:
            view = fn.stack(*map(by, ops.METHODS))[nodes[f"method{v}"]]
        else:
            view = by(planner.method)
        if self._turned[v]:
            view = fn.transpose(view, perm=[1, 0, 2], transpose_layout=False)
        return view

    def _color(self, views: Any, kind: str, amount: Any) -> Any:
        """What `reference_ops` does under that name."""
        math = importlib.import_module("nvidia.dali.math")
        if kind == "clip":
            return math.clamp(views, 0.0, 255.0)
        amount = self._on_device(amount)
        if kind == "brightness":
            return views + amount
        if kind == "contrast":
            mean = _fn().reductions.mean(views, axes=[1, 2], keep_dims=True)
            return (views - mean) * amount + mean
        red, green, blue = (views[:, :, :, i : i + 1] for i in range(3))
        if kind == "gray":
            return views * (1 - amount) + (red + green + blue) / 3 * amount
        value = math.max(math.max(red, green), blue)
        least = math.min(math.min(red, green), blue)
        spread = math.max(value - least, 1e-6)  # where it is 0 nothing comes of the quotients
        if kind == "saturation":
            ratio = math.min(math.max(value, 0.0) / spread, amount)
            return views * ratio + value * (1 - ratio)
        is_red = _fn().cast(value == red, dtype=_types().FLOAT)
        is_green = _fn().cast(value == green, dtype=_types().FLOAT) * (1 - is_red)
        hue = is_red * (green - blue) + is_green * (2 * spread + blue - red)
        hue = hue + (1 - is_red - is_green) * (4 * spread + red - green)
        hue = hue / spread + 6 * amount
        hue = hue - 6 * math.floor(hue / 6)
        shares = (math.abs(hue - 3) - 1, 2 - math.abs(hue - 2), 2 - math.abs(hue - 4))
        channels = (least + (value - least) * math.clamp(share, 0.0, 1.0) for share in shares)
        return _fn().cat(*channels, axis=3)


def _standardize(views: Any, values: int) -> Any:
    reductions, over = _fn().reductions, {"axes": [1, 2, 3], "keep_dims": True}
    mean = reductions.mean(views, **over)
    std = reductions.std_dev(views, mean, **over)
    math = importlib.import_module("nvidia.dali.math")
    return (views - mean) / math.max(std, float(1 / np.sqrt(values)))


def _turns(views: Any) -> Any:
    """[V, S, S, 3] -> [V, 4, S, S, 3], turned counter-clockwise."""
    fn = _fn()
    across = fn.transpose(views, perm=[0, 2, 1, 3], transpose_layout=False)
    return fn.stack(
        views,
        fn.flip(across, horizontal=0, vertical=1),
        fn.flip(views, horizontal=1, vertical=1),
        fn.flip(across, horizontal=1, vertical=0),
        axis=1,
    )


# DALI's modules; their own types are too wide to check against.


def _fn() -> Any:
    return importlib.import_module("nvidia.dali.fn")


def _types() -> Any:
    return importlib.import_module("nvidia.dali.types")


def _dtype(name: str) -> Any:
    return getattr(_types(), name.upper() if name != "float32" else "FLOAT")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
