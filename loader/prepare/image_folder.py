"""Folders of images: finds the images by split and class, and reads each one as a JPEG."""

import contextlib
import errno
import io
import os
import random
import stat
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .. import _core
from ..shards.imagenet import HELD_OUT, TRAIN
from ..shards.limits import MAX_PIXELS
from .labels import ANNOTATIONS, LabelError, Labels, class_names, in_order, read_labels
from .pillow import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".pnm", ".ppm"),
)
UNLABELLED = "unlabelled"

_ORIENTATION = 0x0112  # EXIF tag: how a camera was held; 1 is upright, 2 to 8 are not


class ImageError(ValueError):
    """An image file that cannot be used; the message names it."""


class Limits(NamedTuple):
    """Which images are taken, and how they are encoded.

    Attributes:
        max_pixels: largest image that is taken, width x height; the same as the Loader's.
        max_side: images with a longer side are resized to it, with antialiasing; None keeps all
            sizes.
        quality: JPEG quality of the images that are encoded, 1 to 100.
    """

    max_pixels: int = MAX_PIXELS
    max_side: Optional[int] = None
    quality: int = 95

    @property
    def identity(self) -> List[int]:
        """Numbers that differ if the contents of shards do."""
        others = [] if self.max_pixels == MAX_PIXELS else [self.max_pixels]
        return [self.quality, *([] if self.max_side is None else [-self.max_side]), *others]


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


DEFAULT_LIMITS = Limits()


class Found(NamedTuple):
    """What a folder contains.

    Attributes:
        classes: names of the classes, sorted.
        splits: the images of "train" and, if there is one, "validation", in random order.
        ignored: names of files that are not images, or are outside the class folders.
        skipped: why files and folders could not be read, by name.
        doubts: warnings about a layout that may be meant differently.
    """

    classes: Tuple[str, ...]
    splits: Dict[str, List[Entry]]
    ignored: List[str]
    skipped: Dict[str, str]
    doubts: List[str]


def find(
    root: str,
    validation_fraction: Optional[float],
    seed: int,
    skip: bool = False,
    labels: Optional[str] = None,
) -> Found:
    """Finds the images in a folder.

    The folder contains a folder of images for each class; or such folders in `train` (or
    `training`) and in `val`, `valid`, `validation`, `test` or `testing`, in any case; or images,
    which then form one class. Class folders are searched to any depth. Hidden files are ignored.

    Images without class folders get their labels from a list. Tiny ImageNet's is found by its name.

    Args:
        root: path of the folder.
        validation_fraction: share of each class that is held out if there is no folder for
            validation; None for a tenth.
        seed: random seed for the choice of the images held out, and for the order.
        skip: whether files and folders that cannot be read are left out. A class whose folder
            cannot be listed keeps its number, so that no other class gets its label.
        labels: path of a list of labels (see `labels.read_labels`) for images that do not lie in
            class folders, in `root`, in its folder for training or in that for validation.

    Raises: OSError for a file or folder that cannot be read; ValueError for another layout.
    """
    search = _Search(root, skip)
    folders = search.folders(root)
    train = _named(root, folders, TRAIN)
    held_out = [name for kind in HELD_OUT for name in _named(root, folders, [kind])]
    parts = {"train": os.path.join(root, train[0]) if train else root}
    by_class = {"train": search.by_class(parts["train"])}
    for name in held_out if train else ():
        found = {} if "validation" in parts else search.by_class(os.path.join(root, name))
        if "validation" not in parts and (
            set(found) != {UNLABELLED} or not name.lower().startswith("test")
        ):
            parts["validation"], by_class["validation"] = os.path.join(root, name), found
        else:
            why = "has no classes" if found else f"is not needed beside {parts.get('validation')}"
            search.leave_out(name, why)
    for name in folders if train else ():
        if name != train[0] and name not in held_out:
            search.leave_out(name, f"is neither {train[0]} nor one for validation")
    if "validation" in parts and validation_fraction is not None:
        raise ValueError(
            f"{root} has the folder {os.path.basename(parts['validation'])} for validation, so no "
            "fraction of train can be held out as well"
        )
    classes = _apply_labels(search, parts, by_class, labels)
    if not any(by_class["train"].values()):
        raise ValueError(f"{parts['train']} holds no images ({', '.join(SUFFIXES)})")
    for name in by_class.get("validation", ()):
        if name not in classes:
            where = "outside class folders" if name == UNLABELLED else f"of class {name!r}"
            hint = "; --labels FILE gives their classes" if name in (UNLABELLED, "images") else ""
            raise ValueError(
                f"{parts['validation']} holds images {where}, {parts['train']} none{hint}"
            )
    looks = [name for name in classes if name.lower() in (*TRAIN, *HELD_OUT)]
    if looks:
        search.doubts.append(
            f"the classes {', '.join(looks)} have the names of splits; a folder for training is "
            "called train"
        )

    shuffle = random.Random(seed).shuffle
    splits: Dict[str, List[Entry]] = {"train": [], "validation": []}
    quota = 0.0 if "validation" in parts else _fraction(validation_fraction)
    seen = 0
    for label, name in enumerate(classes):
        entries = search.entries(by_class["train"][name], label)
        shuffle(entries)
        # Rounding errors of the classes cancel out: the running total is rounded, not each class.
        taken = round((seen + len(entries)) * quota) - round(seen * quota)
        seen += len(entries)
        splits["validation"] += entries[:taken]
        splits["train"] += entries[taken:]
        splits["validation"] += search.entries(by_class.get("validation", {}).get(name, ()), label)
    for entries in splits.values():
        shuffle(entries)
    if not splits["train"]:
        if search.skipped:
            raise ValueError(f"none of the images in {parts['train']} can be read")
        raise ValueError(f"a validation fraction of {quota:g} leaves no image for training")
    return Found(
        classes,
        {split: rows for split, rows in splits.items() if rows},
        sorted(search.ignored),
        search.skipped,
        search.doubts,
    )


