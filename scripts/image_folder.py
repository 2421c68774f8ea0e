"""Folders of images: what lies in them, sorted by split and class, and each image as a JPEG."""

import io
import os
import random
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pretexture.loader import _core

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".pnm", ".ppm"),
)
UNLABELLED = "unlabelled"
QUALITY = 95

_HELD_OUT = ("val", "validation", "test")
_ORIENTATION = 0x0112  # EXIF tag: how a camera was held; 1 is upright


class ImageError(ValueError):
    """An image file that cannot be used; the message names it."""


class Entry(NamedTuple):
    """An image file.

    Attributes:
        name: path relative to the root of the search, with slashes.
        label: number of its class, from 0.
        size: bytes.
        modified: nanoseconds since the epoch.
    """

    name: str
    label: int
    size: int
    modified: int


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        classes: names of the classes, sorted.
        splits: "train" and, where there is one, "validation": its images in random order.
        ignored: names of files that are no images, or lie outside the class folders.
    """

    classes: Tuple[str, ...]
    splits: Dict[str, List[Entry]]
    ignored: List[str]


def find(root: str, validation_fraction: Optional[float], seed: int) -> Found:
    """Looks through a folder.

    It holds a folder of images for each class; or such folders in `train` and in `val`,
    `validation` or `test`; or simply images, which then form one class. Class folders are searched
    to any depth. Hidden files count as absent.

    Args:
        root: the folder.
        validation_fraction: the part of each class that is held out where there is no folder for
            validation; a tenth by default.
        seed: of the choice of images held out, and of the order.

    Raises: OSError; ValueError where the folder is laid out in another way.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"there is no folder {root}")
    ignored: List[str] = []
    train = os.path.join(root, "train")
    held_out = [name for name in _HELD_OUT if os.path.isdir(os.path.join(root, name))]
    parts = {"train": train if os.path.isdir(train) else root}
    if os.path.isdir(train) and held_out:
        parts["validation"] = os.path.join(root, held_out[0])
        ignored += [name + "/" for name in held_out[1:]]
        if validation_fraction is not None:
            raise ValueError(
                f"{root} has the folder {held_out[0]} for validation, so no fraction of train can "
                "be held out as well"
            )
    by_class = {split: _by_class(root, folder, ignored) for split, folder in parts.items()}
    classes = tuple(sorted(by_class["train"]))
    if not classes:
        raise ValueError(f"{parts['train']} holds no images ({', '.join(SUFFIXES)})")
    for name in by_class.get("validation", ()):
        if name not in classes:
            where = "outside class folders" if name == UNLABELLED else f"of class {name!r}"
            raise ValueError(f"{parts['validation']} holds images {where}, {parts['train']} none")

    shuffle = random.Random(seed).shuffle
    splits: Dict[str, List[Entry]] = {"train": [], "validation": []}
    quota = 0.0 if "validation" in parts else _fraction(validation_fraction)
    seen = 0
    for label, name in enumerate(classes):
        entries = [_entry(root, path, label) for path in by_class["train"][name]]
        shuffle(entries)
        # Rounded so that the classes before this one make up for each other.
        taken = round((seen + len(entries)) * quota) - round(seen * quota)
        seen += len(entries)
        splits["validation"] += entries[:taken]
        splits["train"] += entries[taken:]
        for path in by_class.get("validation", {}).get(name, ()):
            splits["validation"].append(_entry(root, path, label))
    for entries in splits.values():
        shuffle(entries)
    if not splits["train"]:
        raise ValueError(f"a validation fraction of {quota:g} leaves no image for training")
    return Found(classes, {split: rows for split, rows in splits.items() if rows}, sorted(ignored))


def _fraction(value: Optional[float]) -> float:
    if value is None:
        return 0.1
    if not 0 <= value < 1:
        raise ValueError(f"a validation fraction is from 0 to below 1, not {value:g}")
    return value


def _by_class(root: str, folder: str, ignored: List[str]) -> Dict[str, List[str]]:
    """Paths of the images, by class; the class folders that hold none are left out."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    result = {}
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            images = list(_images_below(root, path, ignored))
            if images:
                result[name] = images
    loose = [os.path.join(folder, n) for n in names if not os.path.isdir(os.path.join(folder, n))]
    images = [path for path in loose if _is_image(path)]
    if images and not result:
        result[UNLABELLED] = images
        loose = [path for path in loose if not _is_image(path)]
    ignored += [_relative(root, path) for path in loose]
    return result


def _images_below(root: str, folder: str, ignored: List[str]) -> Iterator[str]:
    walked = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in walked:  # a link back up
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_image(name):
                yield os.path.join(path, name)
            elif not name.startswith("."):
                ignored.append(_relative(root, os.path.join(path, name)))


def _is_image(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _relative(root: str, path: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _entry(root: str, path: str, label: int) -> Entry:
    status = os.stat(path)
    return Entry(_relative(root, path), label, status.st_size, status.st_mtime_ns)


class Jpeg(NamedTuple):
    """An image as a JPEG of three channels or one.

    Attributes:
        data: the file.
        height, width: pixels.
        encoded_anew: whether the file was something else before.
    """

    data: bytes
    height: int
    width: int
    encoded_anew: bool


def as_jpeg(path: str) -> Jpeg:
    """Reads an image file, and where it is not a JPEG in RGB or grey already, makes one of it.

    A JPEG keeps its bytes, once the loader's own decoder has gone through them, unless its EXIF
    orientation says that it lies on its side: as the loader, like TensorFlow, does not look at
    that tag, it is turned upright. What is transparent becomes white, and of an animation the first
    frame counts.

    Raises: ImageError.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        with Image.open(io.BytesIO(data)) as image:
            turned = _orientation(image) != 1
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and not turned:
                _core.decode_jpeg(data)
                return Jpeg(data, image.height, image.width, False)
            image.load()
            pixels = _grey_or_rgb(ImageOps.exif_transpose(image) if turned else image)
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that Pillow can read") from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ImageError(f"{path}: {error or type(error).__name__}") from None
    return Jpeg(buffer.getvalue(), pixels.height, pixels.width, True)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata are no reason to lose the image
        return 1


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers, whose range is unknown")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def in_shards(entries: Sequence[Entry], count: int) -> List[List[Entry]]:
    """Cuts a sequence into `count` runs whose lengths differ by at most one."""
    ends = [len(entries) * i // count for i in range(count + 1)]
    return [list(entries[a:b]) for a, b in zip(ends, ends[1:])]
