"""Nearest neighbours of frozen end points: what a network knows about classes, in seconds.

Nothing is trained. Each image of one split asks its nearest neighbours in another split for their
classes; see `neighbours`.
"""

import contextlib
import dataclasses
import json
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from pretexture.loader import Pipeline
from pretexture.loader.console.files import write_text
from pretexture.loader.console.paths import make_parent
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar, duration
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage

from .. import engines
from ..engines.npu_options import DEFAULTS, NpuOptions
from ..recipes import KNN, Recipe
from ..runs.folder import overlap
from .labelled import LabelledSplit
from .neighbours import Neighbours
from .representation import CheckpointRepresentation, FrozenFeatures, Representation

K, TEMPERATURE = 20, 0.07

Accuracies = Dict[str, Dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Results:
    """What nearest neighbours found.

    Attributes:
        module: folder or URL of the export.
        step: number of steps for which its network was trained; None if that is not known.
        data: folder of the shards.
        train_split, eval_split: the split of the neighbours, and the one that was evaluated.
        train_images, images: numbers of images in them, without skipped records.
        skipped: number of records of `eval_split` that could not be used.
        classes: number of classes among the neighbours.
        k, temperature: how they vote.
        chance: "top1" and, with more than 5 classes, "top5" of guessing, shares of the images.
        end_points: "top1", "top5" like `chance`, and the number of "features", by end point.
    """

    module: str
    step: Optional[int]
    data: str
    train_split: str
    eval_split: str
    train_images: int
    images: int
    skipped: int
    classes: int
    k: int
    temperature: float
    chance: Dict[str, float]
    end_points: Accuracies

    @property
    def best(self) -> str:
        """The end point with the highest top-1."""
        return _best(self.end_points)


def knn(
    recipe: Recipe,
    data: str,
    representation: Representation,
    *,
    end_points: Sequence[str] = (),
    k: int = K,
    temperature: float = TEMPERATURE,
    out: Optional[str] = None,
    device: str = "auto",
    threads: Optional[int] = None,
    npu: NpuOptions = DEFAULTS,
    storage: Storage = DEFAULT_STORAGE,
    records: RecordOptions = DEFAULT_RECORDS,
    say: Callable[[str], None] = print,
) -> Results:
    """Classifies the images of a split by their nearest neighbours in another one.

    Args:
        recipe: recipe like `recipes.KNN`, with the export's pipeline.
        data: folder of shards; a path or a URL.
        representation: the frozen network.
        end_points: names of the end points; () for all.
        k: number of neighbours.
        temperature: see `Neighbours.votes`.
        out: path of a JSON file for the results; None for none.
        device, threads, npu, storage, records: as in `run.Options`.
        say: function that is told the results, line by line.

    Raises: ValueError, for example for a record without a class label; OSError.
    """
    engines.require_one_process("the evaluation by nearest neighbours")
    engines.choose().open_device(device, npu=npu)
    if out is not None:
        make_parent(out)
    began = time.monotonic()
    frozen = FrozenFeatures(representation, recipe, Pipeline(recipe.pipeline), end_points, npu)
    bank, queries = (
        LabelledSplit(data, split, recipe, storage, records, threads)
        for split in (recipe.train_split, recipe.eval_split)
    )
    warning = overlap(data, recipe.train_split, data, recipe.eval_split, storage)
    if warning:
        print(printable(warning), file=sys.stderr)
    with contextlib.closing(Bar(len(bank) + len(queries), "images")) as bar:
        found = _classify(frozen, bank, queries, k, temperature, bar.update)
    results = Results(
        module=redacted(representation.module),
        step=representation.step,
        data=redacted(data),
        train_split=recipe.train_split,
        eval_split=recipe.eval_split,
        skipped=queries.skipped,
        k=k,
        temperature=temperature,
        **found,
    )
    if out is not None:
        write_text(out, json.dumps(dataclasses.asdict(results), indent=2) + "\n")
    for line in table(results):
        say(printable(line))
    say(f"in {duration(time.monotonic() - began)}" + (f": {printable(out)}" if out else ""))
    return results


class Monitor:
    """The nearest neighbours of a run's own end points, while it trains.

    Args:
        recipe: the run's recipe. Images of its `eval_split` ask those of its `train_split`.
        data, storage, records, threads, npu: as in `run.Options`.

    Raises: ValueError if the first or the last record of a split has no class label.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: str,
        storage: Storage,
        records: RecordOptions,
        threads: Optional[int],
        npu: NpuOptions,
    ):
        self._npu = npu
        self._trained = recipe
        self._recipe = KNN.replace(
            pipeline=recipe.representation_pipeline,
            dct=recipe.dct,
            train_split=recipe.train_split,
            eval_split=recipe.eval_split,
        )
        self._bank, self._queries = (
            LabelledSplit(data, split, self._recipe, storage, records, threads)
            for split in (recipe.train_split, recipe.eval_split)
        )
        for split in (self._bank, self._queries):
            split.check_labelled()

    def measure(self, path: str, step: int, show: Callable[[int, str], None]) -> Dict[str, float]:
        """The accuracies of a checkpoint.

        Args:
            path: path of the checkpoint, without the endings of its files.
            step: its step.
            show: is called now and then with the number of images so far, and words; an exception
                that it raises ends the evaluation.

        Returns: "knn", the top-1 of the best end point, and for each end point
            "knn/END_POINT/accuracy" and, with more than 5 classes, "knn/END_POINT/top5".
        """
        network = CheckpointRepresentation(self._trained, path, step)
        pipeline = Pipeline(self._recipe.pipeline)
        frozen = FrozenFeatures(network, self._recipe, pipeline, npu=self._npu)
        found = _classify(frozen, self._bank, self._queries, K, TEMPERATURE, show)
        points = found["end_points"]
        values = {"knn": points[_best(points)]["top1"]}
        for name, point in points.items():
            values[f"knn/{name}/accuracy"] = point["top1"]
            if "top5" in point:
                values[f"knn/{name}/top5"] = point["top5"]
        return values


def _classify(
    frozen: FrozenFeatures,
    bank: LabelledSplit,
    queries: LabelledSplit,
    k: int,
    temperature: float,
    show: Callable[[int, str], None],
) -> Dict[str, Any]:
    """The fields of `Results` that are measured; `show` is told records done, and words."""
    labels: List[np.ndarray] = []
    parts: Dict[str, List[np.ndarray]] = {name: [] for name in frozen.sizes}
    for some in queries.vectors(frozen, True, lambda done, total: show(done, "features")):
        labels.append(some.label)
        for name, values in some.end_points.items():
            parts[name].append(values)
    if not sum(map(len, labels)):
        raise ValueError(f"{queries.name} has no images that can be used")
    label = np.concatenate(labels)
    nearest = {name: Neighbours(np.concatenate(parts.pop(name)), k) for name in frozen.sizes}
    before, known, images = len(queries), np.empty(0, np.int32), 0
    for some in bank.vectors(frozen, True, lambda done, total: show(before + done, "neighbours")):
        known, images = np.union1d(known, some.label), images + len(some.label)
        for name, values in some.end_points.items():
            nearest[name].add(values, some.label)
    if not images:
        raise ValueError(f"{bank.name} has no images that can be used")
    tops = (1, 5) if len(known) > 5 else (1,)
    points: Accuracies = {}
    for name, size in frozen.sizes.items():
        found = nearest.pop(name).accuracies(label, known, temperature, tops)
        points[name] = {**{f"top{top}": share for top, share in zip(tops, found)}, "features": size}
    return {
        "train_images": images,
        "images": len(label),
        "classes": len(known),
        "chance": {f"top{top}": top / len(known) for top in tops},
        "end_points": points,
    }


def _best(points: Accuracies) -> str:
    return max(points, key=lambda name: points[name]["top1"])


def table(results: Results) -> List[str]:
    """The results in lines of text."""
    columns = list(results.chance)
    lines = [f"{'end point':<12}{'features':>9}" + "".join(f"{c:>8}" for c in columns)]
    for name, values in results.end_points.items():
        row = f"{name:<12}{values['features']:>9,}"
        row += "".join(f"{values[c]:>8.1%}" for c in columns)
        lines.append(row + ("  best" if name == results.best else ""))
    lines.append(f"{'chance':<21}" + "".join(f"{results.chance[c]:>8.1%}" for c in columns))
    lines.append(
        f"{results.images:,} images of split {results.eval_split}, {results.k} neighbours each "
        f"among {results.train_images:,} of split {results.train_split}, "
        f"{results.classes:,} classes"
    )
    if results.skipped:
        lines.append(
            f"skipped {results.skipped:,} records of split {results.eval_split}: not counted"
        )
    return lines
