"""Resampling and colour of the reference backend, in plain NumPy.

Images are float32 [H, W, 3] with values of [0, 255]. Images are resampled axis by axis. A method is
given by its taps: for each output index a few source indices, each with a weight. OpenCV's `resize`
is not used, because it computes sample positions in float32, which changes the third decimal of a
grey level.

The methods are those of TensorFlow, except that positions and weights are computed in float64.
"""

from typing import Tuple

import numpy as np

# For each output index: source indices [size, taps] and their weights, float32 [size, taps].
Taps = Tuple[np.ndarray, np.ndarray]

DISTORT_FAST_ORDERS = (("brightness", "saturation"), ("saturation", "brightness"))
DISTORT_ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def resize(
    image: np.ndarray, height: int, width: int, method: str, coords: str, antialias: bool
) -> np.ndarray:
    """Resamples to [height, width, 3]; the arguments are those of `ops.Resize`."""

    def taps(source: int, target: int) -> Taps:
        if antialias:
            return _antialiased(source, target, method)
        if method == "nearest":
            return _nearest(source, target, coords)
        if method == "bicubic":
            return _bicubic(source, target, coords)
        if method == "area":
            return _area(source, target)
        return _bilinear(source, target, coords)

    rows = _apply(taps(image.shape[0], height), image)
    return _apply(taps(image.shape[1], width), rows.swapaxes(0, 1)).swapaxes(0, 1)


def _apply(taps: Taps, image: np.ndarray) -> np.ndarray:
    """Resamples along the first axis, in float32, tap by tap."""
    sources, weights = taps
    result = np.zeros((len(sources), *image.shape[1:]), np.float32)
    for tap in range(sources.shape[1]):
        result += weights[:, tap, None, None] * image[sources[:, tap]]
    return result


def _taps(sources: np.ndarray, weights: np.ndarray, size: int) -> Taps:
    """Taps from float64 arrays; indices beyond the edge become the pixel at the edge."""
    return np.clip(sources, 0, size - 1).astype(np.int64), weights.astype(np.float32)


def _positions(source: int, target: int, coords: str) -> np.ndarray:
    """The position that each output index samples; 0 is the centre of the first source pixel."""
    scale = source / target
    if coords == "tf1":
        return np.arange(target) * scale
    return (np.arange(target) + 0.5) * scale - 0.5


def _bilinear(source: int, target: int, coords: str) -> Taps:
    """Bilinear without antialiasing, even if the image shrinks."""
    position = _positions(source, target, coords)
    lower = np.floor(position)
    fraction = position - lower
    return _taps(
        np.stack([lower, lower + 1], 1), np.stack([1 - fraction, fraction], 1), size=source
    )


def _nearest(source: int, target: int, coords: str) -> Taps:
    first = 0.0 if coords == "tf1" else 0.5
    index = np.floor((np.arange(target) + first) * (source / target))
    return _taps(index[:, None], np.ones((target, 1)), size=source)


def _bicubic(source: int, target: int, coords: str) -> Taps:
    """Keys' cubic kernel, tabulated at multiples of 1/1024 as in TensorFlow.

    With half-pixel coordinates a = -0.5, and taps outside the image are left out. TensorFlow 1 has
    a = -0.75 and repeats the pixels at the edge.
    """
    position = _positions(source, target, coords)
    lower = np.floor(position)
    fraction = np.rint((position - lower) * 1024) / 1024
    sources = lower[:, None] + np.array([-1, 0, 1, 2])
    a = -0.75 if coords == "tf1" else -0.5
    near = [((a + 2) * x - (a + 3)) * x * x + 1 for x in (fraction, 1 - fraction)]
    far = [((a * x - 5 * a) * x + 8 * a) * x - 4 * a for x in (1 + fraction, 2 - fraction)]
    weights = np.stack([far[0], near[0], near[1], far[1]], 1)
    if coords != "tf1":
        weights[(sources < 0) | (sources >= source)] = 0
        weights /= weights.sum(1, keepdims=True)
    return _taps(sources, weights, size=source)


def _area(source: int, target: int) -> Taps:
    """Averages over each output pixel's footprint, [i, i + 1) times the scale."""
    scale = source / target
    start, end = np.arange(target) * scale, (np.arange(target) + 1) * scale
    first = np.floor(start)
    sources = first[:, None] + np.arange((np.ceil(end) - first).max())
    covered = np.minimum(sources + 1, end[:, None]) - np.maximum(sources, start[:, None])
    return _taps(sources, np.maximum(covered, 0) / scale, size=source)