def _apply_labels(
    search: "_Search",
    parts: Dict[str, str],
    by_class: Dict[str, Dict[str, List[str]]],
    path: Optional[str],
) -> Tuple[str, ...]:
    """Sorts images without classes into the classes that a list says.

    Args:
        search: the search.
        parts: the folder of each split.
        by_class: images by split and class; changed.
        path: path of the list; None if there is only that of Tiny ImageNet, or none at all.

    Returns: the classes, in the order of their labels.
    """
    given = None if path is None else read_labels(path)
    loose = [split for split, found in by_class.items() if _is_loose(found, given is not None)]
    if given is not None and not loose:
        raise ValueError(f"all images lie in class folders, so {path} has nothing to say")
    if given is not None and given.in_order and len(loose) > 1:
        raise ValueError(
            f"{path} has labels without names of images, and there are two folders of images "
            "without classes; give a table with a column for the image and one for its label"
        )
    classes: Optional[Tuple[str, ...]] = None
    for split, folder in parts.items():
        own = os.path.join(folder, ANNOTATIONS)
        names = given if split in loose else None
        if names is None and os.path.isfile(own) and set(by_class[split]) == {"images"}:
            names = read_labels(own)
            search.ignored.remove(search.relative(own))
        if names is not None:
            images = [image for paths in by_class[split].values() for image in paths]
            by_class[split] = search.labelled(images, folder, names, classes)
        if split == "train":
            known = by_class[split]
            classes = tuple(sorted(known) if names is None else in_order(list(known)))
    assert classes is not None
    return classes


def _is_loose(found: Dict[str, List[str]], single: bool) -> bool:
    """Whether images lie in no class folder, or if `single` in a folder `images` alone."""
    return set(found) == {UNLABELLED} or (single and set(found) == {"images"})


def _fraction(value: Optional[float]) -> float:
    if value is None:
        return 0.1
    if not 0 <= value < 1:
        raise ValueError(f"a validation fraction is from 0 to below 1, not {value:g}")
    return value


def _named(root: str, folders: Sequence[str], names: Sequence[str]) -> List[str]:
    """The folders of these names in any case. Raises: ValueError if two differ in case alone."""
    found = [folder for name in names for folder in folders if folder.lower() == name]
    for one, other in zip(found, found[1:]):
        if one.lower() == other.lower():
            raise ValueError(f"{root} has the folders {one} and {other}; keep one of them")
    return found


