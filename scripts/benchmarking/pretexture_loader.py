"""The Loader itself: from its second epoch on, or as it is in its first epoch."""

import tempfile
from typing import Any, Dict, Iterator, Tuple

from pretexture.loader import Loader, TFRecords, presets

from .jobs import FIRST_EPOCH, TASKS, Job, Source


def open(job: Job) -> Source:
    """The Loader of a job."""
    return Batches(job)


class Batches(Source):
    """The batches of a Loader.

    Attributes:
        loader: the Loader.
    """

    def __init__(self, job: Job):
        first = job.contender == FIRST_EPOCH
        # A cache of its own, so that no run depends on the row indexes of other runs.
        self._cache = tempfile.TemporaryDirectory(prefix="pretexture-benchmark-")
        self.loader = Loader(
            TFRecords(job.paths, row_index="off" if first else "auto", cache_dir=self._cache.name),
            presets.find(TASKS[job.task].pipeline),
            job.batch_size,
            training=job.training,
            seed=job.seed,
            shuffle=True,
            drop_remainder=True,
            threads=job.threads,
            dtype=job.dtype,
        )
        if not first:
            for _ in self.loader:
                pass

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            for batch in self.loader:
                yield batch.image, batch.label

    def times(self) -> Dict[str, float]:
        """How long the Loader's stages have taken so far, and for how many records."""
        stats = self.loader.stats._asdict()
        times = {name: value for name, value in stats.items() if name.endswith("_seconds")}
        return {"records": stats["records"], **times}
