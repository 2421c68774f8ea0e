"""Turns folders of images into TFRecord shards that the loader and the trainers read.

SRC holds a folder of images for each class; or such folders in train/ and in val/, validation/ or
test/; or simply images, without classes. OUT gets train-*-of-*, validation-*-of-* and
dataset.json, which names the classes in the order of their labels and counts the records.

A JPEG is stored as it is; other formats, CMYK and photographs that lie on their side are encoded
anew with quality 95. The same command again goes on where an earlier one was interrupted.

    python scripts/prepare.py photographs/ shards/
    python scripts/prepare.py --demo demo-data
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from pretexture.trainers.commandline import add_traceback_flag, short_errors, whole
from pretexture.trainers.files import write_text
from pretexture.trainers.interrupt import Interrupt
from pretexture.trainers.progress import Bar

try:
    import demo_images
    import image_folder
    from image_folder import Entry, Found, ImageError
    from pretexture.loader.writer import TFRecordWriter, example
except ImportError as error:  # Pillow or protobuf
    sys.exit(f"error: {error}; pip install 'pretexture[demo]'")

SHARD_BYTES = 100_000_000
MIN_SHARDS = {"train": 16, "validation": 4}
DEMO_SHARDS = {"train": 8, "validation": 2}

DATASET = "dataset.json"

_MANIFEST = ".prepare.json"
_SHARD = re.compile(r"(train|validation)-\d{5,}-of-\d{5,}")
_PART = re.compile(rf"\.{_SHARD.pattern}\.\d+\.part")  # a killed TFRecordWriter's


class Shard(NamedTuple):
    """A shard to be written, and what goes into it.

    Attributes:
        split: "train" or "validation".
        path: of the shard.
        root: the folder that names of images are relative to.
        images: in order.
        class_names: of each image's class.
        skip: leave out the images that cannot be used.
        signature: changes with anything that changes the shard.
    """

    split: str
    path: str
    root: str
    images: List[Entry]
    class_names: List[str]
    skip: bool
    signature: str


class Written(NamedTuple):
    """What became of a shard: counts, and why images were left out, by name."""

    records: int
    bytes: int
    encoded_anew: int
    skipped: Dict[str, str]


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
    print(f"looking through {flags.src}", flush=True)
    found = image_folder.find(flags.src, flags.validation_fraction, flags.seed)
    _report_found(flags.src, found)
    shards = _plan(flags.src, flags.out, found, counts, flags.on_error == "skip")
    os.makedirs(flags.out, exist_ok=True)
    written = _write_all(shards, flags.out, flags.workers, flags.force)
    _finish(flags.out, found.classes, shards, written)


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
        help="number of shards (default: of about 100 MB, at least 16)",
    )
    parser.add_argument(
        "--validation-shards",
        type=whole,
        metavar="N",
        help="number of shards (default: of about 100 MB, at least 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the order of images (default: 0)"
    )
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes (default: one a core)"
    )
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at an image that cannot be used (default), or leave it out and list it",
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
    print(f"{src}: {len(found.classes)} class{plural}; images: {counts}")
    if found.ignored:
        print(f"  {len(found.ignored)} other files left out, {found.ignored[0]} for one")


def _plan(
    src: str, out: str, found: Found, counts: Dict[str, Optional[int]], skip: bool
) -> List[Shard]:
    """The shards that hold what was found, all of about the same number of images."""
    shards = []
    for split, entries in found.splits.items():
        count = counts[split]
        if count is None:
            count = max(
                MIN_SHARDS[split], math.ceil(sum(entry.size for entry in entries) / SHARD_BYTES)
            )
        count = min(count, len(entries))
        for number, images in enumerate(image_folder.in_shards(entries, count)):
            names = [found.classes[image.label] for image in images]
            content = json.dumps([image_folder.QUALITY, images, names]).encode()
            path = os.path.join(out, f"{split}-{number:05d}-of-{count:05d}")
            signature = hashlib.sha256(content).hexdigest()
            shards.append(Shard(split, path, src, images, names, skip, signature))
    return shards


def _write_all(
    shards: List[Shard], out: str, workers: Optional[int], force: bool
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
        for name, entry in _read_manifest(manifest).items()
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
        write_text(manifest, json.dumps({"shards": entries}))

    def finished(shard: Shard, counts: Written) -> None:
        written[os.path.basename(shard.path)] = counts
        save()

    save()
    if written:
        print(f"{len(written)} of {len(shards)} shards are complete already")
    if missing:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(out, DATASET))
        _in_parallel(missing, workers or _processors(), finished)
    return written


def _read_manifest(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["shards"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it") from None


def _clear(out: str, known: Set[str], force: bool) -> None:
    """Removes what killed processes left and, if forced to, shards other than the known ones."""
    names = sorted(os.listdir(out))
    foreign = [name for name in names if _SHARD.fullmatch(name) and name not in known]
    if foreign and not force:
        raise FileExistsError(
            f"{out} holds {len(foreign)} shards of other images or settings, {foreign[0]} for one: "
            "choose another folder, or replace them with --force"
        )
    for name in foreign + [name for name in names if _PART.fullmatch(name)]:
        os.remove(os.path.join(out, name))


def _in_parallel(
    shards: List[Shard], workers: int, finished: Callable[[Shard, Written], None]
) -> None:
    """Writes shards in several processes and shows how it goes.

    Args:
        shards: which.
        workers: number of processes.
        finished: called in this process after each shard.

    Raises: as `_write_all`. The workers have ended by then and leave no part of a shard.
    """
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Value("b", 0)
    total = sum(len(shard.images) for shard in shards)
    bar = Bar(total)
    began, shown = time.monotonic(), 0
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(shards)), context, _start_worker, (done, stop, os.getpid())
    )
    pending: Dict[Any, Shard] = {}
    try:
        with Interrupt() as interrupt:
            with _signals_blocked():  # the workers, which start here, inherit that for good
                for shard in shards:
                    pending[pool.submit(_write, shard)] = shard
            while pending:
                ready, _ = concurrent.futures.wait(pending, 0.2, concurrent.futures.FIRST_COMPLETED)
                for future in ready:
                    finished(pending.pop(future), future.result())
                if done.value > shown:
                    shown = done.value
                    rate = shown / (time.monotonic() - began)
                    bar.update(shown, f"images read, {rate:.0f} a second")
                if interrupt.signal:
                    raise KeyboardInterrupt
    except BrokenProcessPool:
        raise OSError(
            "a worker process was killed, perhaps for want of memory; try fewer --workers"
        ) from None
    finally:
        stop.value = 1
        for future in pending:
            future.cancel()
        pool.shutdown()
        bar.close()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Puts off Ctrl-C; processes started meanwhile never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


# A worker's: images done by all workers, and whether to stop; both shared.
_done: Any = None
_stop: Any = None


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    global _done, _stop
    _done, _stop = done, stop
    warnings.simplefilter("ignore")  # Pillow's remarks about metadata
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has: a killed one cannot say so."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(shard: Shard) -> Written:
    skipped: Dict[str, str] = {}
    encoded_anew = 0
    try:
        with TFRecordWriter(shard.path) as writer:
            for image, class_name in zip(shard.images, shard.class_names):
                if _stop.value:
                    raise KeyboardInterrupt
                try:
                    jpeg = image_folder.as_jpeg(os.path.join(shard.root, image.name))
                except ImageError as error:
                    if not shard.skip:
                        raise
                    skipped[image.name] = str(error)
                else:
                    encoded_anew += jpeg.encoded_anew
                    writer.write(_example(image, class_name, jpeg))
                with _done.get_lock():
                    _done.value += 1
            if not writer.records:
                raise ImageError(
                    f"{next(iter(skipped.values()))}; nor can any other of the {len(skipped)} "
                    f"images for {os.path.basename(shard.path)} be used"
                )
    except OSError as error:
        raise OSError(f"{shard.path}: {error.strerror or error}") from None
    return Written(writer.records, writer.bytes, encoded_anew, skipped)


def _example(image: Entry, class_name: str, jpeg: image_folder.Jpeg) -> bytes:
    """A record as TF-Slim lays it out, which says of grey JPEGs, too, that they have 3 channels."""
    return example(
        {
            "image/encoded": jpeg.data,
            "image/format": "JPEG",
            "image/height": jpeg.height,
            "image/width": jpeg.width,
            "image/colorspace": "RGB",
            "image/channels": 3,
            "image/filename": os.fsencode(image.name),
            "image/class/label": image.label + 1,
            "image/class/synset": os.fsencode(class_name),
            "image/class/text": os.fsencode(class_name),
        }
    )


def _finish(
    out: str, classes: Tuple[str, ...], shards: List[Shard], written: Dict[str, Written]
) -> None:
    """Writes dataset.json and says what has been made."""
    splits: Dict[str, Dict[str, Any]] = {}
    for shard in shards:
        name = os.path.basename(shard.path)
        split = splits.setdefault(shard.split, {"records": 0, "bytes": 0, "shards": []})
        split["records"] += written[name].records
        split["bytes"] += written[name].bytes
        split["shards"].append(name)
    skipped = dict(sorted(item for counts in written.values() for item in counts.skipped.items()))
    contents = {"classes": classes, "splits": splits, "skipped": skipped}
    write_text(os.path.join(out, DATASET), json.dumps(contents, indent=2) + "\n")

    for name, split in splits.items():
        print(
            f"{out}: {name}: {split['records']} records in {len(split['shards'])} shards, "
            f"{split['bytes'] / 1e6:.1f} MB"
        )
    encoded_anew = sum(counts.encoded_anew for counts in written.values())
    if encoded_anew:
        print(f"  {encoded_anew} images were encoded anew as JPEG")
    if skipped:
        print(f"  {len(skipped)} images left out, all of them in dataset.json:")
        for reason in list(skipped.values())[:5]:
            print(f"    {reason}")
    print(f"next: python scripts/preview.py --data {out} --pipeline ROTATION --out sheet.png")


if __name__ == "__main__":
    sys.exit(main())