class _Search:
    """Searches folders, and records what is not an image and what cannot be read."""

    def __init__(self, root: str, skip: bool):
        self._root, self._skip = root, skip
        self.ignored: List[str] = []
        self.skipped: Dict[str, str] = {}
        self.doubts: List[str] = []

    def leave_out(self, folder: str, why: str) -> None:
        """Records that a folder beside the one for training is not searched."""
        self.ignored.append(f"{folder}/")
        self.doubts.append(f"the folder {folder} {why} and is left out")

    def folders(self, folder: str) -> List[str]:
        """The names of the folders in a folder, sorted. Raises: OSError."""
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder}")
        return self._listed(folder)[0]

    def by_class(self, folder: str) -> Dict[str, List[str]]:
        """Paths of the images by class; a class folder without images is left out."""
        folders, files = self._listed(folder)
        result = {}
        for name in folders:
            before = len(self.skipped)
            images = list(self._images_below(os.path.join(folder, name)))
            if images or len(self.skipped) > before:
                result[name] = images
            inner = {os.path.dirname(path) for path in images}
            if len(inner) > 1 and os.path.join(folder, name) not in inner:
                self.doubts.append(
                    f"the class {name} holds nothing but folders, {len(inner)} of them with "
                    f"images; if those are the classes, give {os.path.join(folder, name)}"
                )
        loose = [os.path.join(folder, name) for name in files]
        images = [path for path in loose if _is_image(path)]
        if images and not result:
            result[UNLABELLED] = images
            loose = [path for path in loose if not _is_image(path)]
        self.ignored += [self.relative(path) for path in loose]
        return result

    def labelled(
        self,
        images: Sequence[str],
        folder: str,
        labels: Labels,
        classes: Optional[Sequence[str]],
    ) -> Dict[str, List[str]]:
        """Images by class, as a list says.

        Args:
            images: paths of the images.
            folder: path of the folder that they are in.
            labels: the list.
            classes: names of the classes; None if the list says which ones there are.

        Raises: ValueError if the list does not fit the images.
        """
        images = sorted(images)
        texts: List[str] = labels.in_order
        if texts and len(texts) != len(images):
            raise LabelError(
                f"{labels.path} has {len(texts)} labels for {len(images)} images in {folder}"
            )
        if not texts:
            found = [labels.find(self._names(image, folder)) for image in images]
            missing = [image for image, text in zip(images, found) if text is None]
            if len(missing) == len(images):
                raise LabelError(f"{labels.path} names none of the images in {folder}")
            if missing and not self._skip:
                raise LabelError(
                    f"{missing[0]} is not in {labels.path}; --on-error skip leaves it out"
                )
            for image in missing:
                self.skipped[self.relative(image)] = f"{image}: is not in {labels.path}"
            images = [image for image, text in zip(images, found) if text is not None]
            texts = [text for text in found if text is not None]
        if classes is not None:
            texts = class_names(texts, classes, labels.path)
        result: Dict[str, List[str]] = {}
        for image, text in zip(images, texts):
            result.setdefault(text, []).append(image)
        return result

    def _names(self, image: str, folder: str) -> List[str]:
        """The names that a list may give an image."""
        inner = os.path.relpath(image, folder).replace(os.sep, "/")
        base = os.path.basename(image)
        names = [inner, self.relative(image), base]
        return [*names, *(os.path.splitext(name)[0] for name in names)]

    def entries(self, paths: Iterable[str], label: int) -> List[Entry]:
        """The images at these paths."""
        found = []
        for path in paths:
            with self._looking_at(path):
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(f"{path}: is not a regular file")
                name = self.relative(path)
                found.append(Entry(name, label, status.st_size, status.st_mtime_ns))
        return found

    def _images_below(self, folder: str) -> Iterator[str]:
        waiting, walked = [folder], set()
        while waiting:
            path = waiting.pop()
            real = os.path.realpath(path)
            if real in walked:  # a link back up
                continue
            walked.add(real)
            folders: List[str] = []
            files: List[str] = []
            with self._looking_at(path):
                folders, files = self._listed(path)
            for name in files:
                if _is_image(name):
                    yield os.path.join(path, name)
                else:
                    self.ignored.append(self.relative(os.path.join(path, name)))
            waiting += [os.path.join(path, name) for name in reversed(folders)]

    def _listed(self, folder: str) -> Tuple[List[str], List[str]]:
        """The names of the folders, and of everything else, sorted and without hidden ones."""
        folders: List[str] = []
        files: List[str] = []
        for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
            path = os.path.join(folder, name)
            try:
                is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            except OSError as error:
                if error.errno == errno.EACCES:  # it may be a folder, and so a class
                    with self._looking_at(path):
                        raise
                    continue
                is_folder = False  # such as a dangling link, which counts as a missing image
            (folders if is_folder else files).append(name)
        return folders, files

    @contextlib.contextmanager
    def _looking_at(self, path: str) -> Iterator[None]:
        """Turns an OSError about a path into one line, or records it if paths may be skipped."""
        try:
            yield
        except OSError as error:
            reason = f"{path}: {error.strerror}" if error.strerror else str(error)
            if not self._skip:
                raise OSError(f"{reason}; --on-error skip leaves it out") from None
            self.skipped[self.relative(path)] = reason

    def relative(self, path: str) -> str:
        """A path relative to the root of the search, with slashes."""
        return os.path.relpath(path, self._root).replace(os.sep, "/")


