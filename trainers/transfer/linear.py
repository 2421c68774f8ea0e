"""Linear evaluation of an export: what its end points know about classes, without changing them."""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Union

import numpy as np
from pretexture.loader import Loader, Pipeline, imagenet
from pretexture.loader.console.files import write_text
from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.loader.language import ops
from pretexture.loader.shards.remote import join

from .. import engines
from ..engines.engine import Batches
from ..evaluation import measure
from ..networks.layers import too_few_steps
from ..recipes import Recipe
from ..run import Options, Training, check_batch, fit
from ..runs.chance import class_chance
from ..runs.checkpoints import checkpoint_path
from ..runs.mirror import absolute, contents, open_workdir
from ..tasks.linear import Linear
from ..tasks.supervised import check_classes
from .extraction import Job, on_ray
from .features import LEFT_OUT, Compute, FeatureLoader, Part, Range, extract, in_order
from .representation import FrozenFeatures, Representation

RESULTS = "results.json"
CHART = "results.png"
# Metrics of a head by their names in `Results`.
_METRICS = {"top1": "accuracy", "top5": "top5", "loss": "loss"}


@dataclasses.dataclass(frozen=True)
class Results:
    """What linear evaluation found.

    Attributes:
        module: folder or URL of the export.
        step: number of steps for which its network was trained; None if that is not known.
        data, split: data that the heads were evaluated on.
        images: number of those images.
        skipped: number of records of the split that could not be used; `images` leaves them out.
        end_points: "top1" and, with more than 5 classes, "top5" (shares of the images), "loss" and
            the number of "features", by end point.
        classes: number of classes that there are to guess from; None if an earlier version wrote
            the results.
    """

    module: str
    step: Optional[int]
    data: str
    split: str
    images: int
    skipped: int
    end_points: Dict[str, Dict[str, float]]
    classes: Optional[int] = None

    @property
    def best(self) -> str:
        """The end point with the highest top-1."""
        return max(self.end_points, key=lambda name: self.end_points[name]["top1"])


def linear_eval(
    recipe: Recipe,
    options: Options,
    representation: Representation,
    end_points: Sequence[str] = (),
    cache: bool = False,
    ray: Optional[str] = None,
    say: Callable[[str], None] = print,
) -> Union[Results, int]:
    """Trains a head on each end point of a frozen network, then evaluates the heads.

    Like `pretrain`, it resumes a run that the workdir holds. The results are also written to the
    workdir, as `results.json` and, if there is matplotlib, as the chart `results.png`.

    Args:
        recipe: recipe like `LINEAR_EVAL`; its pipeline is what the images go through.
        options: on which data, where to, and for how long.
        representation: the frozen network.
        end_points: names of the end points; () for all.
        cache: whether the features of each image are computed once, from the views of evaluation,
            and kept in the workdir. Otherwise training takes random views, and the network runs in
            every step.
        ray: address of the Ray cluster that computes the features of `cache`, "" as for
            `ray_cluster.connected`; each of its workers has `options.threads` processors. None to
            compute them in this process.
        say: function that is told, line by line, what the run will do and what it did.

    Returns: the results, or the number of the signal that interrupted the run.

    Raises: as `pretrain`.
    """
    engines.require_one_process("linear evaluation")
    backend = engines.choose()
    place = backend.open_device(options.device, npu=options.npu)
    pipeline = Pipeline(recipe.pipeline)
    module = representation.module
    module_contents = contents(representation.folder)
    warning = too_few_steps(representation.step)
    if warning:
        print(warning, file=sys.stderr)
    frozen = FrozenFeatures(representation, recipe, pipeline, end_points, options.npu)
    if cache:
        _check_deterministic(pipeline)
    splits = {"train": recipe.train_split, "eval": recipe.eval_split}
    records = {
        name: imagenet(options.data, split, **vars(options.storage), **options.records.features)
        for name, split in splits.items()
    }

    check_batch(recipe, len(records["train"].shard_index(options.records.on_error).offsets))

    def loader(name: str, batch_size: int, training: bool) -> Loader:
        return Loader(
            records[name],
            pipeline,
            batch_size,
            training=training,
            seed=options.seed,
            threads=options.threads,
            dct=recipe.dct,
            **options.records.loading,
        )

    def count(name: str) -> int:
        return len(records[name].shard_index(options.records.on_error).offsets)

    def cached(name: str, folder: str) -> FeatureLoader:
        key = {
            "module": redacted(absolute(module)),
            "contents": module_contents,
            "pipeline": recipe.pipeline,
            "dct": recipe.dct,
            # Not "pooling" as in earlier versions, which pooled to other sizes.
            "pooled": [recipe.pooling, recipe.max_features, recipe.combine_patches],
            "end_points": list(frozen.sizes),
            "paths": [redacted(path) for path in records[name].parts],
            "records": count(name),
            "version": records[name].version,
            **records[name].features,
        }
        with contextlib.ExitStack() as stack:
            if ray is None:
                batches = stack.enter_context(loader(name, recipe.eval_batch_size, training=False))
                compute = in_order(batches, frozen.compute)
            else:
                job = Job(
                    module=os.path.abspath(representation.folder),
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
            size = sum(frozen.sizes.values())
            compute = _checked(compute, recipe)
            arrays = extract(folder, count(name), recipe.eval_batch_size, size, compute, key)
        features = FeatureLoader(*arrays, recipe.batch_size, name == "train", options.seed)
        if features.num_records < count(name):
            left_out = count(name) - features.num_records
            say(f"skipped   {left_out:,} records of split {splits[name]} that could not be used")
        return features

    with open_workdir(options.workdir, options.storage, "train") as workdir:
        folder = os.path.join(workdir.folder, "features")
        if cache:
            train: Batches = cached("train", os.path.join(folder, "train"))
        else:
            train = loader("train", recipe.batch_size, training=True)
        task = Linear(recipe, frozen.split if cache else frozen.features, frozen.sizes)
        engine = backend.Engine(recipe, task, train.element_spec, len(train), options.seed, place)
        weights = _digest_of_weights(module_contents)
        training = Training(recipe, options, engine, train, records["train"], module, weights)
        outcome = fit(training, workdir, say)
        if outcome.interrupted:
            return outcome.interrupted

        engine.restore_model(checkpoint_path(workdir.folder, outcome.step))
        batch_size = recipe.eval_batch_size
        with (
            cached("eval", os.path.join(folder, "eval"))
            if cache
            else loader("eval", batch_size, training=False)
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
                name: {**_accuracies(name, means), "features": size}
                for name, size in frozen.sizes.items()
            },
            classes=recipe.num_classes,
        )
        text = json.dumps(dataclasses.asdict(results), indent=2)
        write_text(os.path.join(workdir.folder, RESULTS), text + "\n")
        files = [RESULTS, *_draw(results, workdir.folder)]
    for line in table(results):
        say(line)
    say(printable(redacted(", ".join(join(options.workdir, name) for name in files))))
    return results


