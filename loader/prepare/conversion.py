"""Converts a folder of images into TFRecord shards and dataset.json, in several processes."""

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Set

from ..console.files import write_text
from ..console.interrupt import Interrupt
from ..console.printable import printable
from ..console.progress import Bar
from ..shards.imagenet import DATASET
from ..shards.limits import MAX_PIXELS
from ..shards.records import TFRecords
from ..shards.row_index import index_rows
from . import demo_images, image_folder
from . import workers as processes
from .image_folder import DEFAULT_LIMITS, Found, ImageError, Limits
from .manifest import Manifest, Unusable
from .workers import Progress, Shard, Spread, Written

__all__ = ["Dataset", "ImageError", "convert", "convert_demo"]

SHARD_BYTES = 100_000_000
MIN_SHARDS = {"train": 16, "validation": 4}
# Each shard of a small set has at least this many images: if no image of a shard can be used, all
# shards have to be planned again.
MIN_IMAGES = 8
# Two shards for training, so that one can be held out.
FEWEST_SHARDS = {"train": 2, "validation": 1}
DEMO_SHARDS = {"train": 8, "validation": 2}

_log = logging.getLogger("pretexture.loader")


class Dataset(NamedTuple):
    """What dataset.json says.

    Attributes:
        classes: names of the classes, in the order of their labels.
        splits: by name ("train", "validation"), each with "records" (their number), "bytes" and
            "shards" (file names).
        skipped: why files and folders were left out, by name.
    """

    classes: List[str]
    splits: Dict[str, Dict[str, Any]]
    skipped: Dict[str, str]


