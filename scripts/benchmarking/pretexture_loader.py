"""The Loader itself."""

from typing import Any, Dict, Iterator, Tuple

from pretexture.loader import Loader, TFRecords, presets

from .jobs import TASKS, Job, Source


def open(job: Job) -> "_Batches":
    """The Loader of a job."""
    return _Batches(job)


class _Batches(Source):
    def __init__(self, job: Job):
        self._loader = Loader(
            TFRecords(job.paths),
            presets.ALL[TASKS[job.task].preset],
            job.batch_size,
            training=job.training,
            seed=job.seed,
            shuffle=True,
            drop_remainder=True,
            threads=job.threads,
            dtype=job.dtype,
        )

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            for batch in self._loader:
                yield batch.image, batch.label

    def times(self) -> Dict[str, float]:
        """The Loader's own record of where its time goes, and the records that it stands for."""
        stats = self._loader.stats._asdict()
        times = {name: value for name, value in stats.items() if name.endswith("_seconds")}
        return {"records": stats["records"], **times}
