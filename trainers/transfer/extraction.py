"""Features computed on a Ray cluster: ranges of batches, each by a process that has the network."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
from typing import Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from pretexture.loader import Loader, Pipeline, TFRecords, imagenet
from pretexture.loader.console.redaction import redacted
from pretexture.loader.prepare import ray_cluster as cluster
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import Storage

from ..recipes import Recipe
from ..runs.mirror import contents
from .features import Part, Range, in_order

_BATCHES = 8  # a range


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker must know to compute features; it sees files under the same paths.

    Attributes:
        module: folder of the export.
        contents: of that folder, as `remote_workdir.contents` gives them here.
        end_points: names of those that are wanted.
        recipe: see `FrozenFeatures`; its `eval_batch_size` is that of the batches.
        data, split, storage: of the images, and how to reach them at a URL.
        records: how many there are.
        reading: how they are read.
    """

    module: str
    contents: Mapping[str, str]
    end_points: Sequence[str]
    recipe: Recipe
    data: str
    split: str
    storage: Storage
    records: int
    reading: RecordOptions

    def images(self) -> TFRecords:
        """The records."""
        return imagenet(self.data, self.split, **vars(self.storage), **self.reading.features)


def on_ray(
    job: Job, address: str, device: str, threads: Optional[int]
) -> Callable[[List[Range]], Iterator[Part]]:
    """Computes features on a Ray cluster; for `features.extract`.

    A worker that is killed is replaced, and its range done anew.

    Args:
        job: see there.
        address: see `cluster.connected`.
        device: "auto" takes GPUs, one a worker, where the cluster has any; "cpu" or "gpu".
        threads: processors of a worker; None for those of the smallest node.

    Raises: ValueError for an NPU. Computing raises what a worker does; ImportError without Ray;
        OSError, also where a node does not see the files.
    """

    if device == "npu":
        raise ValueError("--ray computes features on CPUs and GPUs, not on NPUs: give --device cpu")

    def parts(ranges: List[Range]) -> Iterator[Part]:
        pieces = [
            (begin, min(begin + _BATCHES, last))
            for first, last in ranges
            for begin in range(first, last, _BATCHES)
        ]
        with cluster.connected(address) as ray:
            ray.on_each_node(functools.partial(_check_sight, job))
            gpus = int(device == "gpu" or (device == "auto" and ray.smallest("GPU") > 0))
            processors = threads or ray.smallest("CPU") // (ray.smallest("GPU") if gpus else 1)
            make = functools.partial(_computer, job, "gpu" if gpus else "cpu", processors)
            with contextlib.closing(ray.each(make, pieces, None, processors, gpus)) as results:
                for done in results:
                    for (first, _), (values, labels) in done:
                        yield first, values, labels

    return parts


def _check_sight(job: Job) -> None:
    """Raises OSError where this node lacks what a worker needs."""
    if importlib.util.find_spec("tensorflow") is None:
        raise OSError("TensorFlow is not installed: pip install 'pretexture[tensorflow]'")
    try:
        found = contents(job.module)
        if found != job.contents:
            raise OSError(f"{job.module} holds {'another' if found else 'no'} export")
        job.images()
    except (OSError, ValueError) as error:
        raise OSError(
            f"{error}; all nodes must see {job.module} and {redacted(job.data)}, the same folders "
            "at the same paths"
        ) from None


def _computer(
    job: Job, device: str, threads: int
) -> Callable[[Range], Tuple[np.ndarray, np.ndarray]]:
    """What a worker calls with each range: gives its features and labels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from .. import engines
    from .representation import FrozenFeatures, Representation

    if device == "cpu":
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    engines.choose().open_device(device)
    pipeline = Pipeline(job.recipe.pipeline)
    frozen = FrozenFeatures(Representation(job.module), job.recipe, pipeline, job.end_points)
    loader = Loader(
        job.images(),
        pipeline,
        job.recipe.eval_batch_size,
        training=False,
        threads=threads,
        dct=job.recipe.dct,
        **job.reading.loading,
    )
    if loader.num_records != job.records:
        raise ValueError(
            f"{redacted(job.data)} has {loader.num_records} records here, not the {job.records} of "
            "the machine that asks"
        )
    parts = in_order(loader, frozen.compute)

    def compute(batches: Range) -> Tuple[np.ndarray, np.ndarray]:
        _, features, labels = zip(*parts([batches]))
        return np.concatenate(features), np.concatenate(labels)

    return compute