def _is_image(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


class Jpeg(NamedTuple):
    """An image as a JPEG with three channels or one.

    Attributes:
        data: contents of the JPEG file.
        height, width: size, pixels.
        encoded_anew: whether the image was encoded again, because its file could not be kept.
    """

    data: bytes
    height: int
    width: int
    encoded_anew: bool


def as_jpeg(path: str, limits: Limits = DEFAULT_LIMITS) -> Jpeg:
    """Reads an image file; encodes it as a JPEG unless it is one in RGB or greyscale.

    A JPEG keeps its bytes if the loader's own decoder can decode them. There are two exceptions. A
    JPEG whose EXIF orientation says that it lies on its side is turned upright and encoded again,
    because the loader, like TensorFlow, ignores that tag. A JPEG with a side longer than `max_side`
    is resized and encoded again. Transparent pixels become white, and an animation becomes its
    first frame.

    Args:
        path: path of the file.
        limits: which images are taken, and how they are encoded.

    Raises: ImageError.
    """
    try:
        data = _read(path)
        with _one_limit(), Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > limits.max_pixels:
                raise ValueError(
                    f"it claims {image.width}x{image.height} pixels, more than max_pixels="
                    f"{limits.max_pixels}"
                )
            turned = 2 <= _orientation(image) <= 8
            longer = max(image.size)
            kept = not turned and (limits.max_side is None or longer <= limits.max_side)
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and kept:
                _core.decode_jpeg(data, max_pixels=limits.max_pixels)
                return Jpeg(data, image.height, image.width, False)
            image.load()
            pixels = _grey_or_rgb(ImageOps.exif_transpose(image) if turned else image)
        if limits.max_side is not None and longer > limits.max_side:
            sides = [max(1, round(side * limits.max_side / longer)) for side in pixels.size]
            # Pillow antialiases when it makes an image smaller.
            pixels = pixels.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=limits.quality, subsampling=0)
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that Pillow can read") from None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ImageError(f"{path}: {error or type(error).__name__}") from None
    return Jpeg(buffer.getvalue(), pixels.height, pixels.width, True)


def _read(path: str) -> bytes:
    """The contents of a regular file. A pipe is an error; reading it could wait for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("is not a regular file")
        return file.read()


@contextlib.contextmanager
def _one_limit() -> Iterator[None]:
    """A context without Pillow's own limit on pixels, so that `max_pixels` is the only limit."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an image with damaged metadata can still be used
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
    """Cuts a sequence into `count` parts whose lengths differ by at most one."""
    ends = [len(entries) * i // count for i in range(count + 1)]
    return [list(entries[a:b]) for a, b in zip(ends, ends[1:])]
