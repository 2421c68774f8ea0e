"""The `Loader`: batches of views, epoch after epoch, whose state is a few integers."""

import dataclasses
import functools
import json
import logging
import math
import operator
import os
import threading
import warnings
import weakref
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from . import backends
from .console import processors
from .console.arguments import whole
from .epoch.order import WindowShuffle
from .epoch.sharding import WorkerShare
from .epoch.workers import find as find_worker
from .errors import RecordError
from .language.pipeline import Pipeline
from .shards.access import Shards
from .shards.fetch_ahead import FetchAhead
from .shards.limits import MAX_PIXELS
from .shards.source import Records

_log = logging.getLogger("pretexture.loader")

_OPTIONS = frozenset(field.name for field in dataclasses.fields(backends.Config))


class Batch(NamedTuple):
    """A batch. The arrays belong to the caller for as long as it keeps them.

    Attributes:
        image: [N, *views, H, W, 3], or [N, *views, 3, H, W] with layout NCHW; a tuple of such
            arrays, one for each branch, if the pipeline has several. On a GPU it is what DALI
            returns, which speaks DLPack: `torch.from_dlpack(batch.image)`.
        label: int32 or int64 [N, *]: the class label, or the label that the pretext task asks for.
        index: int64 [N], record numbers.
    """

    image: Any
    label: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # not tuple.index

    def __repr__(self) -> str:
        """Shapes and dtypes; the values would fill thousands of lines."""
        parts = ", ".join(f"{name}={_described(part)}" for name, part in self._asdict().items())
        return f"Batch({parts})"


def _described(part: Any) -> str:
    """The dtype and the shape of an array, or of each in a tuple; the repr of anything else."""
    if type(part) is tuple:
        return f"({', '.join(map(_described, part))})"
    if isinstance(part, ArraySpec) or not hasattr(part, "shape"):
        return repr(part)
    return f"{getattr(part, 'dtype', type(part).__name__)} {list(part.shape)}"


class ArraySpec(NamedTuple):
    """The shape of an array, with None if the batch size varies, and the name of its dtype."""

    shape: Tuple[Optional[int], ...]
    dtype: str


class Stats(NamedTuple):
    """Totals since the Loader was made. Seconds are summed over its threads, except waiting.

    Attributes:
        records: records rendered, including those prefetched.
        bytes: size of these records in the shards.
        skipped: records that could not be used, with `on_error="skip"`.
        warnings: defects of JPEGs that decoding tolerates, such as stray bytes before a marker.
        read_seconds: time spent reading, checking and parsing records.
        decode_seconds: time spent decoding JPEGs.
        resample_seconds: time spent resampling views.
        color_seconds: time spent on colour, normalisation, writing and turning of views.
        wait_seconds: time that the consumer waited for batches that were not ready.
        jumps: how often the row index said where a row of a JPEG begins.
        bytes_jumped: bytes of JPEGs that therefore were not decoded.
    """

    records: int
    bytes: int
    skipped: int
    warnings: int
    read_seconds: float
    decode_seconds: float
    resample_seconds: float
    color_seconds: float
    wait_seconds: float
    jumps: int = 0
    bytes_jumped: int = 0


