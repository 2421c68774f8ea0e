"""Reads the encoded images of whole batches, in the order of an epoch, on threads.

For backends whose pixels are made elsewhere. Order, sharding, checksums and the replacement of
records that cannot be used are the core's.
"""

import collections
import concurrent.futures
import os
import time
from typing import Deque, Dict, List, NamedTuple, Optional, Tuple

from ... import _core
from ...epoch import draws
from ...epoch.order import WindowShuffle
from ...errors import RecordError
from ...language import ops
from ...shards.records import Index, Shards, TFRecords
from ..base import REPLACEMENTS, Config, reason_of

Position = Tuple[int, int]  # epoch, batch


class Image:
    """What stands at one place of a batch.

    Attributes:
        wanted: the record that the order of the epoch puts here.
        record: the one that is here: `wanted`, or what replaces it.
        encoded, label, height, width: its encoded image, class label and size in pixels.
        bytes: its length in the shard.
        error: why there is none.
        skipped: records that could not be used, and why.
    """

    def __init__(self, wanted: int):
        self.wanted = self.record = wanted
        self.encoded = b""
        self.label = -1
        self.height = self.width = 0
        self.bytes = 0
        self.error: Optional[RecordError] = None
        self.skipped: List[RecordError] = []


class Reading(NamedTuple):
    """A batch that is being read."""

    position: Position
    images: List[Image]
    parts: "List[concurrent.futures.Future[float]]"


class BatchReader:
    """Reads batches; those asked for with `read_ahead` are ready sooner.

    Args:
        records: the data set.
        shards: of it.
        index: of it.
        config: order, sharding, what to do about errors, number of threads.
    """

    def __init__(self, records: TFRecords, shards: Shards, index: Index, config: Config):
        self._records, self._shards = records, shards
        self._index, self._config = index, config
        self._total = len(index.offsets)
        worker, workers = config.shard
        self._own = (
            self._total // workers
            if config.drop_remainder
            else -(-(self._total - worker) // workers)
        )
        size = config.batch_size
        self._batches = self._own // size if config.drop_remainder else -(-self._own // size)
        window = config.shuffle if isinstance(config.shuffle, WindowShuffle) else WindowShuffle()
        kind = "window" if isinstance(config.shuffle, WindowShuffle) else "none"
        self._order = ("global" if config.shuffle is True else kind, window.block, window.blocks)
        self._class_labels = not any(
            isinstance(op, (ops.Jigsaw, ops.Pair, ops.Rotate)) for op in config.plan.ops
        )
        self._pool = concurrent.futures.ThreadPoolExecutor(config.threads)
        self._ahead: Deque[Reading] = collections.deque()
        self._unusable: Dict[Tuple[int, int], str] = {}
        self.seconds = 0.0

    def after(self, position: Position) -> Optional[Position]:
        """The next position; None at the end of an epoch where the loader does not run ahead."""
        epoch, batch = position
        if batch + 1 < self._batches:
            return epoch, batch + 1
        return (epoch + 1, 0) if self._config.run_ahead else None

    def read_ahead(self, position: Position) -> None:
        """Begins to read a batch."""
        epoch, batch = position
        config = self._config
        shard, shards = config.shard
        begin = batch * config.batch_size
        images = [
            Image(
                _core.record_at(
                    config.seed, epoch, self._total, *self._order, shard + shards * place
                )
            )
            for place in range(begin, min(self._own, begin + config.batch_size))
        ]
        workers = min(config.threads, len(images))
        parts = [
            self._pool.submit(self._load_all, images[i::workers], epoch) for i in range(workers)
        ]
        self._ahead.append(Reading(position, images, parts))

    def read(self, position: Position) -> List[Image]:
        """The images of a batch; any other that was being read before it is forgotten."""
        while self._ahead and self._ahead[0].position != position:
            self._ahead.popleft()
        if not self._ahead:
            self.read_ahead(position)
        reading = self._ahead.popleft()
        self.seconds += sum(part.result() for part in reading.parts)
        return reading.images

    def refuse(self, image: Image, epoch: int, reason: str) -> None:
        """Puts another record in the place of one that cannot be used, or sets its `error`."""
        self._refuse(image, epoch, reason)
        if image.error is None:
            self._load(image, epoch)

    def remember(self, record: int, epoch: int, reason: str) -> None:
        """Refuses a record from now on, in that epoch: its windows differ from epoch to epoch."""
        self._unusable[epoch, record] = reason

    def close(self) -> None:
        """Ends the threads."""
        for reading in self._ahead:
            for part in reading.parts:
                part.cancel()
        self._ahead.clear()
        self._pool.shutdown()

    def _load_all(self, images: List[Image], epoch: int) -> float:
        begin = time.perf_counter()
        for image in images:
            self._load(image, epoch)
        return time.perf_counter() - begin

    def _load(self, image: Image, epoch: int) -> None:
        while True:
            try:
                self._read(image, epoch)
                return
            except (OSError, MemoryError) as error:  # nothing is wrong with the record
                self._refuse(image, epoch, reason_of(error), replace=False)
            except ValueError as error:
                self._refuse(image, epoch, str(error))
            if image.error is not None:
                return

    def _read(self, image: Image, epoch: int) -> None:
        records = self._records
        shard, offset, length = records.locate(image.record, self._index)
        with self._shards.use(shard) as path:
            data = _core.read_record(os.fsencode(path), offset, length, records.verify_crc)
        image.encoded, _ = _core.parse_example(data, records.image_key, records.label_key)
        image.height, image.width = _core.image_size(image.encoded, self._config.max_pixels)
        if (epoch, image.record) in self._unusable:
            raise ValueError(self._unusable[epoch, image.record])
        image.label = records.class_label(data) if self._class_labels else -1
        image.bytes = length

    def _refuse(self, image: Image, epoch: int, reason: str, replace: bool = True) -> None:
        config = self._config
        shard, offset, _ = self._records.locate(image.record, self._index)
        path = self._records.paths[shard]
        attempt = len(image.skipped)
        if not (replace and config.skip_errors) or attempt == REPLACEMENTS:
            if attempt:
                tried = f"the last of {attempt} records tried in place of record {image.wanted}"
                reason += f" ({tried})"
            image.error = RecordError(path, offset, image.record, reason)
            return
        image.skipped.append(RecordError(path, offset, image.record, reason))
        words = draws.Draws(config.seed, epoch, image.wanted).block(draws.REPLACEMENT, 0, attempt)
        image.record = draws.below(words[0], self._total)