def _digest_of_weights(contents: Mapping[str, str]) -> str:
    """A digest of an export's weights, from those of its files. The rest may differ each time."""
    of_weights = sorted(item for item in contents.items() if item[0].startswith("variables/"))
    return hashlib.sha256(json.dumps(of_weights).encode()).hexdigest()


def _checked(compute: Compute, recipe: Recipe) -> Compute:
    """The function, which refuses the first label that is not a class: not only the heads do."""

    def parts(ranges: List[Range]) -> Iterator[Part]:
        for first, values, labels in compute(ranges):
            index = first * recipe.eval_batch_size + np.arange(len(labels))
            known = labels != LEFT_OUT
            check_classes(labels[known], index[known], recipe.num_classes)
            yield first, values, labels

    return parts


def _accuracies(end_point: str, means: Mapping[str, float]) -> Dict[str, float]:
    """What `Results` says of an end point, from the means of all metrics."""
    found = {title: means.get(f"{end_point}/{metric}") for title, metric in _METRICS.items()}
    return {title: value for title, value in found.items() if value is not None}


def _draw(results: Results, folder: str) -> List[str]:
    """Draws a bar chart of the results; returns its name, or nothing if there is no matplotlib."""
    try:
        from .chart import accuracy_bars
    except ImportError as error:
        print(f"no chart: {error}", file=sys.stderr)
        return []
    guessed = class_chance(results.classes) if results.classes else {}
    accuracy_bars(
        {"": results.end_points},
        os.path.join(folder, CHART),
        "Linear classifiers on the end points of a frozen network",
        below=f"end point; {results.images:,} images of {results.data}, split {results.split}",
        chance={name: guessed[_METRICS[name]] for name in _METRICS if _METRICS[name] in guessed},
    )
    return [CHART]


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
    if results.classes:
        shares = [class_chance(results.classes)[_METRICS[c]] for c in columns]
        row = "".join(f"{share:>8.1%}" for share in shares)
        lines.append(
            f"{'(chance)':<12}{'':>9}{row}  {results.classes:,} classes, {results.images:,} images "
            f"of split {results.split}"
        )
    for name, values in results.end_points.items():
        row = f"{name:<12}{values['features']:>9,}"
        row += "".join(f"{values[c]:>8.1%}" for c in columns)
        lines.append(row + ("  best" if name == results.best else ""))
    if results.skipped:
        lines.append(f"skipped {results.skipped:,} records of split {results.split}: not counted")
    return lines
