"""What a `Loader` runs on: the compiled core, the reference that it is tested against, or DALI.

A backend makes batches: `seek` says which comes next, `next` gives it and moves on.
"""

import os
import re
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Set, Tuple, Union

import numpy as np

from .. import _core
from ..epoch import draws
from ..epoch.order import WindowShuffle, record_at
from ..errors import RecordError
from ..language import ops
from ..language.pipeline import Plan
from ..shards.cache import RemoteShards
from ..shards.records import Index, Shards, TFRecords
from ..shards.remote import FetchError

if TYPE_CHECKING:
    from .dali.backend import DaliBackend

Arrays = Tuple[np.ndarray, np.ndarray, np.ndarray]

REPLACEMENTS = 100


class Config:
    """What all backends need to know; `Loader` documents and checks the fields."""

    def __init__(
        self,
        plan: Plan,
        *,
        batch_size: int,
        seed: int,
        shuffle: Union[bool, WindowShuffle],
        shard: Tuple[int, int],
        drop_remainder: bool,
        run_ahead: bool,
        threads: int,
        prefetch: int,
        dtype: str,
        layout: str,
        skip_errors: bool,
        max_pixels: int,
        fast_dct: bool,
        device: str,
    ):
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.shard = shard
        self.drop_remainder = drop_remainder
        self.run_ahead = run_ahead
        self.threads = threads
        self.prefetch = prefetch
        self.dtype = dtype
        self.layout = layout
        self.skip_errors = skip_errors
        self.max_pixels = max_pixels
        self.fast_dct = fast_dct
        self.device = device


def reason_of(error: Exception) -> str:
    """What a fault of the machine is called in a `RecordError`, which names the file itself."""
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


def kind_of(reason: str) -> str:
    """What reasons of one kind have in common.

    Words with digits in them, and what follows a semicolon, are details.
    """
    return " ".join(re.sub(r"\S*\d\S*", "", reason.partition(";")[0]).split())


