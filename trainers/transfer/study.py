"""Asks the paper's question at the size of two cores: which pretext task teaches the best features?

Each network is trained and evaluated by commands of `pretexture`, each in a process of its own, as
the document shows them.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from pretexture.loader import imagenet
from pretexture.loader.console.files import write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.marked import replace_marked
from pretexture.loader.console.paths import make_parent
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.imagenet import class_names

from ..runs.mirror import absolute

EMPTY = "<!-- study -->\n<!-- /study -->\n"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network of the study.

    Attributes:
        recipe: name of a recipe.
        epochs: number of epochs of the training split, chosen so that all networks take about as
            long; 0 for a network that is not trained.
    """

    recipe: str
    epochs: float


STUDY = {
    "random": Entry("supervised-small", 0),
    "supervised": Entry("supervised-small", 10),
    "rotation": Entry("rotation-small", 3),
    "exemplar": Entry("exemplar-small", 3),
    "random_patches": Entry("jigsaw-small", 0),
    "jigsaw": Entry("jigsaw-small", 4),
    "relative_patch_location": Entry("relative_patch_location-small", 4),
}
_PATCHES = ("jigsaw-small", "relative_patch_location-small")
LINEAR = {"batch-size": 128, "epochs": 15, "lr": 0.01, "decay-epochs": "9,12"}
_KNN = "knn.json"
SPLITS = {"train-split": "trainval", "eval-split": "test"}

Found = Dict[str, List[Dict[str, Any]]]


def study(
    data: str,
    workdir: str = "runs/study",
    *,
    num_classes: Optional[int] = None,
    tasks: Sequence[str] = tuple(STUDY),
    seeds: int = 3,
    document: Optional[str] = None,
    say: Callable[[str], None] = functools.partial(print, flush=True),
) -> Found:
    """Trains a network on each task, evaluates its end points linearly, and compares them.

    Writes tables into a document and a chart beside it. Networks that an earlier call has finished
    in the same workdir are not trained again.

    Args:
        data: folder of shards; a path or a URL.
        workdir: folder for all runs.
        num_classes: number of classes in the data; None for as many as the data name, or else 10.
        tasks: names of `STUDY`.
        seeds: number of networks of each task, which differ in their seeds.
        document: path of the document; if it exists, what is between the comments <!-- study -->
            and <!-- /study --> is replaced. None for study.md in the workdir.
        say: function that is told, line by line, which commands are run and what is written.

    Returns: by task a dict for each seed. Its "end_points" are those of `linear.Results`, its "knn"
        those of `knn.Results`, and its "pretext", which untrained networks lack, has the pretext
        task's "accuracy" and "loss". "data" and "num_classes" are the arguments.

    Raises: ValueError for an unknown task, a document without these comments, or a workdir with
        networks of other data; OSError if a command fails.
    """
    from .chart import accuracy_bars

    for name in tasks:
        if name not in STUDY:
            raise ValueError(f"{name!r} is not one of {', '.join(STUDY)}")
    page = pathlib.Path(make_parent(document or os.path.join(workdir, "study.md")))
    text = page.read_text(encoding="utf-8") if page.exists() else EMPTY
    classes = num_classes or _classes(data) or 10
    replace_marked(text, "study", "")  # a document without marks fails now, not at the end
    found: Found = {name: [] for name in tasks}
    for seed in range(seeds):
        for name in tasks:
            folder = os.path.join(workdir, f"{name}-{seed}")
            found[name].append(_network(STUDY[name], data, folder, seed, classes, say))
    chart = page.with_suffix(".png")
    accuracy_bars(
        _statistic(found, np.mean),
        str(chart),
        "Top-1 of a linear classifier on each end point",
        _statistic(found, _deviation),
        chance={"top1": 1 / classes},
    )
    text = replace_marked(text, "study", _tables(found, classes, chart.name))
    write_text(str(page), text)
    say(f"{page}, {chart}")
    return found


def _classes(data: str) -> int:
    """The number of classes that the data name; 0 if they name none, or do not exist."""
    try:
        return len(class_names(imagenet(data, SPLITS["train-split"]), data))
    except FileNotFoundError:  # the first command says what is missing
        return 0


def _network(
    entry: Entry,
    data: str,
    folder: str,
    seed: int,
    num_classes: int,
    say: Callable[[str], None],
) -> Dict[str, Any]:
    """Trains and evaluates a network, unless that is done already."""
    summary = os.path.join(folder, "study.json")
    found = _read(folder, "study.json", "end_points") if os.path.exists(summary) else {}
    about = {"data": redacted(absolute(data)), "num_classes": num_classes}
    for name, value in about.items():
        if found.get(name, value) != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{summary} was made with {flag} {found[name]}, and now it is {value}: give the "
                "same one, or another --workdir"
            )
    if "knn" in found:
        return found
    linear = os.path.join(folder, "linear")
    commands = _commands(entry, data, folder, linear, seed, num_classes)
    # Earlier versions made all but the last one's results.
    for command in commands[-1:] if found else commands:
        say("$ pretexture " + " ".join(map(shlex.quote, command)))
        status = subprocess.call([sys.executable, "-m", "pretexture", *command])
        if status:
            raise OSError(f"{command[0]} ended with status {status}; see above")
    if not found:
        found = {**about, "end_points": _read(linear, "results.json", "end_points")["end_points"]}
    found["knn"] = _read(folder, _KNN, "end_points")["end_points"]
    if entry.epochs and "pretext" not in found:
        found["pretext"] = _read(folder, f"eval-{SPLITS['eval-split']}.json", "accuracy")
    for path in pathlib.Path(linear, "features").glob("*/*"):
        path.unlink()  # gigabytes
    write_text(summary, json.dumps(found, indent=2) + "\n")
    return found