def convert(
    src: str,
    out: str,
    *,
    labels: Optional[str] = None,
    validation_fraction: Optional[float] = None,
    train_shards: Optional[int] = None,
    validation_shards: Optional[int] = None,
    seed: int = 0,
    workers: Optional[int] = None,
    ray: Optional[str] = None,
    on_error: str = "raise",
    max_pixels: int = MAX_PIXELS,
    max_side: Optional[int] = None,
    quality: int = DEFAULT_LIMITS.quality,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Dataset:
    """Writes a folder of images as TFRecord shards; an interrupted conversion is resumed.

    Args:
        src: folder of images: a folder for each class, or such folders in `train` and, say, `val`,
            or images without classes (see `pretexture prepare --help`).
        out: folder for the shards and dataset.json; made if it does not exist.
        labels: path of a list of labels for images that do not lie in class folders (see
            `pretexture prepare --help`).
        validation_fraction: share of each class that is held out if `src` has no folder for
            validation; None for a tenth.
        train_shards, validation_shards: number of shards; None for shards of about 100 MB.
        seed: random seed for the order of the images.
        workers: number of processes; None for one a core.
        ray: address of a Ray cluster (HOST:PORT, or "" for the one in RAY_ADDRESS) that does the
            work; None for processes of this machine.
        on_error: "raise" stops at an image, file or folder that cannot be used; "skip" leaves it
            out and lists it in dataset.json.
        max_pixels: largest image that is taken, width x height.
        max_side: images with a longer side are resized to it and encoded again; None keeps all
            sizes.
        quality: JPEG quality of the images that are encoded, 1 to 100.
        force: replace shards of other images that are in `out`.
        say: function that is told, line by line, what is done.

    Returns: what dataset.json says.

    Raises: ImageError (a ValueError), which names the image that cannot be used; FileExistsError if
        `out` holds shards of other images; OSError; KeyboardInterrupt after SIGINT or SIGTERM.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")
    limits = Limits(max_pixels, max_side, quality)
    counts = {"train": train_shards, "validation": validation_shards}
    say(f"reading the names of the images in {printable(src)}")
    skip = on_error == "skip"
    found = image_folder.find(src, validation_fraction, seed, skip, labels)
    _describe(src, found, say)
    os.makedirs(out, exist_ok=True)
    manifest = Manifest(out)

    def spread(missing: List[Shard]) -> ContextManager[Iterator[Progress]]:
        if ray is None:
            return processes.in_processes(missing, workers)
        return processes.on_ray(missing, workers, ray, manifest.path)

    # If no image of a shard can be used, the shards are planned again without those images. The
    # manifest keeps their names, so that a second run plans the same shards.
    entries = {entry.name: entry for rows in found.splits.values() for entry in rows}
    unusable = manifest.unusable(entries) if skip else {}
    while True:
        found = _without(found, {name: note.reason for name, note in unusable.items()})
        shards = _plan(src, out, found, counts, skip, limits)
        written = _write_all(shards, out, manifest, spread, force, unusable, say)
        if all(counts.records for counts in written.values()):
            break
        for shard in written.values():
            for name, reason in shard.skipped.items():
                unusable[name] = Unusable(entries[name].size, entries[name].modified, reason)
        force = True  # replaces the shards that were just written
    dataset = _finish(out, found, shards, written, say)
    _index_rows(out, dataset, max_pixels)
    return dataset


def convert_demo(
    out: str,
    *,
    train_shards: Optional[int] = None,
    validation_shards: Optional[int] = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Dataset:
    """Makes the demo's data set: about a thousand crops of photographs, each of which is a class.

    The photographs come with scikit-image and scikit-learn, which `pip install 'pretexture[demo]'`
    installs.

    Args:
        out: folder for the shards; the crops are written as JPEGs to `out`/images.
        train_shards, validation_shards: number of shards; None for 8 and 2.
        say, options: see `convert`.

    Returns, raises: see `convert`; also ImportError if the photographs are not installed.
    """
    images = os.path.join(out, "images")
    os.makedirs(out, exist_ok=True)
    if not os.path.isdir(images):
        bar = Bar(demo_images.TOTAL, "images")
        demo_images.make(images, lambda done: bar.update(done, "cut from photographs"))
        bar.close()
    return convert(
        images,
        out,
        train_shards=train_shards or DEMO_SHARDS["train"],
        validation_shards=validation_shards or DEMO_SHARDS["validation"],
        say=say,
        **options,
    )


def _without(found: Found, skipped: Dict[str, str]) -> Found:
    """What was found, less the images that cannot be used.

    Raises: ImageError if no image is left for training.
    """
    if not skipped:
        return found
    splits = {
        split: [entry for entry in entries if entry.name not in skipped]
        for split, entries in found.splits.items()
    }
    if not splits["train"]:
        raise ImageError(
            f"{next(iter(skipped.values()))}; nor can any other image for training be used"
        )
    return found._replace(
        splits={split: entries for split, entries in splits.items() if entries},
        skipped={**found.skipped, **skipped},
    )


def _describe(src: str, found: Found, say: Callable[[str], None]) -> None:
    counts = ", ".join(f"{len(rows)} for {split}" for split, rows in found.splits.items())
    plural = "es" if len(found.classes) > 1 else ""
    say(f"{printable(src)}: {len(found.classes)} class{plural}; images: {counts}")
    if found.ignored:
        example = printable(found.ignored[0])
        say(f"  {len(found.ignored)} other files left out, {example} for one")
    for doubt in found.doubts[:5]:
        _log.warning("warning: %s", printable(doubt))
    if len(found.doubts) > 5:
        _log.warning("warning: and %d more of this kind", len(found.doubts) - 5)


def _plan(
    src: str,
    out: str,
    found: Found,
    counts: Dict[str, Optional[int]],
    skip: bool,
    limits: Limits,
) -> List[Shard]:
    """The shards that hold what was found; all have about the same number of images."""
    shards = []
    for split, entries in found.splits.items():
        count = counts[split]
        if count is None:
            few = max(FEWEST_SHARDS[split], len(entries) // MIN_IMAGES)
            size = sum(entry.size for entry in entries)
            count = max(min(MIN_SHARDS[split], few), math.ceil(size / SHARD_BYTES))
        count = min(count, len(entries))
        for number, images in enumerate(image_folder.in_shards(entries, count)):
            names = [found.classes[image.label] for image in images]
            quality, *others = limits.identity
            content = json.dumps([quality, images, names, *others]).encode()
            path = os.path.join(out, f"{split}-{number:05d}-of-{count:05d}")
            signature = hashlib.sha256(content).hexdigest()
            shards.append(Shard(split, path, src, images, names, skip, limits, signature))
    return shards


def _write_all(
    shards: List[Shard],
    out: str,
    manifest: Manifest,
    spread: Spread,
    force: bool,
    unusable: Dict[str, Unusable],
    say: Callable[[str], None],
) -> Dict[str, Written]:
    """Writes the shards that are missing; returns the counts of each by its file name.

    Raises: KeyboardInterrupt after SIGINT or SIGTERM; FileExistsError; ImageError; OSError.
    """
    planned = {os.path.basename(shard.path): shard for shard in shards}
    _clear(out, set(manifest.begun(planned)), force)
    written = manifest.complete(planned)
    missing = [shard for name, shard in planned.items() if name not in written]

    def finished(shard: Shard, counts: Written) -> None:
        written[os.path.basename(shard.path)] = counts
        manifest.save(planned, written, unusable)

    manifest.save(planned, written, unusable)
    if written:
        say(f"{len(written)} of {len(shards)} shards are complete already")
    if missing:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(out, DATASET))
        _in_parallel(missing, spread, finished)
    return written


def _clear(out: str, known: Set[str], force: bool) -> None:
    """Removes what killed processes left and, if forced, the shards that are not known."""
    names = sorted(os.listdir(out))
    foreign = [name for name in names if processes.SHARD.fullmatch(name) and name not in known]
    if foreign and not force:
        raise FileExistsError(
            f"{out} holds {len(foreign)} shards of other images or settings, such as {foreign[0]}: "
            "choose another folder, or replace them with --force"
        )
    for name in foreign:
        os.remove(os.path.join(out, name))
    processes.remove_parts(out)


def _in_parallel(
    shards: List[Shard], spread: Spread, finished: Callable[[Shard, Written], None]
) -> None:
    """Writes shards in several processes and shows the progress.

    Args:
        shards: the shards to write.
        spread: starts the processes.
        finished: called in this process after each shard.

    Raises: see `_write_all`.
    """
    bar = Bar(sum(len(shard.images) for shard in shards), "images")
    shown = 0
    try:
        with spread(shards) as steps, Interrupt() as interrupt:
            began = time.monotonic()
            for images, written in steps:
                for shard, counts in written:
                    finished(shard, counts)
                if images > shown:
                    shown = images
                    rate = shown / (time.monotonic() - began)
                    bar.update(shown, f"read, {rate:.0f} a second")
                if interrupt.signal:
                    raise KeyboardInterrupt
    finally:
        bar.close()


def _finish(
    out: str,
    found: Found,
    shards: List[Shard],
    written: Dict[str, Written],
    say: Callable[[str], None],
) -> Dataset:
    """Writes dataset.json and says what was made."""
    splits: Dict[str, Dict[str, Any]] = {}
    for shard in shards:
        name = os.path.basename(shard.path)
        split = splits.setdefault(shard.split, {"records": 0, "bytes": 0, "shards": []})
        split["records"] += written[name].records
        split["bytes"] += written[name].bytes
        split["shards"].append(name)
    skipped = dict(found.skipped)
    for counts in written.values():
        skipped.update(counts.skipped)
    dataset = Dataset(
        classes=list(map(_utf8, found.classes)),
        splits=splits,
        skipped={_utf8(name): _utf8(why) for name, why in sorted(skipped.items())},
    )
    write_text(os.path.join(out, DATASET), json.dumps(dataset._asdict(), indent=2) + "\n")

    for name, split in splits.items():
        say(
            f"{printable(out)}: {name}: {split['records']} records in "
            f"{len(split['shards'])} shards, {split['bytes'] / 1e6:.1f} MB"
        )
    reencoded = sum(counts.encoded_anew for counts in written.values())
    if reencoded:
        say(f"  {reencoded} images were encoded anew as JPEG")
    if skipped:
        say(f"  {len(skipped)} images or folders left out; dataset.json lists all of them:")
        for reason in list(skipped.values())[:5]:
            say(f"    {printable(reason)}")
    return dataset


def _index_rows(out: str, dataset: Dataset, max_pixels: int) -> None:
    """Makes the row index of the shards, while they are in memory, for Loaders on this machine.

    A Loader that finds none makes it, so a failure does no harm.
    """
    names = [name for split in dataset.splits.values() for name in split["shards"]]
    records = TFRecords([os.path.join(out, name) for name in names])
    bar = Bar(len(names), "shards")
    try:
        index_rows(
            records,
            max_pixels=max_pixels,
            progress=lambda shards, counts: bar.update(shards, "rows of JPEGs indexed"),
        )
    except OSError as error:
        _log.warning("%s; Loaders will make the row index", error)
    finally:
        bar.close()


def _utf8(name: str) -> str:
    """A name as a UTF-8 locale shows it, in any locale; other bytes become surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")