def _antialiased(source: int, target: int, method: str) -> Taps:
    """Bilinear or bicubic; if the image shrinks, the kernel is wider by the scale.

    Taps outside the image are left out, as in TensorFlow's `scale_and_translate`, Pillow and
    PyTorch. The cubic kernel is Keys' with a = -0.5.
    """
    scale = source / target
    unit = max(scale, 1.0)
    radius = unit if method == "bilinear" else 2 * unit
    centre = _positions(source, target, "half_pixel")
    first = np.ceil(centre - radius)
    sources = first[:, None] + np.arange(np.floor(2 * radius) + 1)
    x = np.abs(sources - centre[:, None]) / unit
    if method == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:
        a = -0.5
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights[(sources < 0) | (sources >= source)] = 0
    return _taps(sources, weights / weights.sum(1, keepdims=True), size=source)


def gray(image: np.ndarray) -> np.ndarray:
    """Every channel becomes the mean of the three."""
    return np.repeat(image.mean(2, keepdims=True, dtype=np.float32), 3, axis=2)


def luma(image: np.ndarray) -> np.ndarray:
    """0.2989 R + 0.587 G + 0.114 B of each pixel, [H, W, 1], as torchvision has it."""
    return image @ np.array([[0.2989], [0.587], [0.114]], np.float32)


def luma_gray(image: np.ndarray) -> np.ndarray:
    """Every channel becomes the luma."""
    return np.repeat(luma(image), 3, axis=2)


def jitter(image: np.ndarray, part: str, amount: float) -> np.ndarray:
    """One part of torchvision's ColorJitter: its adjust_brightness, adjust_contrast and so on."""
    if part == "hue":
        return _turn_hue(image, amount)
    factor = np.float32(amount)
    other: np.ndarray
    if part == "brightness":
        other = np.zeros(1, np.float32)
    elif part == "contrast":
        other = luma(image).mean(dtype=np.float64).astype(np.float32)
    else:
        other = luma(image)
    return np.clip(image * factor + other * (1 - factor), 0, 255)


def blur(image: np.ndarray, sigma: float, kernel_size: int) -> np.ndarray:
    """A Gaussian of `kernel_size` taps along each axis; the image is mirrored at its edges."""
    radius = kernel_size // 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    rows = sum(w * padded[k : k + height] for k, w in enumerate(taps))
    columns = sum(w * rows[:, k : k + width] for k, w in enumerate(taps))
    return columns.astype(np.float32)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Values that are not below the threshold become 255 minus themselves."""
    return np.where(image >= np.float32(threshold), 255 - image, image)


def wrapped_gray(image: np.ndarray) -> np.ndarray:
    """TensorFlow's mean of three bytes, which adds them up in a byte; `image` has whole values."""
    return np.repeat(image.sum(2, keepdims=True) % 256 // 3, 3, axis=2).astype(np.float32)


def distort(
    image: np.ndarray,
    order: Tuple[str, ...],
    brightness: float,
    saturation: float,
    hue: float,
    contrast: float,
) -> np.ndarray:
    """The colour changes named by `order`, one after the other, then clipped to [0, 255]."""
    for change in order:
        if change == "brightness":
            image = image + np.float32(brightness)
        elif change == "saturation":
            image = _saturate(image, saturation)
        elif change == "hue":
            image = _turn_hue(image, hue)
        else:
            image = _contrast(image, contrast)
    return np.clip(image, 0, 255)


def _saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the saturation in HSV.

    With V the largest channel and m the smallest, the saturation in HSV is (V - m) / V. It is
    multiplied by `factor`, but becomes at most 1: the distance of every channel from V grows by the
    same ratio.
    """
    value = image.max(2, keepdims=True)
    spread = value - image.min(2, keepdims=True)
    most = np.maximum(value, 0) / np.where(spread > 0, spread, 1)
    ratio = np.where(spread > 0, np.minimum(np.float32(factor), most), 1)
    return value - (value - image) * ratio


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Adds `turn`, a part of a circle, to the hue; the largest and smallest values stay."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, least = image.max(2), image.min(2)
    spread = value - least
    divisor = np.where(spread > 0, spread, 1)
    hue = np.where(  # in sixths of a circle: red at 0, green at 2, blue at 4
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (hue + np.float32(6 * turn)) % 6
    shares = [np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)]
    return np.stack([least + spread * np.clip(share, 0, 1) for share in shares], 2)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales each channel's distance from its mean over the view."""
    mean = image.mean((0, 1), dtype=np.float64).astype(np.float32)
    return (image - mean) * np.float32(factor) + mean


def standardize(image: np.ndarray) -> np.ndarray:
    """(x - mean) / max(std, 1 / sqrt(n)) over all n values; the statistics are in float64."""
    mean = image.mean(dtype=np.float64)
    std = max(image.std(dtype=np.float64), 1 / np.sqrt(image.size))
    return ((image - mean) / std).astype(np.float32)
