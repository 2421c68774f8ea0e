"""What all backends share: the options of a Loader, and the rule for unusable records."""

import abc
import dataclasses
import re
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from ..console.arguments import choice, whole
from ..epoch import draws
from ..epoch.order import Shuffle, WindowShuffle
from ..epoch.sharding import WorkerShare
from ..errors import RecordError
from ..language.check import Plan
from ..language.pipeline import Pipeline
from ..shards.access import Shards
from ..shards.index import Index
from ..shards.remote import FetchError
from ..shards.source import Records

# Image, label and index of a batch. The image is a tuple of arrays if there are several branches.
Arrays = Tuple[Any, np.ndarray, np.ndarray]

DTYPES = ("float32", "float16", "uint8")
LAYOUTS = ("NHWC", "NCHW")
DCTS = ("accurate", "fast")

REPLACEMENTS = 100


@dataclasses.dataclass
class Config:
    """The options of a `Loader`, whose documentation says what they mean.

    This is where they are checked. Here nothing is left to a default.

    Attributes:
        worker, workers: the Loader's `shard`.
        plan: the pipeline, compiled for training or for evaluation.

    Raises: ValueError; PipelineError.
    """

    pipeline: Pipeline
    batch_size: int
    training: bool
    seed: int
    shuffle: Shuffle
    worker: int
    workers: int
    drop_remainder: bool
    threads: int
    prefetch: int
    dtype: str
    layout: str
    label_dtype: str
    on_error: str
    max_pixels: int
    dct: str
    device: str
    plan: Plan = dataclasses.field(init=False)

    def __post_init__(self):
        self.batch_size = whole("batch_size", self.batch_size, 1, 2**31 - 1)
        self.training = bool(self.training)
        self.seed = whole("seed", self.seed, 0, 2**64 - 1)
        if not isinstance(self.shuffle, (bool, WindowShuffle)):
            raise ValueError(
                f"shuffle must be True, False or a WindowShuffle, not {self.shuffle!r}"
            )
        self.workers = whole("workers in shard", self.workers, 1, 2**31 - 1)
        self.worker = whole("worker in shard", self.worker, 0, self.workers - 1)
        self.drop_remainder = bool(self.drop_remainder)
        self.threads = whole("threads", self.threads, 1, 1024)
        self.prefetch = whole("prefetch", self.prefetch, 1, 1024)
        self.dtype = choice("dtype", self.dtype, DTYPES)
        self.layout = choice("layout", self.layout, LAYOUTS)
        self.label_dtype = choice("label_dtype", self.label_dtype, ("int32", "int64"))
        self.on_error = choice("on_error", self.on_error, ("raise", "skip"))
        self.max_pixels = whole("max_pixels", self.max_pixels, 1, 2**32 - 1)
        self.dct = choice("dct", self.dct, DCTS)
        if not isinstance(self.device, str) or not re.fullmatch(r"cpu|gpu(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, gpu or gpu:N, not {self.device!r}")
        self.plan = self.pipeline.compile(self.training)

    def share(self, num_records: int) -> WorkerShare:
        """What this worker reads of so many records."""
        return WorkerShare(
            num_records,
            self.seed,
            self.shuffle,
            self.worker,
            self.workers,
            self.batch_size,
            self.drop_remainder,
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """Everything that a backend needs to make batches.

    Attributes:
        records: the data set.
        index: index of its shards.
        shards: its shards, opened for this backend.
        share: records that are read, by batch.
        config: options of the Loader.
    """

    records: Records
    index: Index
    shards: Shards
    share: WorkerShare
    config: Config


class Backend(abc.ABC):
    """Makes batches: `seek` says which batch comes next, `next` gives it and moves on."""

    @abc.abstractmethod
    def seek(self, epoch: int, batch: int) -> None:
        """Says which batch comes next."""

    @abc.abstractmethod
    def next(self) -> Tuple[Any, np.ndarray, np.ndarray]:
        """Image, label and index of the next batch. Raises: RecordError."""

    @abc.abstractmethod
    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`."""

    @abc.abstractmethod
    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""

    def take_notes(self) -> List[str]:
        """What the user should know and has not been told: lines to log."""
        return []

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the threads, if there are any."""


class SkipRule:
    """What happens to a record that cannot be used: an error, or another record takes its place.

    The replacement is a pure function of the seed, the epoch, the record that belongs in the place
    and the number of records that were tried there before (see `epoch.draws`), so all backends
    choose the same one.
    """

    def __init__(self, work: Work):
        self._work = work

    def refuse(
        self, epoch: int, wanted: int, record: int, attempt: int, error: Exception
    ) -> Tuple[RecordError, Optional[int]]:
        """Decides about a record that cannot be used.

        Args:
            epoch: number of the epoch.
            wanted: record that belongs in the place.
            record: record that was tried.
            attempt: number of records that were tried before it.
            error: why it cannot be used. An OSError or a MemoryError is a fault of the machine;
                the record may be sound, so it is never replaced.

        Returns: the error to report, and the record to try next; None if the error must be raised.
        """
        records, index, config = self._work.records, self._work.index, self._work.config
        path, offset = records.where(record, index)
        of_machine = isinstance(error, (OSError, MemoryError))
        reason = _reason(error)
        if of_machine or config.on_error == "raise" or attempt == REPLACEMENTS:
            if attempt:
                reason += f" (the last of {attempt} records tried in place of record {wanted})"
            return RecordError(path, offset, record, reason), None
        words = draws.Draws(config.seed, epoch, wanted).block(draws.REPLACEMENT, 0, attempt)
        following = draws.below(words[0], len(index.offsets))
        return RecordError(path, offset, record, reason), following


class Skipped:
    """Counts skipped records, and keeps the first of each kind of failure.

    Attributes:
        count: number of records skipped so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kinds: Set[str] = set()
        self._first: List[RecordError] = []

    def add(self, fault: RecordError) -> None:
        """Counts a record that was skipped."""
        self.count += 1
        kind = kind_of(fault.reason)
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._first.append(fault)

    def take(self) -> List[RecordError]:
        """The first of each kind since the last call."""
        first, self._first = self._first, []
        return first


def kind_of(reason: str) -> str:
    """What reasons of one kind have in common.

    Words with digits in them, and what follows a semicolon, are details.
    """
    return " ".join(re.sub(r"\S*\d\S*", "", reason.partition(";")[0]).split())


def _reason(error: Exception) -> str:
    """The reason in a `RecordError`, which names the file itself."""
    if isinstance(error, MemoryError):
        return (
            "there is not enough memory to decode the record; use fewer threads or a lower "
            "max_pixels"
        )
    if isinstance(error, FetchError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open: {error.strerror}"
    return str(error)
