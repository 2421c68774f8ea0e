"""The compiled core and its threads."""

from typing import Any, Dict, List

from .. import _core
from ..epoch.order import core_arguments
from ..errors import RecordError
from ..shards.row_index import row_files
from .base import Arrays, Backend, Work


class NativeBackend(Backend):
    """Leaves everything to the compiled core."""

    def __init__(self, work: Work):
        records, config = work.records, work.config
        shuffle, block, blocks = core_arguments(config.shuffle)
        self._core = _core.Batcher(
            config.plan,
            records.core_arguments(work.index, work.shards.opener(self._release)),
            {
                "dtype": config.dtype,
                "layout": config.layout,
                "seed": config.seed,
                "shuffle": shuffle,
                "block": block,
                "blocks": blocks,
                "batch_size": config.batch_size,
                "shard": config.worker,
                "shards": config.workers,
                "drop_remainder": config.drop_remainder,
                "begin": work.share.begin,
                "run_ahead": config.training,
                "skip_errors": config.on_error == "skip",
                "threads": config.threads,
                "prefetch": config.prefetch,
                "max_pixels": config.max_pixels,
                "fast_dct": config.dct == "fast",
                "rows": row_files(records),
            },
        )

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

    def take_notes(self) -> List[str]:
        """What a user should know of the row index, once."""
        fault = self._core.take_row_fault()
        return [f"{fault}; decoding continues without it"] if fault else []

    def close(self) -> None:
        """Ends the threads."""
        self._core.close()

    def _release(self, shard: int) -> None:
        self._core.forget(shard)