def _commands(
    entry: Entry, data: str, folder: str, linear: str, seed: int, num_classes: int
) -> List[List[str]]:
    """The commands that make a network and evaluate it, each as name and flags."""
    epochs = entry.epochs
    where = ["--data", data]
    splits = [part for name, value in SPLITS.items() for part in (f"--{name}", value)]
    classes = ["--num-classes", str(num_classes), "--seed", str(seed)]
    length = ["--steps", "0"]
    if epochs:
        decays = f"{epochs * 2 / 3:.4g},{epochs * 8 / 9:.4g}"
        length = ["--epochs", f"{epochs:g}", "--decay-epochs", decays]
    export = os.path.join(folder, "export")
    commands = [["pretrain", entry.recipe, *where, "--workdir", folder, *splits, *classes]]
    commands[0] += length
    if epochs:
        commands.append(["evaluate", *where, "--workdir", folder])
    commands.append(["export", "--workdir", folder, "--out", export])
    how = [part for name, value in LINEAR.items() for part in (f"--{name}", str(value))]
    commands.append(["linear-eval", "--module", export, *where, "--workdir", linear, "--cache"])
    commands[-1] += [*splits, *classes, *how]
    neighbours = os.path.join(folder, _KNN)
    commands.append(["knn", "--module", export, *where, *splits, "--out", neighbours])
    return commands


def _read(folder: str, name: str, field: str) -> Dict[str, Any]:
    """The JSON object in a file, which must have a field. Raises ValueError, OSError."""
    path = pathlib.Path(folder, name)
    values = parse_object(path.read_bytes(), str(path))
    if field not in values:
        raise ValueError(f"{path} lacks {field}: remove it, and run the same command again")
    return values


def _values(runs: Sequence[Dict[str, Any]], end_point: str, by: str = "end_points") -> List[float]:
    """The top-1 of each seed by linear classifiers, or by nearest neighbours ("knn")."""
    return [run[by][end_point]["top1"] for run in runs]


def _deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _best(runs: Sequence[Dict[str, Any]], by: str = "end_points") -> str:
    return max(runs[0][by], key=lambda name: float(np.mean(_values(runs, name, by))))


def _statistic(found: Found, statistic: Callable[[List[float]], Any]) -> Dict[str, Any]:
    """A statistic over the seeds of each network's top-1, by network and end point."""
    return {
        name: {
            point: {"top1": float(statistic(_values(runs, point)))}
            for point in runs[0]["end_points"]
        }
        for name, runs in found.items()
    }


def _tables(found: Found, num_classes: int, chart: str) -> str:
    lines = [f"![Accuracy over end points]({chart})", ""]
    lines += [
        "Top-1 of a linear classifier on each end point, %; mean and standard deviation if "
        "there are several seeds. The best end point of a network is bold."
    ]
    lines += ["", *_table(found, "end_points"), *_margins(found, "end_points")]
    lines += ["", "Top-1 of the 20 nearest neighbours, for which nothing is trained, %:", ""]
    lines += [*_table(found, "knn"), *_margins(found, "knn")]
    lines += ["", "The pretext tasks themselves, on the same images:", ""]
    lines += ["| pretraining | accuracy, % | loss |", "| --- | ---: | ---: |"]
    for name, runs in found.items():
        if "pretext" in runs[0]:
            accuracy, loss = (
                np.mean([run["pretext"][metric] for run in runs]) for metric in ("accuracy", "loss")
            )
            lines.append(f"| {name} | {100 * accuracy:.1f} | {loss:.3f} |")
    lines += ["", "What was run, with the first seed:", "", "```"]
    for name in found:
        folder = f"runs/study/{name}-0"
        for command in _commands(STUDY[name], "DATA", folder, f"{folder}/linear", 0, num_classes):
            lines.append("pretexture " + " ".join(map(shlex.quote, command)))
    return "\n".join([*lines, "```"])


def _table(found: Found, by: str) -> List[str]:
    """A line for each network with its accuracy at each end point; see `_values` for `by`."""
    points = list(next(iter(found.values()))[0][by])
    lines = ["| pretraining | seeds | " + " | ".join(points) + " |"]
    lines += ["| --- | ---: |" + " ---: |" * len(points)]
    for name, runs in found.items():
        cells = []
        for point in points:
            values = _values(runs, point, by)
            cell = f"{100 * np.mean(values):.1f}"
            if len(values) > 1:
                cell += f" ± {100 * _deviation(values):.1f}"
            cells.append(f"**{cell}**" if point == _best(runs, by) else cell)
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return lines


def _margins(found: Found, by: str) -> List[str]:
    """How far each network's best end point is above the best one of the same untrained."""
    head = [
        "",
        "| pretraining | best end point | points above the best of an untrained one, by seed |",
        "| --- | --- | --- |",
    ]
    lines = []
    for name, runs in found.items():
        base = "random_patches" if STUDY[name].recipe in _PATCHES else "random"
        if name == base or base not in found:
            continue
        untrained = _values(found[base], _best(found[base], by), by)
        point = _best(runs, by)
        above = [value - other for value, other in zip(_values(runs, point, by), untrained)]
        lines.append(f"| {name} | {point} | " + ", ".join(f"{100 * a:+.1f}" for a in above) + " |")
    return head + lines if lines else []
