"""Turns folders of images into TFRecord shards that the loader and the trainers read.

SRC holds a folder of images for each class; or such folders in train/ (or training/) and in val/,
valid/, validation/, test/ or testing/, in any case; or simply images, without classes. OUT gets
train-*-of-*, validation-*-of-* and dataset.json, which names the classes in the order of their
labels and counts the records.

A JPEG is stored as it is; other formats, CMYK and photographs that lie on their side are encoded
anew with quality 95. The same command again goes on where an earlier one was interrupted.
With --ray, the processes of a Ray cluster do the work (docs/ray.md).

    python scripts/prepare.py photographs/ shards/
    python scripts/prepare.py --demo demo-data
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
import time
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Set

from pretexture.loader.console.files import write_text
from pretexture.loader.console.interrupt import Interrupt
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar
from pretexture.loader.shards.limits import MAX_PIXELS
from pretexture.scripts.flags import add_ray_flag, add_traceback_flag, short_errors, whole

try:
    from pretexture.loader.prepare import conversion, demo_images, image_folder
    from pretexture.loader.prepare.conversion import Progress, Shard, Spread, Written
    from pretexture.loader.prepare.image_folder import Entry, Found
except ImportError as error:  # Pillow or protobuf
    sys.exit(f"error: {error}; pip install 'pretexture[demo]'")

SHARD_BYTES = 100_000_000
MIN_SHARDS = {"train": 16, "validation": 4}
# Shards of a small set have at least so many images: if all images of a shard turn out to be
# unusable, the set has to be cut again. There are at least two training shards, so that one can be
# held out.
MIN_IMAGES = 8
FEWEST_SHARDS = {"train": 2, "validation": 1}
DEMO_SHARDS = {"train": 8, "validation": 2}

DATASET = "dataset.json"

_MANIFEST = ".prepare.json"


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status, 130 if interrupted."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if bool(flags.demo) == bool(flags.src) or bool(flags.src) != bool(flags.out):
        parser.error("give either SRC and OUT, or --demo DIR")
    with short_errors(flags.traceback):
        try:
            _prepare(flags)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            return 130
    return 0


def _prepare(flags: argparse.Namespace) -> None:
    counts = {"train": flags.train_shards, "validation": flags.validation_shards}
    if flags.demo:
        flags.src, flags.out = _demo_images(flags.demo), flags.demo
        counts = {split: given or DEMO_SHARDS[split] for split, given in counts.items()}
    print(f"looking through {printable(flags.src)}", flush=True)
    skip = flags.on_error == "skip"
    found = image_folder.find(flags.src, flags.validation_fraction, flags.seed, skip)
    _report_found(flags.src, found)
    os.makedirs(flags.out, exist_ok=True)

    def spread(missing: List[Shard]) -> ContextManager[Iterator[Progress]]:
        if flags.ray is None:
            return conversion.in_processes(missing, flags.workers)
        witness = os.path.join(flags.out, _MANIFEST)
        return conversion.on_ray(missing, flags.workers, flags.ray, witness)

    # If all images of a shard are unusable, the set is cut again without them; the manifest keeps
    # their names, so that the same command cuts it in the same way.
    entries = {entry.name: entry for rows in found.splits.values() for entry in rows}
    unusable = _known_unusable(flags.out, entries) if skip else {}
    force = flags.force
    while True:
        found = _without(found, {name: note[2] for name, note in unusable.items()})
        shards = _plan(flags.src, flags.out, found, counts, skip, flags.max_pixels)
        written = _write_all(shards, flags.out, spread, force, unusable)
        if all(counts.records for counts in written.values()):
            break
        for shard in written.values():
            for name, reason in shard.skipped.items():
                unusable[name] = [entries[name].size, entries[name].modified, reason]
        force = True  # over the shards that were just written
    _finish(flags.out, found, shards, written)


def _known_unusable(out: str, entries: Dict[str, Entry]) -> Dict[str, List[Any]]:
    """The images without which an earlier run cut the set, if they are as they were.

    Returns: by name their size, time of modification, and what was wrong.
    """
    noted = _read_manifest(os.path.join(out, _MANIFEST)).get("unusable", {})
    return {
        name: [size, modified, reason]
        for name, (size, modified, reason) in noted.items()
        if name in entries and (entries[name].size, entries[name].modified) == (size, modified)
    }


def _without(found: Found, skipped: Dict[str, str]) -> Found:
    """What was found, less the images that could not be used.

    Raises: ImageError if none is left for training.
    """
    if not skipped:
        return found
    splits = {
        split: [entry for entry in entries if entry.name not in skipped]
        for split, entries in found.splits.items()
    }
    if not splits["train"]:
        raise image_folder.ImageError(
            f"{next(iter(skipped.values()))}; nor can any other image for training be used"
        )
    return found._replace(
        splits={split: entries for split, entries in splits.items() if entries},
        skipped={**found.skipped, **skipped},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("src", nargs="?", metavar="SRC", help="folder of images")
    parser.add_argument("out", nargs="?", metavar="OUT", help="folder for the shards")
    parser.add_argument(
        "--demo",
        metavar="DIR",
        help="make the demo's data set instead: about a thousand crops of photographs that come "
        "with scikit-image and scikit-learn; shards in DIR, the JPEGs in DIR/images",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        metavar="X",
        help="of each class, held out where SRC has no folder for validation (default: 0.1)",
    )
    parser.add_argument(
        "--train-shards",
        type=whole,
        metavar="N",
        help="number of shards (default: of about 100 MB, at least 16, fewer for under 128 images)",
    )
    parser.add_argument(
        "--validation-shards",
        type=whole,
        metavar="N",
        help="number of shards (default: of about 100 MB, at least 4, fewer for under 32 images)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the order of images (default: 0)"
    )
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes (default: one a core)"
    )
    add_ray_flag(parser, "convert on a Ray cluster, all of whose nodes see SRC and OUT")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at an image, file or folder that cannot be used (default), or leave it out and "
        "list it",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole,
        default=MAX_PIXELS,
        metavar="N",
        help="largest image that is taken, width x height; the loader's max_pixels must allow as "
        "much (default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace shards in OUT that are of other images"
    )
    add_traceback_flag(parser)
    return parser


def _demo_images(folder: str) -> str:
    images = os.path.join(folder, "images")
    os.makedirs(folder, exist_ok=True)
    if not os.path.isdir(images):
        bar = Bar(demo_images.TOTAL)
        demo_images.make(images, lambda done: bar.update(done, "images cut from photographs"))
        bar.close()
    return images


def _report_found(src: str, found: Found) -> None:
    counts = ", ".join(f"{len(rows)} for {split}" for split, rows in found.splits.items())
    plural = "es" if len(found.classes) > 1 else ""
    print(f"{printable(src)}: {len(found.classes)} class{plural}; images: {counts}")
    if found.ignored:
        example = printable(found.ignored[0])
        print(f"  {len(found.ignored)} other files left out, {example} for one")
    for doubt in found.doubts[:5]:
        print(f"warning: {printable(doubt)}", file=sys.stderr)
    if len(found.doubts) > 5:
        print(f"warning: and {len(found.doubts) - 5} more of this kind", file=sys.stderr)


def _plan(
    src: str,
    out: str,
    found: Found,
    counts: Dict[str, Optional[int]],
    skip: bool,
    max_pixels: int,
) -> List[Shard]:
    """The shards that hold what was found, all of about the same number of images."""
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
            limit = [] if max_pixels == MAX_PIXELS else [max_pixels]
            content = json.dumps([image_folder.QUALITY, images, names, *limit]).encode()
            path = os.path.join(out, f"{split}-{number:05d}-of-{count:05d}")
            signature = hashlib.sha256(content).hexdigest()
            shards.append(Shard(split, path, src, images, names, skip, max_pixels, signature))
    return shards


def _write_all(
    shards: List[Shard], out: str, spread: Spread, force: bool, unusable: Dict[str, List[Any]]
) -> Dict[str, Written]:
    """Writes the shards that are not there yet; returns what became of each, by its file's name.

    The manifest has the signature of each shard from before it is written, which makes it known for
    one of this run's, and its counts from afterwards, which make it known for finished.

    Raises: KeyboardInterrupt on SIGINT and SIGTERM; FileExistsError; ImageError; OSError.
    """
    manifest = os.path.join(out, _MANIFEST)
    planned = {os.path.basename(shard.path): shard for shard in shards}
    known = {
        name: entry
        for name, entry in _read_manifest(manifest).get("shards", {}).items()
        if name in planned and entry["signature"] == planned[name].signature
    }
    _clear(out, set(known), force)
    written = {}
    for name, entry in known.items():
        counts = Written(**entry["written"]) if entry["written"] else None
        path = planned[name].path
        if (
            counts
            and (planned[name].skip or not counts.skipped)
            and os.path.exists(path)
            and os.path.getsize(path) == counts.bytes
        ):
            written[name] = counts
    missing = [shard for name, shard in planned.items() if name not in written]

    def save() -> None:
        entries = {
            name: {
                "signature": shard.signature,
                "written": written[name]._asdict() if name in written else None,
            }
            for name, shard in planned.items()
        }
        write_text(manifest, json.dumps({"shards": entries, "unusable": unusable}))

    def finished(shard: Shard, counts: Written) -> None:
        written[os.path.basename(shard.path)] = counts
        save()

    save()
    if written:
        print(f"{len(written)} of {len(shards)} shards are complete already")
    if missing:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(out, DATASET))
        _in_parallel(missing, spread, finished)
    return written


def _read_manifest(path: str) -> Dict[str, Any]:
    try:
        with open(path, "rb") as file:
            contents = parse_object(file.read(), path)
        contents["shards"].items()
        return contents
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it") from None


def _clear(out: str, known: Set[str], force: bool) -> None:
    """Removes what killed processes left and, if forced to, shards other than the known ones."""
    names = sorted(os.listdir(out))
    foreign = [name for name in names if conversion.SHARD.fullmatch(name) and name not in known]
    if foreign and not force:
        raise FileExistsError(
            f"{out} holds {len(foreign)} shards of other images or settings, {foreign[0]} for one: "
            "choose another folder, or replace them with --force"
        )
    for name in foreign:
        os.remove(os.path.join(out, name))
    conversion.remove_parts(out)


def _in_parallel(
    shards: List[Shard], spread: Spread, finished: Callable[[Shard, Written], None]
) -> None:
    """Writes shards in several processes and shows how it goes.

    Args:
        shards: which.
        spread: starts the processes.
        finished: called in this process after each shard.

    Raises: as `_write_all`.
    """
    bar = Bar(sum(len(shard.images) for shard in shards))
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
                    bar.update(shown, f"images read, {rate:.0f} a second")
                if interrupt.signal:
                    raise KeyboardInterrupt
    finally:
        bar.close()


def _finish(out: str, found: Found, shards: List[Shard], written: Dict[str, Written]) -> None:
    """Writes dataset.json and says what has been made."""
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
    contents = {
        "classes": list(map(_utf8, found.classes)),
        "splits": splits,
        "skipped": {_utf8(name): _utf8(why) for name, why in sorted(skipped.items())},
    }
    write_text(os.path.join(out, DATASET), json.dumps(contents, indent=2) + "\n")

    for name, split in splits.items():
        print(
            f"{printable(out)}: {name}: {split['records']} records in "
            f"{len(split['shards'])} shards, {split['bytes'] / 1e6:.1f} MB"
        )
    encoded_anew = sum(counts.encoded_anew for counts in written.values())
    if encoded_anew:
        print(f"  {encoded_anew} images were encoded anew as JPEG")
    if skipped:
        print(f"  {len(skipped)} images or folders left out, all of them in dataset.json:")
        for reason in list(skipped.values())[:5]:
            print(f"    {printable(reason)}")
    print(
        f"next: python scripts/preview.py --data {printable(out)} --pipeline ROTATION "
        "--out sheet.png"
    )


def _utf8(name: str) -> str:
    """A name as it is in a UTF-8 locale, whatever the locale is; other bytes become surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    sys.exit(main())
