"""NVIDIA DALI on CPU or GPU, as its documentation would have these pipelines written.

Where one of its operators does several steps at once, it is used: decoding of random crops, resize
with crop, `color_twist` for all colour. So brightness is a factor (ours is a shift), and grey is
the luma (ours is the mean): less work than ours, not more.
"""

import importlib
import pathlib
import tempfile
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
from pretexture.loader import TFRecords

from .jobs import CONTENDERS, Job, Source

# DALI's own types are too wide to check against.
dali: Any = importlib.import_module("nvidia.dali")
fn: Any = importlib.import_module("nvidia.dali.fn")
types: Any = importlib.import_module("nvidia.dali.types")
tfrecord: Any = importlib.import_module("nvidia.dali.tfrecord")

SHUFFLE = 1024
ASPECT, AREA = (3 / 4, 4 / 3), (0.05, 1.0)
GRAY = 0.66
VIEWS = 8


def open(job: Job) -> "_Pipeline":
    """The pipeline of a job, built."""
    return _Pipeline(job)


class _Pipeline(Source):
    def __init__(self, job: Job):
        self._on_gpu = CONTENDERS[job.contender].on_gpu
        with tempfile.TemporaryDirectory() as folder:
            indexes = _write_indexes(job.paths, pathlib.Path(folder))
            self._pipeline = _graph(
                job,
                indexes,
                batch_size=job.batch_size,
                num_threads=job.threads,
                device_id=0 if self._on_gpu else None,
                seed=job.seed,
                prefetch_queue_depth=2,
            )
            self._pipeline.build()

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            # Views of DALI's own memory, without a copy.
            *images, label = (self._array(output.as_tensor()) for output in self._pipeline.run())
            yield tuple(images) if len(images) > 1 else images[0], label

    def _array(self, tensor: Any) -> Any:
        if self._on_gpu:
            return importlib.import_module("torch").from_dlpack(tensor)
        return np.asarray(tensor)


def _write_indexes(paths: Tuple[str, ...], folder: pathlib.Path) -> List[str]:
    """What DALI's `tfrecord2idx` writes: offset and size of each record, with its framing."""
    index = TFRecords(paths).shard_index()
    names = []
    for shard, (begin, end) in enumerate(zip(index.shard_begin, index.shard_begin[1:])):
        rows = zip(index.offsets[begin:end].tolist(), index.lengths[begin:end].tolist())
        name = folder / f"{shard}.idx"
        name.write_text("".join(f"{offset} {length + 16}\n" for offset, length in rows))
        names.append(str(name))
    return names


class _Encoded(NamedTuple):
    """Encoded images, and the device that decodes them."""

    data: Any
    device: str

    def image(self) -> Any:
        """The whole images."""
        return fn.decoders.image(self.data, device=self.device, output_type=types.RGB)

    def random_crop(self, **options: Any) -> Any:
        """Random crops of them."""
        return fn.decoders.image_random_crop(
            self.data, device=self.device, output_type=types.RGB, **options
        )