class Loader:
    """Turns records into batches of views.

    Each `for` runs one epoch, the next `for` the next epoch. A batch depends only on the seed, the
    epoch and its number in the epoch, not on the number of threads.

    Threads, buffers and open files begin with the first iteration, and anew in a process that was
    forked. So a Loader can be pickled, copied and handed to another process: the copy has the same
    arguments and continues from the same state, on its own.

    The options are also attributes, with the values that are used if they were left out.

    Args:
        records: the data set: `TFRecords`, `WebDataset`, `ImageFolder` or another `Records`.
        pipeline: what is done to each image; a `Pipeline` or its text.
        batch_size: records per batch.
        training: whether random steps are random and, by default, the order too.
        seed: random seed for every draw, 0 <= seed < 2**64.
        shuffle: True (global), False (in file order) or a `WindowShuffle`. By default True in
            training and False otherwise; in training on remote records, whose shards are fetched
            when they are needed, `WindowShuffle()`.
        shard: (w, W): positions w, w + W, … of the epoch's order, for worker w of W. With
            `drop_remainder`, every worker gets the same number of batches. "auto" asks
            torch.distributed, jax.distributed, or the launcher (RANK and WORLD_SIZE, srun, Open
            MPI) which worker this process is, again in each process that the Loader is handed to.
        drop_remainder: whether an incomplete last batch is left out. Default: `training`.
        threads: number of threads. Default: the processors that this process may use.
        prefetch: batches made ahead of the one in use.
        dtype: "float32", "float16", or "uint8": pixels before normalisation, for normalising on
            the device.
        layout: "NHWC" or "NCHW".
        label_dtype: "int32" or "int64".
        on_error: "raise" a RecordError for a record that cannot be used, or "skip" it: another
            record, drawn by the same counter-based rule, takes its place. If a file cannot be
            opened or read or changes after it was indexed, or if memory runs out, that is an error
            in either case, because the records may be sound.
        max_pixels: size of the largest image that is decoded, in pixels (width x height). A record
            with a larger image cannot be used. Decoding takes about three bytes of memory per
            pixel on each thread, or nine for a progressive JPEG.
        dct: integer DCT of libjpeg that decodes JPEGs: "accurate", or "fast", which is
            TensorFlow's default. Their pixels differ by 1.1 grey levels on average, by at most 18.
        backend: "native"; "reference", which is slow and written to be read; or "dali", NVIDIA
            DALI (see `pretexture.loader.backends.dali.backend` for what differs).
        device: device on which "dali" makes the views: "cpu"; or "gpu" or "gpu:N", where the
            images stay.

    Raises: PipelineError, RecordError (a broken shard), ValueError (another argument), ImportError
        (a backend that is not installed).
    """

    def __init__(
        self,
        records: Records,
        pipeline: Union[Pipeline, str],
        batch_size: int,
        *,
        training: bool = True,
        seed: int = 0,
        shuffle: Union[bool, WindowShuffle, None] = None,
        shard: Union[str, Tuple[int, int]] = (0, 1),
        drop_remainder: Optional[bool] = None,
        threads: Optional[int] = None,
        prefetch: int = 2,
        dtype: str = "float32",
        layout: str = "NHWC",
        label_dtype: str = "int32",
        on_error: str = "raise",
        max_pixels: int = MAX_PIXELS,
        dct: str = "accurate",
        backend: str = "native",
        device: str = "cpu",
    ):
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        if shuffle is None:
            shuffle = bool(training) and (not records.remote or WindowShuffle())
        worker, workers = _worker(shard)
        self.records = records
        self.config = backends.Config(
            pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline),
            batch_size,
            training=training,
            seed=seed,
            shuffle=shuffle,
            worker=worker,
            workers=workers,
            drop_remainder=training if drop_remainder is None else drop_remainder,
            threads=processors.available() if threads is None else threads,
            prefetch=prefetch,
            dtype=dtype,
            layout=layout,
            label_dtype=label_dtype,
            on_error=on_error,
            max_pixels=max_pixels,
            dct=dct,
            device=device,
        )

        if self.training and self.pipeline.name.startswith("EVAL"):
            warnings.warn(
                f"presets.{self.pipeline.name} with training=True takes random crops in random "
                "order; for evaluation, give training=False",
                stacklevel=2,
            )
        self._index = records.shard_index(on_error)
        for fault in self._index.faults:
            _log.warning("%s is left out: %s", records.leaves_out, fault)
        self.num_records = len(self._index.offsets)
        if self.num_records >= 2**32:
            raise ValueError(f"{self.num_records} records are more than the 2**32 supported")
        self.share = self.config.share(self.num_records)
        if len(self) == 0:
            raise ValueError(
                f"{self.num_records} records over {workers} workers make no batch of {batch_size}"
                + ("; drop_remainder=False would give a smaller one" if self.share.size else "")
            )
        self._check_memory(min(self.batch_size, self.share.size))
        self._running = _Running()
        self._stats_before: Dict[str, Any] = {}  # of backends that ended
        self._run()
        # Runs once: on `close`, when the Loader is dropped, or before the interpreter ends, because
        # threads that use Python must not outlive the interpreter.
        self._end = weakref.finalize(self, self._running.end)
        # Guards what an iteration changes. `close` does not take it: it must not wait for a batch.
        self._lock = threading.RLock()
        self._epoch = 0
        self._batch = 0
        self._restored = False
        # A token of the current `_Epoch`. It is not the `_Epoch` itself, which refers to this
        # Loader, so that dropping both ends the threads at once.
        self._iteration: Optional[object] = None
        self._warned = False
        _LOADERS.add(self)

    def __getattr__(self, name: str) -> Any:
        """An option, as `loader.batch_size`."""
        if name in _OPTIONS:
            return getattr(self.config, name)
        raise AttributeError(f"a Loader has no attribute {name!r}")

    @property
    def shard(self) -> Tuple[int, int]:
        """(worker, workers), as it was given."""
        return self.config.worker, self.config.workers

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.share.batches

    @property
    def element_spec(self) -> Batch:
        """A `Batch` of `ArraySpec`; the image is a tuple of them if there are several branches."""
        n = self.batch_size if self.drop_remainder else None
        images = tuple(ArraySpec((n, *shape), self.dtype) for shape in self._image_shapes())
        return Batch(
            images[0] if len(images) == 1 else images,
            ArraySpec((n, *self.plan.label_dims), self.label_dtype),  # type: ignore[arg-type]
            ArraySpec((n,), "int64"),  # type: ignore[arg-type]
        )

    def _image_shapes(self) -> List[Tuple[int, ...]]:
        """The shape of a record's image, for each branch."""
        return [
            (*branch.views, 3, branch.height, branch.width)
            if self.layout == "NCHW"
            else (*branch.views, branch.height, branch.width, 3)
            for branch in self.plan.branches
        ]

    def __iter__(self) -> "_Epoch":
        """Runs one epoch: the next one, or after `load_state_dict` the rest of the loaded one."""
        with self._lock:
            self._check_open()
            self._check_workers()
            if self._batch and not self._restored:
                self._epoch, self._batch = self._epoch + 1, 0
            self._restored = False
            self._run()
            self._announce()
            self._running.backend.seek(self._epoch, self._batch)
            self._iteration = object()
            return _Epoch(self, self._iteration)

    @property
    def begins_an_epoch(self) -> bool:
        """Whether the next `for` runs a whole epoch, and not the rest of one that was loaded."""
        if self._batch and not self._restored:
            return True
        return self._batch == 0 and self.share.start(self._epoch) == 0

    def set_epoch(self, epoch: int) -> None:
        """Makes an epoch the one that the next `for` runs, as PyTorch's samplers have it.

        If a state from within that epoch was loaded, its rest is what runs.

        Args:
            epoch: its number, from 0.
        """
        epoch = whole("epoch", epoch, 0, 2**32 - 1)
        with self._lock:
            self._check_open()
            if self._restored and self._epoch == epoch:
                return
            self._epoch, self._batch, self._restored = epoch, 0, True
            self._iteration = None

    def state_dict(self) -> Dict[str, Any]:
        """The state of the Loader, as plain numbers and strings.

        `epoch` and `batch` say which batch comes next. The other entries must be the same in the
        Loader that loads the state.
        """
        return self.share.state(self._epoch, self._batch)

    def load_state_dict(self, state: Dict[str, Any], elastic: bool = False) -> None:
        """Continues from `state`: the next `for` runs the rest of its epoch.

        The number of threads, the backend, the dtype and the layout may differ.

        Args:
            state: what `state_dict` returned.
            elastic: whether the number of workers and the batch size may differ, too. The epoch
                continues after the last record that the workers of the state had read, all of them
                at the same batch; later epochs are whole.

        Raises: ValueError naming the entry that does not fit.
        """
        with self._lock:
            self._check_open()
            share, epoch, batch = self.share.resume(state, elastic)
            self._set_share(share)
            at_end = 0 < batch == share.batches_in(epoch)
            self._epoch, self._batch = (epoch + 1, 0) if at_end else (epoch, batch)
            self._restored = True
            self._iteration = None

    def _set_share(self, share: WorkerShare) -> None:
        """Makes this the share that is read, by another backend if it differs."""
        if share != self.share:
            self._stats_before = self._stats()
            self._running.drop()
            self.share = share

    @property
    def stats(self) -> Stats:
        """Counts and times so far."""
        stats = {**dict.fromkeys(Stats._fields, 0), **self._stats()}
        stats["skipped"] += len(self._index.faults)
        return Stats(**stats)

    def _stats(self) -> Dict[str, Any]:
        """The fields of `Stats`, of all backends; {} if none has begun in this process."""
        before = self._stats_before
        now = self._running.backend.stats() if self._running.here else {}
        return {name: now.get(name, 0) + before.get(name, 0) for name in {**before, **now}}

    def close(self) -> None:
        """Stops the threads and frees the buffers that no array uses."""
        self._iteration = None
        self._end()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        with self._lock:
            return _copy, (self._arguments, self.state_dict())

    def __repr__(self) -> str:
        return (
            f"Loader({self.records!r}, {str(self.pipeline)!r}, batch_size={self.batch_size}, "
            f"training={self.training}, seed={self.seed})"
        )

    def _check_open(self) -> None:
        if not self._end.alive:
            raise RuntimeError("the Loader is closed")

    def _check_memory(self, records: int) -> None:
        shapes = [(records, *shape) for shape in self._image_shapes()]
        values = sum(functools.reduce(operator.mul, shape) for shape in shapes)
        self._batch_bytes = values * np.dtype(self.dtype).itemsize
        if self._batch_bytes > _memory():
            size = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
            raise ValueError(
                f"a batch of {size} values of {self.dtype} takes "
                f"{_size(self._batch_bytes)}, and this machine has {_size(_memory())} of memory; "
                "use a smaller batch_size"
            )

    def _announce(self) -> None:
        """Tells remote shards what is read now and what comes next."""
        if self._running.fetch_ahead and self._batch < self.share.batches_in(self._epoch):
            self._running.fetch_ahead.at(self._epoch, self._batch)

    def _run(self) -> None:
        """Makes the backend, if this process has none; it starts no thread yet."""
        if not self._running.here:
            shards = self.records.open_shards()
            work = backends.Work(self.records, self._index, shards, self.share, self.config)
            self._running.begin(self._arguments["backend"], work)

    def _after_fork(self) -> None:
        """Forgets, in a forked process, what belongs to the other one."""
        self._lock = threading.RLock()
        self._iteration = None
        self._stats_before = {}

    def _check_workers(self) -> None:
        """Warns if other processes train on the same records without being told apart."""
        if self._warned or not self.training or self.config.workers > 1:
            return
        try:
            worker, workers = find_worker()
        except ValueError:  # variables of something else
            return
        if workers > 1:
            self._warned = True
            warnings.warn(
                f"this process is number {worker} of {workers}, and with shard=(0, 1) each of them "
                f"reads all records; make its Loader with shard='auto' or ({worker}, {workers})",
                stacklevel=3,
            )

    def _next(self, iteration: object) -> Batch:
        self._check_open()
        if self._iteration is not iteration:
            raise RuntimeError(
                "another iteration of this Loader has begun, its state was loaded, or this process "
                "was forked from the one that began the iteration; a Loader runs one epoch at a "
                "time"
            )
        if self._batch == self.share.batches_in(self._epoch):
            self._epoch, self._batch = self._epoch + 1, 0
            self._iteration = None
            raise StopIteration
        self._announce()
        try:
            image, label, index = self._running.backend.next()
            batch = Batch(image, label.astype(self.label_dtype, copy=False), index)
        except MemoryError:
            raise MemoryError(
                f"there is not enough memory for {self.prefetch + 1} batches of "
                f"{_size(self._batch_bytes)}; use a smaller batch_size, prefetch or dtype"
            ) from None
        except RecordError:
            self._iteration = None
            # If the Loader was closed during a wait for a shard, the record is not to blame.
            self._check_open()
            raise
        finally:
            for fault in self._running.backend.take_skipped():
                _log.warning("skipped: %s", fault)
            for note in self._running.backend.take_notes():
                _log.warning("%s", note)
        self._batch += 1
        return batch


