"""Tasks, contenders, and one measurement of one contender at one task.

Imports nothing but the standard library: the process that measures reads its job here before it
lets any other library start threads.
"""

import dataclasses
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

_COLORS = "|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)|gray(0.2, weights='luma')"
_LARGE = f"random_resized_crop(224, area=(0.4, 1), method='bicubic'){_COLORS}"
_SMALL = f"random_resized_crop(96, area=(0.05, 0.4), method='bicubic'){_COLORS}"


class Task(NamedTuple):
    """A pipeline, in training or in evaluation.

    Attributes:
        pipeline: text of the pipeline, or the name of a preset in `pretexture.loader.presets`.
        training: whether random steps are random.
        trains_in: type in which a ResNet-50 is trained on the batches, "float32" or "mixed"; "" if
            the batches are only made.
    """

    pipeline: str
    training: bool
    trains_in: str = ""


TASKS = {
    "supervised": Task("SUPERVISED", True),
    "rotation": Task("ROTATION", True),
    "exemplar": Task("EXEMPLAR", True),
    "jigsaw": Task("PATCHES", True),
    "relative_patch_location": Task("PATCHES", True),
    "eval": Task("EVAL", False),
    "eval_patches": Task("EVAL_PATCHES", False),
    "simclr": Task("SIMCLR", True),
    # DINO with six small views instead of eight.
    "dino": Task(
        f"({_LARGE}|blur|normalize) + ({_LARGE}|blur(p=0.1)|solarize(p=0.2)|normalize) "
        f"+ 6*({_SMALL}|blur(p=0.5)|normalize)",
        True,
    ),
    "small": Task("inception(32)", True),
    "train": Task("SUPERVISED", True, "float32"),
    "train-mixed": Task("SUPERVISED", True, "mixed"),
}
SMALL = "small"  # for images of about 32 x 32 pixels
MULTI_VIEW = ("simclr", "dino")
STEPS = tuple(name for name, task in TASKS.items() if task.trains_in)
LOADING = tuple(name for name in TASKS if name not in STEPS)
PAPER = tuple(name for name in LOADING if name not in (SMALL, *MULTI_VIEW))


class Contender(NamedTuple):
    """Something that makes batches.

    Attributes:
        module: module of this package whose function `open(job)` returns a `Source`.
        requires: modules that it needs, each with the distributions that may hold it.
        about: description in a line.
        dtypes: types of images that it can make.
        most_threads: largest number of threads that it can use; None if there is no limit.
        tasks: tasks that it can do.
        converts: whether it first converts the shards to a file of its own: the module then runs
            as a program with its name, the file, a number of processes and the shards as
            arguments, and prints how many seconds that took.
        on_gpu: whether its batches end up on a GPU.
    """

    module: str
    requires: Mapping[str, Tuple[str, ...]]
    about: str
    dtypes: Tuple[str, ...] = ("float32",)
    most_threads: Optional[int] = None
    tasks: Tuple[str, ...] = LOADING
    converts: bool = False
    on_gpu: bool = False


_TENSORFLOW = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow_cpu")}
_DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-dali-cuda110")
_OPENCV = {"cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python")}
_FFCV = {"ffcv": ("ffcv",), "torch": ("torch",)}
_ONE_VIEW = ("supervised", "eval", SMALL)

