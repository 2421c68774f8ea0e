"""Computes features on a Ray cluster, whose workers each take ranges of batches."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
from typing import Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from pretexture.loader import Loader, Pipeline, Records, imagenet
from pretexture.loader.console.redaction import redacted
from pretexture.loader.prepare import ray_cluster as cluster
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import Storage

from ..recipes import Recipe
from ..runs.mirror import contents
from .features import Part, Range, in_order

_BATCHES = 8  # per range


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to compute features. It sees files at the same paths as this process.

    Attributes:
        module: folder of the export.
        contents: digests of its files; see `mirror.contents`.
        end_points: names of the end points.
        recipe: see `FrozenFeatures`; its `eval_batch_size` is the size of the batches.
        data, split, storage: folder of the shards, the split, and how URLs are reached.
        records: number of records.
        reading: how records are read.
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

    def images(self) -> Records:
        """The records."""
        return imagenet(self.data, self.split, **vars(self.storage), **self.reading.features)


def on_ray(
    job: Job, address: str, device: str, threads: Optional[int]
) -> Callable[[List[Range]], Iterator[Part]]:
    """Computes features on a Ray cluster; for `features.extract`.

    If a worker is killed, another one computes its range.

    Args:
        job: what the workers compute.
        address: address of the cluster; see `ray_cluster.connected`.
        device: "cpu", "gpu" with one GPU per worker, or "auto" for GPUs if the cluster has any.
        threads: processors per worker; None for all of the smallest node.

    Raises: ValueError for an NPU. The returned function raises the errors of a worker, ImportError
        without Ray, and OSError, for example if a node does not see the files.
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
    """Raises OSError if this node lacks what a worker needs."""
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
    """The function with which a worker computes the features and labels of a range."""
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
