"""The steps of the pipeline language, one small class each.

A step is written `name(args)`. The docstring of its class says what it does, and the fields are its
arguments. `ops(training, stream)` gives the primitive operations that the step stands for.

`help(STEPS["crop"])` describes a step in full. All of them:
"""

import dataclasses
import functools
import inspect
import math
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple, Type, Union

from pretexture import permutations

from ..errors import PipelineError
from . import ops

__all__ = ["STEPS", "Step", "table"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Every step has streams of its own, so that its draws are independent of those of other steps: step
# number s owns streams 16 s .. 16 s + 15.
STREAMS_PER_STEP = 16

# Largest absolute value of a number that pixels are multiplied by or that is added to them. The
# result easily fits in a float32.
LARGEST = 1e6


@dataclasses.dataclass(frozen=True)
class Step:
    """The base class of all steps. Subclasses set `name` and define `ops`."""

    name: ClassVar[str]

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """The primitive operations.

        Args:
            training: whether the operations are for training.
            stream: first of the step's streams of random numbers.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        arguments = []
        positional = True
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is not dataclasses.MISSING and value == field.default:
                positional = False
                continue
            text = repr(value)
            arguments.append(text if positional else f"{field.name}={text}")
        return f"{self.name}({', '.join(arguments)})"


def _whole(step: Step, field: str, low: int = 1) -> None:
    value = getattr(step, field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 65535:
        raise PipelineError(f"{field} must be a whole number from {low} to 65535, not {value!r}")


def _side(step: Any) -> None:
    _whole(step, "h")
    if step.w is not None:
        _whole(step, "w")


def _flag(step: Step, field: str) -> None:
    if not isinstance(getattr(step, field), bool):
        raise PipelineError(f"{field} must be True or False, not {getattr(step, field)!r}")


def _choice(step: Step, field: str, choices: Sequence[str]) -> None:
    if getattr(step, field) not in choices:
        raise PipelineError(
            f"{field} must be one of {', '.join(choices)}, not {getattr(step, field)!r}"
        )


def _numbers(value: Any, count: int, field: str) -> Tuple[float, ...]:
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise PipelineError(f"{field} must be {count} numbers, not {value!r}")
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value):
        raise PipelineError(f"{field} must be {count} numbers, not {value!r}")
    if not all(abs(x) <= LARGEST for x in value):
        raise PipelineError(f"{field} must be numbers within {LARGEST:g} of 0, not {value!r}")
    return tuple(float(x) for x in value)


def _probability(step: Any) -> None:
    p = step.p
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise PipelineError(f"p must be a probability from 0 to 1, not {p!r}")


def _interval(step: Step, field: str, smallest: float, largest: float) -> None:
    lo, hi = _numbers(getattr(step, field), 2, field)
    if not smallest <= lo <= hi <= largest:
        raise PipelineError(
            f"{field} must be {smallest:g} <= low <= high <= {largest:g}, "
            f"not {getattr(step, field)!r}"
        )


@dataclasses.dataclass(frozen=True)
class Resize(Step):
    """Resamples to exactly h x w pixels; w is h by default.

    Args:
        h, w: height and width of the result, pixels.
        method: "bilinear", "nearest", "bicubic" or "area" (averages over each output pixel's
            footprint).
        coords: "half_pixel" samples at (i + 0.5) * scale - 0.5, "tf1" at i * scale as TensorFlow 1
            did. "area" is the same in both.
        antialias: whether the kernel of "bilinear" or "bicubic" becomes wider by the scale if the
            image shrinks.
        randomize: whether training draws one of the four methods for each image and ignores
            `method`.

    Shapes: [H, W, C] -> [h, w, C].
    """

    name: ClassVar[str] = "resize"
    h: int
    w: Optional[int] = None
    method: str = "bilinear"
    coords: str = "half_pixel"
    antialias: bool = False
    randomize: bool = False

    def __post_init__(self):
        _side(self)
        _choice(self, "method", ops.METHODS)
        _choice(self, "coords", ops.COORDS)
        _flag(self, "antialias")
        _flag(self, "randomize")
        if self.antialias and (
            self.method not in ("bilinear", "bicubic")
            or self.coords != "half_pixel"
            or self.randomize
        ):
            raise PipelineError(
                "antialias=True goes with method='bilinear' or 'bicubic', coords='half_pixel' and "
                "no randomize"
            )

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Resize`; evaluation never draws the method."""
        return [
            ops.Resize(
                stream,
                self.h,
                self.h if self.w is None else self.w,
                "bilinear" if self.randomize else self.method,
                self.coords,
                self.antialias,
                self.randomize and training,
            )
        ]


@dataclasses.dataclass(frozen=True)
class ResizeSmall(Step):
    """Resizes by area averaging so that the smaller side is s pixels, keeping the aspect ratio.

    Each side becomes round(side * s / smaller side), halves to even.
    """

    name: ClassVar[str] = "resize_small"
    s: int

    def __post_init__(self):
        _whole(self, "s")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `ResizeSmall`."""
        return [ops.ResizeSmall(stream, self.s)]


@dataclasses.dataclass(frozen=True)
class Crop(Step):
    """Takes a window of h x w pixels; w is h by default.

    The position is random and uniform in training. In evaluation the window is centred, at offset
    (H - h) // 2.
    """

    name: ClassVar[str] = "crop"
    h: int
    w: Optional[int] = None

    def __post_init__(self):
        _side(self)

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Crop`."""
        return [ops.Crop(stream, self.h, self.h if self.w is None else self.w, training)]


@dataclasses.dataclass(frozen=True)
class CenterCrop(Step):
    """Takes the central window of h x w pixels; w is h by default."""

    name: ClassVar[str] = "center_crop"
    h: int
    w: Optional[int] = None

    def __post_init__(self):
        _side(self)

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Crop` that is never random."""
        return [ops.Crop(stream, self.h, self.h if self.w is None else self.w, False)]


@dataclasses.dataclass(frozen=True)
class InceptionCrop(Step):
    """Takes a window of random area and aspect ratio, without resizing; identity in evaluation.

    It works like TensorFlow's `sample_distorted_bounding_box` with the whole image as the object.

    Args:
        area: range of the window's share of the image's area.
        aspect: range of width / height.
        last_position: whether the window may touch the bottom or the right edge although it is not
            as high or as wide as the image. TensorFlow never draws such a window.
    """

    name: ClassVar[str] = "inception_crop"
    area: Tuple[float, float] = (0.05, 1.0)
    aspect: Tuple[float, float] = (3 / 4, 4 / 3)
    last_position: bool = True

    def __post_init__(self):
        _interval(self, "area", 1e-6, 1)
        _interval(self, "aspect", 1e-3, 1e3)
        _flag(self, "last_position")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `InceptionCrop` in training, nothing in evaluation."""
        if not training:
            return []
        area, aspect = _numbers(self.area, 2, "area"), _numbers(self.aspect, 2, "aspect")
        window = ((area[0], area[1]), (aspect[0], aspect[1]))
        return [ops.InceptionCrop(stream, *window, self.last_position)]


@dataclasses.dataclass(frozen=True)
class Flip(Step):
    """Mirrors left-right with probability 1/2; identity in evaluation."""

    name: ClassVar[str] = "flip"

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Flip` in training, nothing in evaluation."""
        return [ops.Flip(stream)] if training else []


@dataclasses.dataclass(frozen=True)
class Gray(Step):
    """With probability p (in evaluation too) each channel becomes the mean of R, G and B.

    Args:
        p: probability.
        weights: "mean"; or "luma" for 0.2989 R + 0.587 G + 0.114 B, as torchvision's
            RandomGrayscale has it.
        wrap: whether the mean is `(R + G + B) % 256 // 3`, as TensorFlow computes the mean of
            bytes: [200, 201, 202] becomes 30. The step must then come before all steps that resize,
            split or colour the image.
    """

    name: ClassVar[str] = "gray"
    p: float = 1.0
    wrap: bool = False
    weights: str = "mean"

    def __post_init__(self):
        _probability(self)
        _flag(self, "wrap")
        _choice(self, "weights", ("mean", "luma"))
        if self.wrap and self.weights != "mean":
            raise PipelineError("wrap=True goes with weights='mean'")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Gray`."""
        return [ops.Gray(stream, float(self.p), self.wrap, self.weights == "luma")]


@dataclasses.dataclass(frozen=True)
class Distort(Step):
    """The colour distortion of Inception preprocessing; identity in evaluation.

    Args:
        fast: whether only brightness and saturation change. False also changes hue and contrast, in
            the four published orders.
    """

    name: ClassVar[str] = "distort"
    fast: bool = True

    def __post_init__(self):
        _flag(self, "fast")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Distort` in training, nothing in evaluation."""
        return [ops.Distort(stream, self.fast)] if training else []


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Step):
    """Takes a window of random area and aspect ratio and resamples it to h x w; w is h by default.

    It works like torchvision's RandomResizedCrop: ten tries, then the largest central window whose
    aspect ratio is in the range. Evaluation does what torchvision's `ImageClassification` preset
    does: it resizes the smaller side to 256 / 224 of the larger of h and w, and keeps the centre.

    Args:
        h, w: height and width of the result, pixels.
        area: range of the window's share of the image's area (torchvision's `scale`).
        aspect: range of width / height (`ratio`); its logarithm is uniform.
        method: "bilinear" or "bicubic" (Keys' kernel with a = -0.5; the result is clipped).
        antialias: whether the kernel becomes wider by the scale if the window shrinks. It must with
            "bicubic".

    Shapes: [H, W, C] -> [h, w, C].
    """

    name: ClassVar[str] = "random_resized_crop"
    h: int
    w: Optional[int] = None
    area: Tuple[float, float] = (0.08, 1.0)
    aspect: Tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "bilinear"
    antialias: bool = True

    def __post_init__(self):
        _side(self)
        _interval(self, "area", 1e-6, 1)
        _interval(self, "aspect", 1e-3, 1e3)
        _choice(self, "method", ("bilinear", "bicubic"))
        _flag(self, "antialias")
        if self.method == "bicubic" and not self.antialias:
            raise PipelineError("method='bicubic' goes with antialias=True")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `RandomResizedCrop`; in evaluation a `CentralResizedCrop`."""
        width = self.h if self.w is None else self.w
        if not training:
            smaller = round(max(self.h, width) * 256 / 224)
            return [
                ops.CentralResizedCrop(stream, self.h, width, smaller, self.method, self.antialias)
            ]
        area, aspect = _numbers(self.area, 2, "area"), _numbers(self.aspect, 2, "aspect")
        return [
            ops.RandomResizedCrop(
                stream,
                self.h,
                width,
                (area[0], area[1]),
                (aspect[0], aspect[1]),
                (math.log(aspect[0]), math.log(aspect[1])),
                self.method,
                self.antialias,
            )
        ]


@dataclasses.dataclass(frozen=True)
class ColorJitter(Step):
    """torchvision's ColorJitter with probability p; identity in evaluation.

    Brightness, contrast, saturation and hue change in random order, and values are clipped after
    each. Each argument is a range; one number x stands for (max(0, 1 - x), 1 + x), or for (-x, x)
    if it is the hue.

    Args:
        brightness: range of the factor that scales all values.
        contrast: range of the factor by which values move away from the mean luma of the view.
        saturation: range of the factor by which values move away from the luma of their pixel.
        hue: range by which the hue turns, as parts of the whole circle, within -0.5..0.5.
        p: probability.
    """

    name: ClassVar[str] = "color_jitter"
    brightness: Union[float, Tuple[float, float]] = 0.0
    contrast: Union[float, Tuple[float, float]] = 0.0
    saturation: Union[float, Tuple[float, float]] = 0.0
    hue: Union[float, Tuple[float, float]] = 0.0
    p: float = 1.0

    def __post_init__(self):
        _probability(self)
        self._ranges()

    def _ranges(self) -> Dict[str, Tuple[float, float]]:
        ranges = {
            field: self._range(field, middle=1, least=0, most=100)
            for field in ("brightness", "contrast", "saturation")
        }
        return {**ranges, "hue": self._range("hue", middle=0, least=-0.5, most=0.5)}

    def _range(self, field: str, middle: float, least: float, most: float) -> Tuple[float, float]:
        value = getattr(self, field)
        if isinstance(value, (tuple, list)):
            low, high = _numbers(value, 2, field)
        else:
            (amount,) = _numbers((value,), 1, field)
            if amount < 0:
                raise PipelineError(f"{field} must be 0 or more, not {value!r}")
            low, high = middle - amount, middle + amount
            if middle == 1:
                low = max(low, 0.0)
        if not least <= low <= high <= most:
            raise PipelineError(f"{field} must be within {least:g}..{most:g}, not {value!r}")
        return low, high

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `ColorJitter` in training, nothing in evaluation."""
        if not training:
            return []
        return [ops.ColorJitter(stream, probability=float(self.p), **self._ranges())]


@dataclasses.dataclass(frozen=True)
class Blur(Step):
    """A Gaussian blur with probability p, as torchvision's GaussianBlur; identity in evaluation.

    Beyond its edges the view is mirrored at the outermost pixels.

    Args:
        sigma: range of the standard deviation, pixels; or one number.
        p: probability.
        kernel_size: number of taps along each axis, odd. The default is that of SimCLR: a tenth of
            the view's height, made odd by 2 * (h // 10 // 2) + 1, which is 23 for 224 pixels.

    Raises: PipelineError if the kernel is larger than the view allows.
    """

    name: ClassVar[str] = "blur"
    sigma: Union[float, Tuple[float, float]] = (0.1, 2.0)
    p: float = 1.0
    kernel_size: Optional[int] = None

    def __post_init__(self):
        _probability(self)
        low, high = self._sigmas()
        if not 1e-3 <= low <= high <= 1000:
            raise PipelineError(f"sigma must be a range within 0.001..1000, not {self.sigma!r}")
        if self.kernel_size is not None:
            _whole(self, "kernel_size")
            if self.kernel_size % 2 == 0:
                raise PipelineError(f"kernel_size must be odd, not {self.kernel_size}")

    def _sigmas(self) -> Tuple[float, float]:
        value = self.sigma
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        low, high = _numbers(pair, 2, "sigma")
        return low, high

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Blur` in training, nothing in evaluation."""
        if not training:
            return []
        return [ops.Blur(stream, self._sigmas(), float(self.p), self.kernel_size or 0)]


@dataclasses.dataclass(frozen=True)
class Solarize(Step):
    """With probability p inverts the values that are not below the threshold; not in evaluation.

    Args:
        threshold: smallest value that becomes 255 minus itself, of [0, 255].
        p: probability.
    """

    name: ClassVar[str] = "solarize"
    threshold: float = 128.0
    p: float = 1.0

    def __post_init__(self):
        _probability(self)
        _numbers((self.threshold,), 1, "threshold")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Solarize` in training, nothing in evaluation."""
        return [ops.Solarize(stream, float(self.threshold), float(self.p))] if training else []


@dataclasses.dataclass(frozen=True)
class Erase(Step):
    """With probability p fills a random rectangle, as torchvision's RandomErasing does.

    Ten tries, then nothing. Evaluation leaves the view as it is. The step comes after all steps
    that cut or turn the view, and before it is normalised.

    Args:
        p: probability.
        area: range of the rectangle's share of the view (torchvision's `scale`).
        aspect: range of height / width (`ratio`); its logarithm is uniform.
        value: grey level of [0, 255], or one for each channel; "imagenet" is the mean colour of
            ImageNet, which normalize('imagenet') makes 0.
    """

    name: ClassVar[str] = "erase"
    p: float = 0.5
    area: Tuple[float, float] = (0.02, 0.33)
    aspect: Tuple[float, float] = (0.3, 3.3)
    value: Union[str, float, Tuple[float, float, float]] = 0.0

    def __post_init__(self):
        _probability(self)
        _interval(self, "area", 0, 1)
        _interval(self, "aspect", 1e-3, 1e3)
        self._color()

    def _color(self) -> Tuple[float, float, float]:
        value: Any = self.value
        if value == "imagenet":
            value = tuple(255 * x for x in IMAGENET_MEAN)
        elif not isinstance(value, (tuple, list)):
            value = (value,) * 3
        red, green, blue = _numbers(value, 3, "value")
        if not all(0 <= x <= 255 for x in (red, green, blue)):
            raise PipelineError(f"value must be of [0, 255], not {self.value!r}")
        return red, green, blue

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Erase` in training, nothing in evaluation."""
        if not training:
            return []
        area, aspect = _numbers(self.area, 2, "area"), _numbers(self.aspect, 2, "aspect")
        logs = (math.log(aspect[0]), math.log(aspect[1]))
        return [ops.Erase(stream, (area[0], area[1]), logs, self._color(), float(self.p))]


@dataclasses.dataclass(frozen=True)
class Inception(Step):
    """Inception preprocessing: inception_crop, resize, flip, distort, range(-1, 1).

    Evaluation takes the central 87.5% of each side, resizes it and applies range(-1, 1).

    Args:
        h, w: height and width of a view, pixels.
        views: number of independent views; more than one adds a dimension.
        fast: see `distort`.
        coords: see `resize`.
        aspect, last_position: see `inception_crop`.
    """

    name: ClassVar[str] = "inception"
    h: int
    w: Optional[int] = None
    views: int = 1
    fast: bool = True
    coords: str = "half_pixel"
    aspect: Tuple[float, float] = (3 / 4, 4 / 3)
    last_position: bool = True

    def __post_init__(self):
        _side(self)
        _whole(self, "views")
        _flag(self, "fast")
        _choice(self, "coords", ops.COORDS)
        _interval(self, "aspect", 1e-3, 1e3)
        _flag(self, "last_position")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """The operations of its steps; in evaluation those of the central crop."""
        steps: List[Step] = [
            InceptionCrop(aspect=self.aspect, last_position=self.last_position),
            Resize(self.h, self.w, coords=self.coords),
            Flip(),
            Distort(self.fast),
            Range(-1, 1),
        ]
        result: List[ops.Op] = []
        if self.views > 1:
            result.append(ops.Views(stream, self.views))
        if not training:
            result.append(ops.CentralFraction(stream, 0.875))
        for i, step in enumerate(steps):
            result += step.ops(training, stream + 1 + i)
        return result


@dataclasses.dataclass(frozen=True)
class Patches(Step):
    """Cuts each image into n x n patches, row by row.

    The gaps that `jitter` leaves stop a network from matching edges that run across neighbouring
    patches (Doersch et al., 2015, section 3).

    Args:
        n: cells per side.
        jitter: pixels by which a patch is smaller than its cell. Its place in the cell is drawn for
            each patch in training, and is the centre in evaluation.

    Shapes: [H, W, C] -> [n * n, H // n - jitter, W // n - jitter, C].
    Raises: PipelineError if a patch would be empty.
    """

    name: ClassVar[str] = "patches"
    n: int
    jitter: int = 0

    def __post_init__(self):
        _whole(self, "n")
        _whole(self, "jitter", 0)

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Patches`."""
        return [ops.Patches(stream, self.n, self.jitter, training)]


@dataclasses.dataclass(frozen=True)
class Jigsaw(Step):
    """Shuffles the patches by a permutation from a set; its number becomes the label.

    The permutation is drawn for each image in training. In evaluation its number is the record
    number mod the size of the set.

    Args:
        set: name of the set: "maximal-N" (`permutations.maximal(N)`, 9 patches) or "published" (the
            paper's 100, 9 patches); or the path of a file that `permutations.load` reads.
    """

    name: ClassVar[str] = "jigsaw"
    set: str = "maximal-100"

    def __post_init__(self):
        if not isinstance(self.set, str):
            raise PipelineError(f"set must be a name or a path, not {self.set!r}")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Jigsaw`."""
        return [ops.Jigsaw(stream, permutation_set(self.set), training)]


@functools.lru_cache(maxsize=8)
def permutation_set(name: str) -> Tuple[Tuple[int, ...], ...]:
    """The permutations that `jigsaw(set)` names. Raises: PipelineError."""
    try:
        if name == "published":
            found = permutations.published()
        elif name.startswith("maximal-") and name[8:].isdigit():
            found = permutations.maximal(int(name[8:]))
        else:
            found = permutations.load(name)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"set must be 'maximal-N', 'published' or a permutation file, not {name!r}: {error}"
        ) from error
    return tuple(tuple(int(x) for x in row) for row in found)


@dataclasses.dataclass(frozen=True)
class Pair(Step):
    """Keeps the centre patch and one of its neighbours, whose number becomes the label.

    Neighbours are numbered row by row without the centre, 0..7 for 3 x 3 patches. The neighbour is
    drawn for each image in training. In evaluation its number is the record number mod the number
    of neighbours.

    Shapes: [n * n, h, w, C] -> [2, h, w, C], the centre first.
    """

    name: ClassVar[str] = "pair"

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Pair`."""
        return [ops.Pair(stream, training)]


@dataclasses.dataclass(frozen=True)
class Rotate(Step):
    """Stacks the view turned by 0, 90, 180, 270 degrees counter-clockwise; labels 0..3.

    Shapes: [S, S, C] -> [4, S, S, C].
    """

    name: ClassVar[str] = "rotate"

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Rotate`."""
        return [ops.Rotate(stream)]


@dataclasses.dataclass(frozen=True)
class Range(Step):
    """Maps [0, 255] to [lo, hi], lo below hi."""

    name: ClassVar[str] = "range"
    lo: float
    hi: float

    def __post_init__(self):
        _numbers((self.lo, self.hi), 2, "lo and hi")
        if self.lo >= self.hi:
            raise PipelineError(f"lo must be below hi, not {self.lo!r} and {self.hi!r}")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Normalize`."""
        scale, bias = (self.hi - self.lo) / 255, float(self.lo)
        return [ops.Normalize(stream, (scale,) * 3, (bias,) * 3)]


@dataclasses.dataclass(frozen=True)
class Normalize(Step):
    """(x / 255 - mean) / std for each channel.

    Args:
        mean: mean of each channel, on values of [0, 1]; or "imagenet" for the mean and standard
            deviation of ImageNet.
        std: standard deviation of each channel; None with "imagenet".
    """

    name: ClassVar[str] = "normalize"
    mean: Union[str, Tuple[float, float, float]] = "imagenet"
    std: Optional[Tuple[float, float, float]] = None

    def __post_init__(self):
        if isinstance(self.mean, str):
            if self.mean != "imagenet" or self.std is not None:
                raise PipelineError("write normalize('imagenet') or normalize(mean, std)")
            return
        _numbers(self.mean, 3, "mean")
        if not all(x >= 1 / LARGEST for x in _numbers(self.std, 3, "std")):
            raise PipelineError(f"std must be {1 / LARGEST:g} or more, not {self.std!r}")

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Normalize`."""
        mean: Any = IMAGENET_MEAN if isinstance(self.mean, str) else self.mean
        std: Any = IMAGENET_STD if self.std is None else self.std
        scale = tuple(1 / (255 * s) for s in std)
        bias = tuple(-m / s for m, s in zip(mean, std))
        return [ops.Normalize(stream, scale, bias)]


@dataclasses.dataclass(frozen=True)
class Standardize(Step):
    """Gives each view mean 0 and standard deviation 1: (x - mean) / max(std, 1 / sqrt(n)).

    The statistics are over all n values of the view, as in `tf.image.per_image_standardization`.
    """

    name: ClassVar[str] = "standardize"

    def ops(self, training: bool, stream: int) -> List[ops.Op]:
        """One `Standardize`."""
        return [ops.Standardize(stream)]


STEPS: Dict[str, Type[Step]] = {
    step.name: step
    for step in (
        Resize,
        ResizeSmall,
        Crop,
        CenterCrop,
        InceptionCrop,
        RandomResizedCrop,
        Flip,
        Gray,
        Distort,
        ColorJitter,
        Blur,
        Solarize,
        Erase,
        Inception,
        Patches,
        Jigsaw,
        Pair,
        Rotate,
        Range,
        Normalize,
        Standardize,
    )
}


def table() -> str:
    """All steps, a line or two for each: how it is written, and what it does."""
    lines = []
    for name, step in STEPS.items():
        arguments = [
            field.name
            if field.default is dataclasses.MISSING
            else f"{field.name}={field.default!r}"
            for field in dataclasses.fields(step)
        ]
        summary = inspect.getdoc(step).split("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]
        lines += [f"{name}({', '.join(arguments)})", f"    {summary}"]
    return "\n".join(lines)


__doc__ = f"{__doc__}\n{table()}\n"
