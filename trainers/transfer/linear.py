"""Linear evaluation of an export: what its end points know about classes, without changing them."""

import contextlib
import dataclasses
import json
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from pretexture.loader import Loader, Pipeline, imagenet
from pretexture.loader.console.files import write_text
from pretexture.loader.console.redaction import redacted
from pretexture.loader.language import ops
from pretexture.loader.shards.record_options import FEATURES

from .. import engines
from ..evaluation import measure
from ..recipes import Recipe
from ..run import Options, Training, fit
from ..runs.checkpoints import checkpoint_path
from ..runs.mirror import absolute, contents, copy_of, fetched, open_workdir
from ..tasks.linear import Linear
from .extraction import Job, on_ray
from .features import FeatureLoader, extract, in_order
from .representation import FrozenFeatures, Representation

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Results:
    """What linear evaluation found.

    Attributes:
        module: the export.
        step: that its network was trained for; None where that is not known.
        data, split: what the heads were evaluated on.
        images: how many those are.
        skipped: records of the split that could not be used, and are not counted in `images`.
        end_points: "top1" and, with more than 5 classes, "top5" (shares of the images), "loss" and
            the number of "features" by end point.
    """

    module: str
    step: Optional[int]
    data: str
    split: str
    images: int
    skipped: int
    end_points: Dict[str, Dict[str, float]]

    @property
    def best(self) -> str:
        """The end point with the highest top-1."""
        return max(self.end_points, key=lambda name: self.end_points[name]["top1"])