class NativeBackend:
    """The compiled core and its threads."""

    def __init__(self, records: TFRecords, shards: Shards, index: Index, config: Config):
        window = config.shuffle if isinstance(config.shuffle, WindowShuffle) else WindowShuffle()
        self._core = _core.Pipeline(
            config.plan,
            {
                "paths": list(map(os.fsencode, records.paths)),
                "open": shards.opener if isinstance(shards, RemoteShards) else None,
                "shard_begin": [int(x) for x in index.shard_begin],
                "offsets": index.offsets,
                "lengths": index.lengths,
                "verify_crc": records.verify_crc,
                "image_key": records.image_key,
                "label_key": records.label_key,
                "label_offset": records.label_offset,
                "label_required": records.label_required,
            },
            {
                "dtype": config.dtype,
                "layout": config.layout,
                "seed": config.seed,
                "shuffle": "window"
                if isinstance(config.shuffle, WindowShuffle)
                else "global"
                if config.shuffle
                else "none",
                "block": window.block,
                "blocks": window.blocks,
                "batch_size": config.batch_size,
                "shard": config.shard[0],
                "shards": config.shard[1],
                "drop_remainder": config.drop_remainder,
                "run_ahead": config.run_ahead,
                "skip_errors": config.skip_errors,
                "threads": config.threads,
                "prefetch": config.prefetch,
                "max_pixels": config.max_pixels,
                "fast_dct": config.fast_dct,
            },
        )
        if isinstance(shards, RemoteShards):
            shards.released = self._core.forget

    def seek(self, epoch: int, batch: int) -> None:
        """Says which batch comes next."""
        self._core.seek(epoch, batch)

    def next(self) -> Arrays:
        """Image, label and index of the next batch. Raises: RecordError."""
        image, label, index, fault = self._core.next()
        if fault is not None:
            raise RecordError(*fault)
        assert image is not None and label is not None and index is not None
        return image, label, index

    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`."""
        return self._core.stats()

    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""
        return [RecordError(*fault) for fault in self._core.take_skipped()]

    def close(self) -> None:
        """Ends the threads, if there are any."""
        self._core.close()


class ReferenceBackend:
    """NumPy, OpenCV and protobuf, one record after the other."""

    def __init__(self, records: TFRecords, shards: Shards, index: Index, config: Config):
        from .reference import renderer as reference

        self._reference = reference
        self._renderer = reference.Renderer(
            config.plan,
            seed=config.seed,
            dtype=config.dtype,
            layout=config.layout,
            max_pixels=config.max_pixels,
            fast_dct=config.fast_dct,
        )
        self._records, self._shards = records, shards
        self._index, self._config = index, config
        self._class_labels = not any(
            isinstance(op, (ops.Jigsaw, ops.Pair, ops.Rotate)) for op in config.plan.ops
        )
        self._position = (0, 0)
        self._skipped: List[RecordError] = []
        self._skipped_kinds: Set[str] = set()
        self._stats: Dict[str, Any] = dict.fromkeys(("records", "bytes", "skipped", "warnings"), 0)
        for name in ("read", "decode", "resample", "color", "wait"):
            self._stats[f"{name}_seconds"] = 0.0

    def seek(self, epoch: int, batch: int) -> None:
        """Says which batch comes next."""
        self._position = (epoch, batch)

    def next(self) -> Arrays:
        """Image, label and index of the next batch. Raises: RecordError."""
        begin = time.perf_counter()
        config = self._config
        epoch, batch = self._position
        shard, shards = config.shard
        total = len(self._index.offsets)
        own = total // shards if config.drop_remainder else -(-(total - shard) // shards)
        places = range(batch * config.batch_size, min(own, (batch + 1) * config.batch_size))
        rows = [
            self._record(
                record_at(config.seed, epoch, total, config.shuffle, shard + shards * place), epoch
            )
            for place in places
        ]
        self._position = (epoch, batch + 1)
        self._stats["wait_seconds"] += time.perf_counter() - begin
        return (
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]),
            np.array([row[2] for row in rows], np.int64),
        )

    def _record(self, wanted: int, epoch: int) -> Tuple[np.ndarray, np.ndarray, int]:
        config = self._config
        number = wanted
        for attempt in range(REPLACEMENTS + 1):
            shard, offset, length = self._records.locate(number, self._index)
            name = self._records.paths[shard]
            try:
                with self._shards.use(shard) as path:
                    data = self._reference.read_record(
                        path, offset, length, self._records.verify_crc
                    )
                image, label = self._reference.parse_example(
                    data, self._records.image_key, self._records.label_key
                )
                class_label = -1
                if self._class_labels:
                    class_label = self._reference.class_label(
                        data,
                        label,
                        self._records.label_key,
                        self._records.label_offset,
                        self._records.label_required,
                    )
                views, labels = self._renderer.views(image, class_label, number, epoch)
            except (OSError, MemoryError) as error:  # nothing is wrong with the record
                raise RecordError(name, offset, number, reason_of(error)) from error
            except ValueError as error:
                reason = str(error)
                if not config.skip_errors or attempt == REPLACEMENTS:
                    if attempt:
                        tried = f"the last of {attempt} records tried in place of record {wanted}"
                        reason += f" ({tried})"
                    raise RecordError(name, offset, number, reason) from None
                fault = RecordError(name, offset, number, reason)
                self._stats["skipped"] += 1
                kind = kind_of(reason)
                if kind not in self._skipped_kinds:
                    self._skipped_kinds.add(kind)
                    self._skipped.append(fault)
                words = draws.Draws(config.seed, epoch, wanted).block(draws.REPLACEMENT, 0, attempt)
                number = draws.below(words[0], len(self._index.offsets))
                continue
            self._stats["records"] += 1
            self._stats["bytes"] += length
            return views, labels, number
        raise AssertionError("the last attempt returns or raises")

    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`."""
        return dict(self._stats)

    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def close(self) -> None:
        """Ends the threads, if there are any."""


def _dali(records: TFRecords, shards: Shards, index: Index, config: Config) -> "DaliBackend":
    from .dali.backend import DaliBackend

    return DaliBackend(records, shards, index, config)


Backend = Union[NativeBackend, ReferenceBackend, "DaliBackend"]
BACKENDS: Dict[str, Callable[[TFRecords, Shards, Index, Config], Backend]] = {
    "native": NativeBackend,
    "reference": ReferenceBackend,
    "dali": _dali,
}


def make(name: str, records: TFRecords, shards: Shards, index: Index, config: Config) -> Backend:
    """The backend of that name. Raises: ValueError for an unknown one, or for its device."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    if name != "dali" and config.device != "cpu":
        raise ValueError(
            f"device={config.device!r} needs backend='dali'; the {name} backend makes its batches "
            "in the memory of the host"
        )
    return BACKENDS[name](records, shards, index, config)
