"""Reads the encoded images of whole batches, in the order of an epoch, on threads.

It is for backends whose pixels are made elsewhere. Records are read, checked and parsed by the
compiled core.
"""

import concurrent.futures
import time
from typing import Dict, List, Optional, Tuple

from ... import _core
from ...epoch.sharding import Position
from ...errors import RecordError
from ..base import SkipRule, Work


class Image:
    """What stands at one place of a batch.

    Attributes:
        wanted: record that the order of the epoch puts here.
        record: record that is here: `wanted`, or its replacement.
        encoded, label, height, width: its encoded image, class label and size in pixels.
        bytes: its length in the shard.
        error: why there is no image.
        skipped: errors of the records that were tried here and could not be used.
    """

    def __init__(self, wanted: int):
        self.wanted = self.record = wanted
        self.encoded = b""
        self.label = -1
        self.height = self.width = 0
        self.bytes = 0
        self.error: Optional[RecordError] = None
        self.skipped: List[RecordError] = []


class BatchReader:
    """Reads batches, each on all threads at once.

    Attributes:
        seconds: time spent reading, summed over the threads.
    """

    def __init__(self, work: Work):
        self._work = work
        self._rule = SkipRule(work)
        self._pool = concurrent.futures.ThreadPoolExecutor(work.config.threads)
        self._unusable: Dict[Tuple[int, int], str] = {}  # reasons, by epoch and record
        self.seconds = 0.0

    def read(self, position: Position) -> List[Image]:
        """The images of a batch."""
        epoch, batch = position
        images = [Image(int(record)) for record in self._work.share.records(epoch, batch)]
        threads = min(self._work.config.threads, len(images))
        parts = [
            self._pool.submit(self._load_all, images[i::threads], epoch) for i in range(threads)
        ]
        self.seconds += sum(part.result() for part in parts)
        return images

    def refuse(self, image: Image, epoch: int, error: Exception) -> None:
        """Puts another record in the place of one that cannot be used, or sets its `error`."""
        self._refuse(image, epoch, error)
        self._load(image, epoch)

    def remember(self, record: int, epoch: int, reason: str) -> None:
        """Refuses a record from now on in this epoch; in another epoch its windows differ."""
        self._unusable[epoch, record] = reason

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _load_all(self, images: List[Image], epoch: int) -> float:
        begin = time.perf_counter()
        for image in images:
            self._load(image, epoch)
        return time.perf_counter() - begin

    def _load(self, image: Image, epoch: int) -> None:
        while image.error is None:
            try:
                self._read(image, epoch)
                return
            except (ValueError, OSError, MemoryError) as error:
                self._refuse(image, epoch, error)

    def _read(self, image: Image, epoch: int) -> None:
        work, config = self._work, self._work.config
        encoded = work.records.read(image.record, work.index, work.shards)
        image.encoded = encoded.image
        image.height, image.width = _core.image_size(image.encoded, config.max_pixels)
        if (epoch, image.record) in self._unusable:
            raise ValueError(self._unusable[epoch, image.record])
        image.label = encoded.label() if config.plan.class_label else -1
        image.bytes = encoded.size

    def _refuse(self, image: Image, epoch: int, error: Exception) -> None:
        fault, following = self._rule.refuse(
            epoch, image.wanted, image.record, len(image.skipped), error
        )
        if following is None:
            image.error = fault
        else:
            image.skipped.append(fault)
            image.record = following
