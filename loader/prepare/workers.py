"""Writes shards of images in several processes, on this machine or on a Ray cluster.

`in_processes` and `on_ray` are contexts that give an iterator, which reports the progress a few
times a second. When the context ends, all its processes have ended and no unfinished shard is left.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import re
import signal
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Generator,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

from ..console import processors
from ..shards.writer import TFRecordWriter, example
from . import image_folder, ray_cluster
from .image_folder import Entry, ImageError, Limits

SHARD = re.compile(r"(train|validation)-\d{5,}-of-\d{5,}")
_PART = re.compile(rf"\.{SHARD.pattern}\.\d+\.part")  # a killed TFRecordWriter's


class Shard(NamedTuple):
    """A shard to write.

    Attributes:
        split: "train" or "validation".
        path: path of the shard.
        root: folder that the images' names are relative to.
        images: the images, in order.
        class_names: name of each image's class.
        skip: whether images that cannot be used are left out.
        limits: which images are taken, and how they are encoded.
        signature: hash of everything that the shard's contents depend on.
    """

    split: str
    path: str
    root: str
    images: List[Entry]
    class_names: List[str]
    skip: bool
    limits: Limits
    signature: str


class Written(NamedTuple):
    """The counts of a shard that was written.

    Attributes:
        records: number of records; if it is 0 there is no file.
        bytes: size of the file.
        encoded_anew: number of images that were not stored as they were but encoded again.
        skipped: why images were left out, by name.
    """

    records: int
    bytes: int
    encoded_anew: int
    skipped: Dict[str, str]


class Progress(NamedTuple):
    """The progress so far.

    Attributes:
        images: number of images read so far.
        written: shards completed since the last report.
    """

    images: int
    written: List[Tuple[Shard, Written]]


Spread = Callable[[List[Shard]], ContextManager[Iterator[Progress]]]


@contextlib.contextmanager
def in_processes(shards: List[Shard], workers: Optional[int]) -> Iterator[Iterator[Progress]]:
    """Writes shards in processes of this machine.

    Args:
        shards: the shards to write.
        workers: number of processes; None for one a core.

    Raises: ImageError; OSError, also if a process is killed.
    """
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Value("b", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers or processors.available(), len(shards)),
        context,
        _start_worker,
        (done, stop, os.getpid()),
    )
    pending: Dict[Any, Shard] = {}

    def progress() -> Iterator[Progress]:
        while pending:
            ready, _ = concurrent.futures.wait(pending, 0.2, concurrent.futures.FIRST_COMPLETED)
            written = [(pending.pop(future), future.result()) for future in ready]
            yield Progress(done.value, written)

    try:
        with _signals_blocked():  # the workers inherit the blocked signals
            for shard in shards:
                pending[pool.submit(_write_here, shard)] = shard
        yield progress()
    except BrokenProcessPool:
        raise OSError(
            "a worker process was killed, perhaps because it was out of memory; try fewer --workers"
        ) from None
    finally:
        stop.value = 1
        for future in pending:
            future.cancel()
        pool.shutdown()


@contextlib.contextmanager
def on_ray(
    shards: List[Shard], workers: Optional[int], address: str, witness: str
) -> Iterator[Iterator[Progress]]:
    """Writes shards on a Ray cluster, whose nodes see images and shards under the same paths.

    A worker that is killed is replaced, and its shard is written again.

    Args:
        shards: the shards to write.
        workers: number of processes; None for one for each processor of the cluster.
        address: address of the cluster, see `ray_cluster.connected`.
        witness: path of a file in the folder of the shards; each node checks that it sees it.

    Raises: ImageError; ImportError without Ray; OSError, also if a node does not see the files.
    """
    shards = [
        shard._replace(path=os.path.abspath(shard.path), root=os.path.abspath(shard.root))
        for shard in shards
    ]
    out = os.path.dirname(shards[0].path)
    check = functools.partial(_check_sight, shards[0], ray_cluster.Witness.of(witness))
    with ray_cluster.connected(address) as ray:
        ray.on_each_node(check)

        def progress() -> Generator[Progress, None, None]:
            images = 0
            with contextlib.closing(ray.each(_writer, shards, workers)) as results:
                for written in results:
                    images += sum(len(shard.images) for shard, _ in written)
                    yield Progress(images, written)

        try:
            with contextlib.closing(progress()) as steps:
                yield steps
        finally:
            remove_parts(out)


def remove_parts(folder: str) -> None:
    """Removes what killed processes left of shards."""
    for name in os.listdir(folder):
        if _PART.fullmatch(name):
            os.remove(os.path.join(folder, name))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks SIGINT in this thread; processes started meanwhile never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Shared by the processes of this machine: how many images are done, and whether to stop.
_done: Any = None
_stop: Any = None


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    global _done, _stop
    _done, _stop = done, stop
    warnings.simplefilter("ignore")  # Pillow warns of odd metadata
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, even if the parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write_here(shard: Shard) -> Written:
    def count() -> None:
        with _done.get_lock():
            _done.value += 1
        if _stop.value:
            raise KeyboardInterrupt

    return _write(shard, count)


def _writer() -> Callable[[Shard], Written]:
    """The function that a worker of a Ray cluster calls with each shard."""
    warnings.simplefilter("ignore")
    return lambda shard: _write(shard, lambda: None)


def _check_sight(shard: Shard, witness: ray_cluster.Witness) -> None:
    """Raises OSError if this node does not see the same files as the other machine."""
    try:
        os.stat(os.path.join(shard.root, shard.images[0].name))
        witness.check()
    except OSError as error:
        raise OSError(
            f"{error}; all nodes must see {shard.root} and {os.path.dirname(shard.path)}, the same "
            "folders at the same paths"
        ) from None


class _NothingUsable(Exception):
    """Raised in the writer's context, so that it discards a shard without records."""


def _write(shard: Shard, after_image: Callable[[], None]) -> Written:
    skipped: Dict[str, str] = {}
    encoded_anew = 0
    try:
        with TFRecordWriter(shard.path) as writer:
            for image, class_name in zip(shard.images, shard.class_names):
                try:
                    path = os.path.join(shard.root, image.name)
                    jpeg = image_folder.as_jpeg(path, shard.limits)
                except ImageError as error:
                    if not shard.skip:
                        raise
                    skipped[image.name] = str(error)
                else:
                    encoded_anew += jpeg.encoded_anew
                    writer.write(_example(image, class_name, jpeg))
                after_image()
            if not writer.records:
                raise _NothingUsable
    except _NothingUsable:
        return Written(0, 0, 0, skipped)
    except OSError as error:
        raise OSError(f"{shard.path}: {error.strerror or error}") from None
    return Written(writer.records, writer.bytes, encoded_anew, skipped)


def _example(image: Entry, class_name: str, jpeg: image_folder.Jpeg) -> bytes:
    """A record in the layout of TF-Slim, which says 3 channels even for greyscale JPEGs."""
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