OURS = "pretexture"
PILLOW = "torch-pillow"
KERAS = "keras"
TRAINING = "training"  # the module that trains on the batches
FIRST_EPOCH = "first-epoch"
CONTENDERS = {
    OURS: Contender(
        "pretexture_loader",
        {},
        "`pretexture.loader.Loader` from its second epoch on",
        ("float32", "float16", "uint8"),
        tasks=tuple(TASKS),
    ),
    FIRST_EPOCH: Contender(
        "pretexture_loader",
        {},
        'the same without a row index (`row_index="off"`), as in the first epoch',
        ("float32", "float16", "uint8"),
    ),
    "tfdata": Contender(
        "tfdata",
        _TENSORFLOW,
        "tf.data, the published pipeline: whole decode, float conversion, then crop and resize",
        tasks=(*PAPER, SMALL),
    ),
    "tfdata-fused": Contender(
        "tfdata",
        _TENSORFLOW,
        "tf.data written for speed: `decode_and_crop_jpeg`, no whole-image conversion, vectorised "
        "standardisation",
        tasks=(*PAPER, SMALL),
    ),
    "dali": Contender(
        "dali",
        {"nvidia.dali": _DALI},
        "NVIDIA DALI on CPU, with its fused operators if they do the same",
    ),
    "opencv": Contender(
        "opencv",
        _OPENCV,
        "OpenCV, one image at a time in Python threads, no colour distortion",
        tasks=PAPER,
    ),
    "torch": Contender(
        "torchvision_loader",
        {"torch": ("torch",), "torchvision": ("torchvision",)},
        "PyTorch's `DataLoader` over torchvision's `decode_image` and transforms v2 on tensors, "
        "worker processes for threads",
    ),
    PILLOW: Contender(
        "torchvision_loader",
        {"torch": ("torch",), "torchvision": ("torchvision",), "PIL": ("pillow",)},
        "the same on Pillow's images, with Pillow's blur (two box filters), as the published code "
        "of DINO and others has it",
        tasks=MULTI_VIEW,
    ),
    "spdl": Contender(
        "spdl_loader",
        {"spdl.io": ("spdl-io",), "spdl.pipeline": ("spdl-core",), "torch": ("torch",)},
        "SPDL, a pipeline of threads, with FFmpeg's filters for crops and colours",
        tasks=(*PAPER, SMALL),
    ),
    "ffcv": Contender(
        "ffcv_loader",
        _FFCV,
        "FFCV, the shards converted to its own format, the JPEGs as they are",
        tasks=_ONE_VIEW,
        converts=True,
    ),
    "ffcv-resized": Contender(
        "ffcv_loader",
        _FFCV,
        "FFCV with its own recipe for ImageNet: images of at most 500 pixels a side, half of them "
        "uncompressed and half as JPEGs of quality 90",
        tasks=_ONE_VIEW,
        converts=True,
    ),
    KERAS: Contender(
        TRAINING,
        _TENSORFLOW,
        "Keras's ResNet50V2 in `model.fit`, fed by the fused tf.data pipeline",
        tasks=STEPS,
    ),
    "pretexture-gpu": Contender(
        "gpu",
        {"torch": ("torch",)},
        "the Loader's batches in PyTorch on a GPU, through pinned memory, copied while the next "
        "ones are made",
        on_gpu=True,
    ),
    "dali-gpu": Contender(
        "dali",
        {"nvidia.dali": _DALI, "torch": ("torch",)},
        "NVIDIA DALI, which decodes and makes views on a GPU",
        on_gpu=True,
    ),
    "decode": Contender(
        "decode",
        {},
        "libjpeg-turbo alone: the regions that our views need, from memory, nothing else done",
        ("float32", "float16", "uint8"),
        most_threads=1,
    ),
}


OTHERS = tuple(name for name in CONTENDERS if name != OURS)
ON_GPU = tuple(name for name in OTHERS if CONTENDERS[name].on_gpu)
ON_CPU = tuple(name for name in OTHERS if name not in ON_GPU)


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        contender: name in CONTENDERS.
        task: name in TASKS.
        paths: paths of the shards.
        batch_size: images per batch.
        threads: number of threads that the contender may use.
        dtype: type of the images.
        seconds: length of the measurement.
        cpus: numbers of the processors to run on; () if they cannot be chosen.
        seed: random seed for every draw.
        converted: path of the file to which the contender has converted the shards; "" if none.
    """

    contender: str
    task: str
    paths: Tuple[str, ...]
    batch_size: int
    threads: int
    dtype: str
    seconds: float
    cpus: Tuple[int, ...]
    seed: int
    converted: str = ""

    @property
    def training(self) -> bool:
        """Whether the pipeline runs in training."""
        return TASKS[self.task].training


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a measurement.

    Attributes:
        images: number of images made in `seconds`.
        seconds: length of the measurement by the clock.
        cpu_seconds: processor time of all threads and processes.
        peak_bytes: largest resident memory of the process and its workers, libraries included.
        shape: shape of a batch's images; of several arrays the shapes one after the other; () if
            the contender makes no images.
        label_shape: shape of its labels.
        dtype: type of its images.
        times: seconds within the loader, by name; see `pretexture.loader.Stats`.
        thread_seconds: processor time of the consumer's thread.
    """

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    shape: Tuple[int, ...]
    label_shape: Tuple[int, ...]
    dtype: str
    times: Dict[str, float]
    thread_seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Images a CPU-second."""
        return self.images / self.cpu_seconds


class Source:
    """Endless batches, pairs of images and labels, in another order each epoch.

    Both have a shape and a dtype, or are None if the contender keeps nothing. Images of several
    branches are a tuple of arrays.
    """

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        raise NotImplementedError

    def times(self) -> Dict[str, float]:
        """Seconds spent so far, by name."""
        return {}