def linear_eval(
    recipe: Recipe,
    options: Options,
    module: str,
    end_points: Sequence[str] = (),
    cache: bool = False,
    ray: Optional[str] = None,
    say: Callable[[str], None] = print,
) -> Union[Results, int]:
    """Trains a head on each end point of a frozen network, then evaluates them.

    Like `pretrain` it goes on where it was stopped. The results are also written as
    `results.json` to the workdir.

    Args:
        recipe: as `LINEAR_EVAL`; its pipeline is what the images go through.
        options: on what, where to, and for how long.
        module: folder of an export; a path or a URL.
        end_points: which ones; () for all.
        cache: compute each image's features just once, in the views of evaluation, and keep them
            in the workdir. Otherwise training takes its random views, and the network runs in
            every step.
        ray: with `cache`, compute the features on the Ray cluster of this address, "" as for
            `cluster.connected`; with as many processors a worker as `options` has threads.
        say: is told, line by line, what the run will do and what it did.

    Returns: the results, or the signal that interrupted the run.

    Raises: as `pretrain`, and ExportError.
    """
    engines.require_one_process("linear evaluation")
    backend = engines.choose()
    place = backend.open_device(options.device, npu=options.npu)
    pipeline = Pipeline(recipe.pipeline)
    module_folder = fetched(module, options.storage, "module")
    module_contents = contents(module_folder) if cache else {}
    run = copy_of(options.workdir, options.storage, "train")
    representation = Representation(module_folder)
    frozen = FrozenFeatures(representation, recipe, pipeline, end_points, options.npu)
    extracting = {"training": False, "shuffle": False, "drop_remainder": False}
    splits = {"train": recipe.train_split, "eval": recipe.eval_split}
    records = {
        name: imagenet(options.data, split, **vars(options.storage), **options.records.features)
        for name, split in splits.items()
    }

    def loader(name: str, batch_size: int, **how: Any) -> Loader:
        return Loader(
            records[name],
            pipeline,
            batch_size,
            seed=options.seed,
            threads=options.threads,
            dct=recipe.dct,
            **options.records.loading,
            **how,
        )

    def count(name: str) -> int:
        return len(records[name].shard_index(options.records.on_error).offsets)

    def cached(name: str, batch_size: int) -> FeatureLoader:
        folder = os.path.join(run, "features", name)
        key = {
            "module": redacted(absolute(module)),
            "contents": module_contents,
            "pipeline": recipe.pipeline,
            "dct": recipe.dct,
            # Not "pooling" as in earlier versions, which pooled to other sizes.
            "pooled": [recipe.pooling, recipe.max_features, recipe.combine_patches],
            "end_points": list(frozen.sizes),
            "paths": [redacted(path) for path in records[name].paths],
            "records": count(name),
            **{feature: getattr(records[name], feature) for feature in FEATURES},
        }
        size = sum(frozen.sizes.values())
        with contextlib.ExitStack() as stack:
            if ray is None:
                batches = loader(name, recipe.eval_batch_size, **extracting)
                compute = in_order(stack.enter_context(batches), frozen.compute)
            else:
                job = Job(
                    module=os.path.abspath(module_folder),
                    contents=module_contents,
                    end_points=list(frozen.sizes),
                    recipe=recipe,
                    data=absolute(options.data),
                    split=splits[name],
                    storage=options.storage,
                    records=count(name),
                    reading=options.records,
                )
                compute = on_ray(job, ray, options.device, options.threads)
            arrays = extract(folder, count(name), recipe.eval_batch_size, size, compute, key)
        features = FeatureLoader(*arrays, batch_size, name == "train", options.seed)
        if features.num_records < count(name):
            left_out = count(name) - features.num_records
            say(f"skipped   {left_out:,} records of split {splits[name]} that could not be used")
        return features

    if cache:
        _check_deterministic(pipeline)
        task = Linear(recipe, frozen.split, frozen.sizes)
        train: Any = cached("train", recipe.batch_size)
    else:
        task = Linear(recipe, frozen.features, frozen.sizes)
        train = loader("train", recipe.batch_size, training=True)
    engine = backend.Engine(recipe, task, train.element_spec, len(train), options.seed, place)
    training = Training(recipe, options, engine, train, records["train"], module)
    outcome = fit(training, say)
    if outcome.interrupted:
        return outcome.interrupted

    engine.restore_model(checkpoint_path(run, outcome.step))
    with (
        cached("eval", recipe.batch_size)
        if cache
        else loader("eval", recipe.eval_batch_size, **extracting)
    ) as batches:
        images, means = measure(engine, batches)
    results = Results(
        module=redacted(module),
        step=representation.step,
        data=redacted(options.data),
        split=recipe.eval_split,
        images=images,
        skipped=count("eval") - images,
        end_points={
            name: {
                **{
                    title: means[f"{name}/{metric}"]
                    for title, metric in (("top1", "accuracy"), ("top5", "top5"), ("loss", "loss"))
                    if f"{name}/{metric}" in means
                },
                "features": size,
            }
            for name, size in frozen.sizes.items()
        },
    )
    text = json.dumps(dataclasses.asdict(results), indent=2)
    with open_workdir(options.workdir, options.storage, "train") as workdir:
        write_text(os.path.join(workdir.folder, RESULTS), text + "\n")
    return results


def _check_deterministic(pipeline: Pipeline) -> None:
    for op in pipeline.compile(training=False).ops:
        if isinstance(op, ops.Gray) and 0 < op.probability < 1:
            raise ValueError(
                f"--cache needs views without chance, and gray({op.probability:g}) of the "
                f"pipeline {pipeline} is drawn in evaluation too"
            )


def table(results: Results) -> List[str]:
    """The results in lines of text."""
    columns = ["top1", "top5"]
    columns = [c for c in columns if c in results.end_points[results.best]]
    lines = [f"{'end point':<12}{'features':>9}" + "".join(f"{c:>8}" for c in columns)]
    for name, values in results.end_points.items():
        row = f"{name:<12}{values['features']:>9,}"
        row += "".join(f"{values[c]:>8.1%}" for c in columns)
        lines.append(row + ("  best" if name == results.best else ""))
    if results.skipped:
        lines.append(f"skipped {results.skipped:,} records of split {results.split}: not counted")
    return lines
