"""The reference backend: NumPy, OpenCV and protobuf, one record after the other."""

import time
from typing import Any, Dict, List, Tuple

import numpy as np

from ...epoch.order import record_at
from ...errors import RecordError
from ..base import Arrays, Backend, Skipped, SkipRule, Work
from .records import read_example
from .renderer import Renderer


class ReferenceBackend(Backend):
    """Reads and renders a batch when it is asked for."""

    def __init__(self, work: Work):
        config = work.config
        self._work = work
        self._renderer = Renderer(
            config.plan,
            seed=config.seed,
            dtype=config.dtype,
            layout=config.layout,
            max_pixels=config.max_pixels,
            fast_dct=config.dct == "fast",
        )
        self._rule = SkipRule(work)
        self._skipped = Skipped()
        self._position = (0, 0)
        self._stats: Dict[str, Any] = dict.fromkeys(("records", "bytes", "warnings"), 0)
        for name in ("read", "decode", "resample", "color", "wait"):
            self._stats[f"{name}_seconds"] = 0.0

    def seek(self, epoch: int, batch: int) -> None:
        """Says which batch comes next."""
        self._position = (epoch, batch)

    def next(self) -> Arrays:
        """Image, label and index of the next batch. Raises: RecordError."""
        begin = time.perf_counter()
        epoch, batch = self._position
        share = self._work.share
        rows = [
            self._record(
                record_at(share.seed, epoch, share.num_records, share.shuffle, position), epoch
            )
            for position in share.positions(epoch, batch)
        ]
        self._position = (epoch, batch + 1)
        self._stats["wait_seconds"] += time.perf_counter() - begin
        images, labels, numbers = zip(*rows)
        stacked = (
            tuple(map(np.stack, zip(*images))) if isinstance(images[0], tuple) else np.stack(images)
        )
        return stacked, np.stack(labels), np.array(numbers, np.int64)

    def stats(self) -> Dict[str, Any]:
        """The fields of `Stats`."""
        return {**self._stats, "skipped": self._skipped.count}

    def take_skipped(self) -> List[RecordError]:
        """What was skipped since the last call: the first of each kind of failure."""
        return self._skipped.take()

    def close(self) -> None:
        """Does nothing: there are no threads."""

    def _record(self, wanted: int, epoch: int) -> Tuple[Any, np.ndarray, int]:
        """Views, labels and number of the record in the place of record `wanted`."""
        number, attempt = wanted, 0
        while True:
            try:
                views, labels = self._render(number, epoch)
                return views, labels, number
            except (ValueError, OSError, MemoryError) as error:
                fault, following = self._rule.refuse(epoch, wanted, number, attempt, error)
                if following is None:
                    raise fault from error
            self._skipped.add(fault)
            number, attempt = following, attempt + 1

    def _render(self, number: int, epoch: int) -> Tuple[Any, np.ndarray]:
        work = self._work
        encoded = work.records.read(number, work.index, work.shards, read_example)
        label = encoded.label() if work.config.plan.class_label else -1
        rendered = self._renderer.views(encoded.image, label, number, epoch)
        self._stats["records"] += 1
        self._stats["bytes"] += encoded.size
        return rendered