class _Epoch:
    """The iteration of one epoch. Threads may share it; each batch then goes to one of them.

    `get_state` and `set_state` are those of the iterator of grain's DataLoader, so grain's
    checkpoint handler for Orbax accepts it.
    """

    def __init__(self, loader: Loader, iteration: object):
        self._loader = loader
        self._iteration = iteration
        self._ended = False

    def __iter__(self) -> "_Epoch":
        return self

    def __next__(self) -> Batch:
        with self._loader._lock:
            if self._ended:  # perhaps because another thread took the last batch
                raise StopIteration
            try:
                return self._loader._next(self._iteration)
            except BaseException:
                self._ended = True
                raise

    def get_state(self) -> bytes:
        """The Loader's state as JSON; at the end of the epoch, the beginning of the next one."""
        return json.dumps(self._loader.state_dict()).encode()

    def set_state(self, state: bytes) -> None:
        """Continues this iterator from `state`, to the end of the epoch that the state is from.

        Raises: ValueError if the state is of other arguments; see `Loader.load_state_dict`.
        """
        with self._loader._lock:
            self._loader.load_state_dict(json.loads(state.decode()))
            self._iteration = iter(self._loader)._iteration
            self._ended = False


def _size(size: float) -> str:
    """A number of bytes as text."""
    units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.3g} {units[0]}"