@dali.pipeline_def(enable_conditionals=True)
def _graph(job: Job, indexes: List[str]) -> Tuple[Any, ...]:
    record = fn.readers.tfrecord(
        path=list(job.paths),
        index_path=indexes,
        features={
            "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        },
        random_shuffle=True,
        initial_fill=SHUFFLE,
    )
    label = fn.squeeze(fn.cast(record["image/class/label"], dtype=types.INT32) - 1, axes=0)
    if job.task == "rotation":
        label = types.Constant(np.arange(4, dtype=np.int32))
    device = "mixed" if CONTENDERS[job.contender].on_gpu else "cpu"
    images = _VIEWS[job.task](_Encoded(record["image/encoded"], device))
    return (*images, label) if isinstance(images, tuple) else (images, label)


def _crop(encoded: _Encoded, side: int = 224) -> Any:
    """Decodes and resizes an Inception crop."""
    crop = encoded.random_crop(random_aspect_ratio=ASPECT, random_area=AREA, num_attempts=100)
    return fn.resize(crop, size=(side, side), antialias=False)


def _twist(image: Any, gray: Any = None) -> Any:
    saturation = fn.random.uniform(range=(0.5, 1.5))
    if gray is not None:
        saturation = saturation * (1 - gray)
    brightness = fn.random.uniform(range=(1 - 32 / 255, 1 + 32 / 255))
    return fn.color_twist(image, brightness=brightness, saturation=saturation)


def _finish(image: Any, **options: Any) -> Any:
    """Maps images to [-1, 1], mirrored if asked."""
    return fn.crop_mirror_normalize(
        image, dtype=types.FLOAT, output_layout="HWC", mean=127.5, std=127.5, **options
    )


def _standardize(views: List[Any]) -> Any:
    """Each view to mean 0 and standard deviation 1, in one array."""
    return fn.normalize(fn.stack(*views, axis_name="F"), axis_names="HWC")


def _supervised(encoded: _Encoded) -> Any:
    return _finish(_twist(_crop(encoded)), mirror=fn.random.coin_flip())


def _small(encoded: _Encoded) -> Any:
    return _finish(_twist(_crop(encoded, 32)), mirror=fn.random.coin_flip())


def _rotation(encoded: _Encoded) -> Any:
    # Turned while it is still bytes, which is faster; so is normalising one stack.
    image = fn.flip(_twist(_crop(encoded)), horizontal=fn.random.coin_flip())
    across = fn.transpose(image, perm=[1, 0, 2], transpose_layout=False)
    turns = fn.stack(
        image,
        fn.flip(across, horizontal=0, vertical=1),
        fn.flip(image, horizontal=1, vertical=1),
        fn.flip(across, horizontal=1, vertical=0),
        axis_name="F",
    )
    return fn.normalize(turns, mean=127.5, stddev=127.5)


def _exemplar(encoded: _Encoded) -> Any:
    image = encoded.image()
    gray = fn.random.coin_flip(probability=GRAY)
    views = []
    for _ in range(VIEWS):
        view = fn.random_resized_crop(
            image,
            size=(224, 224),
            random_aspect_ratio=ASPECT,
            random_area=AREA,
            num_attempts=100,
            antialias=False,
        )
        views.append(fn.flip(_twist(view, gray), horizontal=fn.random.coin_flip()))
    return _standardize(views)


def _below(n: int) -> Any:
    """Two whole numbers below n."""
    return fn.random.uniform(values=list(range(n)), shape=2, dtype=types.INT32)


def _patches(image: Any, cell: int, jitter: int, offset: Any) -> Any:
    """Nine patches of an image from an offset on."""
    patches = []
    for row in range(3):
        for column in range(3):
            start = offset + np.array([row * cell, column * cell], np.int32)
            if jitter:
                start = start + _below(jitter + 1)
            side = cell - jitter
            patches.append(fn.slice(image, start, [side, side], axes=(0, 1)))
    return _standardize(patches)


def _jigsaw(encoded: _Encoded) -> Any:
    image = encoded.image()
    image = fn.resize(image, size=(292, 292), antialias=False)
    gray = fn.random.coin_flip(probability=GRAY, dtype=types.BOOL)
    if gray:
        image = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
        image = fn.color_space_conversion(image, image_type=types.GRAY, output_type=types.RGB)
    return _patches(image, 85, 21, _below(292 - 255 + 1))


def _resize_centre(encoded: _Encoded, smaller: int, side: int) -> Any:
    image = encoded.image()
    return fn.resize_crop_mirror(image, resize_shorter=smaller, crop=(side, side))


def _contrastive(
    view: Any, side: int, jitter: Tuple[float, ...], blur: float, solarize: float = 0
) -> Any:
    """The colours of a view of SimCLR or DINO, with the probabilities of blur and solarize."""
    brightness, contrast, saturation, hue = jitter
    if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
        view = fn.color_twist(
            view,
            brightness=fn.random.uniform(range=(1 - brightness, 1 + brightness)),
            contrast=fn.random.uniform(range=(1 - contrast, 1 + contrast)),
            saturation=fn.random.uniform(range=(1 - saturation, 1 + saturation)),
            hue=fn.random.uniform(range=(-360 * hue, 360 * hue)),
        )
    if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
        view = fn.hsv(view, saturation=0)
    if fn.random.coin_flip(probability=blur, dtype=types.BOOL):
        size = side // 10 // 2 * 2 + 1
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=(0.1, 2.0)), window_size=size)
    if solarize:  # noqa: SIM102  # the second condition is DALI's, on each image
        if fn.random.coin_flip(probability=solarize, dtype=types.BOOL):
            bright = fn.cast(view >= 128, dtype=types.UINT8)
            view = fn.cast(view * (1 - bright) + (255 - view) * bright, dtype=types.UINT8)
    return view


def _resized_crop(image: Any, side: int, area: Tuple[float, float], method: Any) -> Any:
    return fn.random_resized_crop(
        image,
        size=(side, side),
        random_aspect_ratio=ASPECT,
        random_area=area,
        num_attempts=10,
        interp_type=method,
        antialias=True,
    )


def _simclr(encoded: _Encoded) -> Any:
    image = encoded.image()
    views = []
    for _ in range(2):
        view = _resized_crop(image, 224, (0.08, 1.0), types.INTERP_LINEAR)
        view = _contrastive(view, 224, (0.8, 0.8, 0.8, 0.2), 0.5)
        views.append(_normalized(view, [0.0] * 3, [255.0] * 3))
    return fn.stack(*views)


def _normalized(view: Any, mean: List[float], std: List[float]) -> Any:
    """Normalised by channel and mirrored at random."""
    return fn.crop_mirror_normalize(
        view,
        dtype=types.FLOAT,
        output_layout="HWC",
        mean=mean,
        std=std,
        mirror=fn.random.coin_flip(),
    )


def _dino(encoded: _Encoded) -> Tuple[Any, ...]:
    image = encoded.image()
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

    def view(side: int, area: Tuple[float, float], blur: float, solarize: float = 0) -> Any:
        crop = _resized_crop(image, side, area, types.INTERP_CUBIC)
        return _normalized(
            _contrastive(crop, side, (0.4, 0.4, 0.2, 0.1), blur, solarize), mean, std
        )

    small = [view(96, (0.05, 0.4), 0.5) for _ in range(6)]
    return view(224, (0.4, 1.0), 1.0), view(224, (0.4, 1.0), 0.1, 0.2), fn.stack(*small)


def _eval(encoded: _Encoded) -> Any:
    return _finish(_resize_centre(encoded, 256, 224))


def _eval_patches(encoded: _Encoded) -> Any:
    return _patches(_resize_centre(encoded, 224, 192), 64, 0, np.zeros(2, np.int32))


_VIEWS: Dict[str, Any] = {
    "supervised": _supervised,
    "rotation": _rotation,
    "exemplar": _exemplar,
    "jigsaw": _jigsaw,
    "eval": _eval,
    "eval_patches": _eval_patches,
    "simclr": _simclr,
    "dino": _dino,
    "small": _small,
}