def _memory() -> float:
    """The machine's memory in bytes; infinite if it is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _worker(shard: Any) -> Tuple[int, int]:
    """(worker, workers) of the argument `shard`."""
    if isinstance(shard, str) and shard == "auto":
        return find_worker()
    try:
        worker, workers = shard
        return worker, workers
    except (TypeError, ValueError):
        raise ValueError(f"shard must be (worker, workers) or 'auto', not {shard!r}") from None


class _Running:
    """The backend of a Loader, which belongs to the process that made it.

    Attributes:
        backend: the backend; None if there is none.
        fetch_ahead: what tells remote shards what comes next, if they are remote.
    """

    def __init__(self) -> None:
        self.backend: Any = None
        self.fetch_ahead: Optional[FetchAhead] = None
        self._shards: Optional[Shards] = None
        self._process: Optional[int] = None
        self._inherited: List[Any] = []

    @property
    def here(self) -> bool:
        """Whether there is a backend, and of this process."""
        return self.backend is not None and self._process == os.getpid()

    def begin(self, backend: str, work: backends.Work) -> None:
        """Makes the backend."""
        if self.backend is not None:
            # A forked process does not have the threads of what it has inherited, so it must never
            # be ended.
            self._inherited.append((self.backend, self.fetch_ahead, self._shards))
        self.drop()
        self._process, self._shards = os.getpid(), work.shards
        if work.records.remote:
            config = work.config
            self.fetch_ahead = FetchAhead(
                work.shards, work.index, work.share, config.prefetch, run_ahead=config.training
            )
        self.backend = backends.make(backend, work)

    def end(self) -> None:
        """Ends all threads, and before that their waits for shards."""
        if self.here:
            assert self._shards is not None
            self._shards.close()
            self.backend.close()

    def drop(self) -> None:
        """Ends the backend and forgets it."""
        self.end()
        self.backend = self.fetch_ahead = self._shards = None


_LOADERS: "weakref.WeakSet[Loader]" = weakref.WeakSet()


def _after_fork() -> None:
    for loader in list(_LOADERS):
        loader._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _copy(arguments: Dict[str, Any], state: Dict[str, Any]) -> Loader:
    """A Loader with these arguments that continues from this state, if as another worker."""
    loader = Loader(**arguments)
    loader.load_state_dict(state, elastic=True)
    return loader
