"""Pictures of how a run went: its loss, metrics and learning rate by step."""

import glob
import os
import statistics
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage, is_url, join

from .chance import chance
from .folder import WorkdirError, read_config
from .metrics import METRICS, SKIPPED, TIMINGS, read_lines, read_metrics
from .mirror import fetched

CURVES = "curves.png"

# Fields without noise, by the title to show.
_EXACT = {"lr": "learning rate", "knn": "nearest neighbours, top-1"}

Lines = List[Dict[str, Any]]


class Beside(NamedTuple):
    """What is drawn of a run besides its own metrics.

    Attributes:
        evaluations: the lines of eval-SPLIT.jsonl by split.
        chance: what guessing gives, by metric.
    """

    evaluations: Mapping[str, Lines]
    chance: Mapping[str, float]


def plot(
    runs: Sequence[str],
    out: Optional[str] = None,
    smooth: int = 5,
    storage: Storage = DEFAULT_STORAGE,
) -> str:
    """Draws the metrics of one or several runs into a picture; see `draw`.

    Args:
        runs: folders of the runs; paths or URLs.
        out: path of the picture; None for curves.png in the first run, or in the current folder if
            that run is at a URL.
        smooth: number of lines that the running mean is taken over.
        storage: how URLs are reached and where copies are kept.

    Returns: the path of the picture.

    Raises: ValueError if a folder holds no metrics, and as `draw`.
    """
    folders = {run: fetched(run, storage, "plot") for run in runs}
    lines = {_name(run, runs): _read(run, folder) for run, folder in folders.items()}
    beside = {_name(run, runs): _beside(folder) for run, folder in folders.items()}
    out = out or os.path.join("" if is_url(runs[0]) else runs[0], CURVES)
    draw(lines, make_parent(out), smooth, beside)
    return out


def _beside(folder: str) -> Beside:
    evaluations = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "eval-*.jsonl"))):
        split = os.path.basename(path)[len("eval-") : -len(".jsonl")]
        evaluations[split] = read_lines(path)
    try:
        recipe = read_config(folder).recipe
        return Beside(evaluations, chance(recipe, recipe.batch_size))
    except (WorkdirError, ValueError):  # of an earlier version, or without a configuration
        return Beside(evaluations, {})


def _read(run: str, folder: str) -> Lines:
    lines = read_metrics(folder)
    if not lines:
        raise ValueError(f"{join(run, METRICS)} holds no metrics yet, or does not belong to a run")
    return lines


def _name(run: str, runs: Sequence[str]) -> str:
    """The folder's name, or its whole path if two have the same name."""
    name = os.path.basename(os.path.normpath(run))
    same = [r for r in runs if os.path.basename(os.path.normpath(r)) == name]
    return name if len(same) == 1 else run


def steady(lines: Lines) -> Lines:
    """The lines without means over few steps: those before a checkpoint, or at the end.

    Such a mean is as noisy as a single step, and shows as a spike. What nearest neighbours found
    is kept.
    """
    spans = _spans([line["step"] for line in lines])
    usual = statistics.median(spans)
    kept = []
    for line, span in zip(lines, spans):
        if span < usual / 2:
            line = {name: line[name] for name in line if name == "step" or name.startswith("knn")}
        if len(line) > 1:
            kept.append(line)
    return kept


def draw(
    runs: Dict[str, Lines], out: str, smooth: int, beside: Optional[Mapping[str, Beside]] = None
) -> None:
    """Draws the metrics of one or several runs into a picture.

    Evaluations are dots, chance is a dotted line.

    Args:
        runs: the lines of metrics.jsonl of each run, by the name to show.
        out: path of the picture; its ending gives the format.
        smooth: number of lines that the running mean is taken over.
        beside: by the name of a run, what is drawn besides its metrics.

    Raises: ImportError without matplotlib; ValueError for an unknown ending.
    """
    from pretexture.loader.pyplot import matplotlib, pyplot

    runs = {run: steady(lines) for run, lines in runs.items()}
    beside = beside or {}
    left_out = {"step", "epoch", SKIPPED, *TIMINGS}
    fields = dict.fromkeys(key for lines in runs.values() for line in lines for key in line)
    # Nearest neighbours at each end point would be too many.
    names = [name for name in fields if name not in left_out and not name.startswith("knn/")]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, constrained_layout=True
    )
    axes = list(grid.flat)
    for axis in axes[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes, names):
        guesses = {each.chance.get(name) for each in beside.values()} - {None}
        for guess in sorted(guesses):  # type: ignore[type-var]
            axis.axhline(guess, color="gray", linestyle=":", label="chance")
        for number, (run, lines) in enumerate(runs.items()):
            steps = [line["step"] for line in lines if name in line]
            values = [line[name] for line in lines if name in line]
            color = f"C{number}"
            thick = run if len(runs) > 1 else "training"
            if name not in _EXACT:
                every = f"{round(statistics.median(_spans(steps)))} steps"
                thin = None if len(runs) > 1 else f"training, mean of {every}"
                axis.plot(steps, values, color=color, linewidth=0.8, alpha=0.35, label=thin)
                values = _running_mean(values, smooth)
                thick += (
                    "" if len(runs) > 1 or smooth < 2 else f", running mean of {smooth} of them"
                )
            marker = "o" if name == "knn" else ""
            axis.plot(steps, values, color=color, label=thick, marker=marker)
            for split, found in beside[run].evaluations.items() if run in beside else ():
                found = [line for line in found if name in line]
                axis.plot(
                    [line["step"] for line in found],
                    [line[name] for line in found],
                    linestyle="",
                    marker={"test": "o", "val": "s"}.get(split, "^"),
                    color="black" if len(runs) == 1 else color,
                    label=f"evaluation on {split}" if len(runs) == 1 else f"{run} on {split}",
                )
        axis.set_title(_EXACT.get(name, name))
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        trained = [line[name] for lines in runs.values() for line in lines if name in line]
        if axis.get_ylim()[1] > 4 * max(trained) > 0:  # an evaluation of a network of few steps
            axis.set_ylim(top=1.2 * max(trained))
        if name.split("/")[-1] in ("accuracy", "top5", "knn"):
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes[0].legend(fontsize=8)
    for axis, name in zip(axes, names):
        if name.split("/")[-1] == "accuracy":
            axis.legend(fontsize=8)
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)))
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _spans(steps: Sequence[int]) -> List[int]:
    """The number of steps from each to the next, the first one counted from 0."""
    return [step - before for before, step in zip([0, *steps], steps)] or [1]


def _running_mean(values: Sequence[float], width: int) -> List[float]:
    """The mean of each value and up to (width - 1) // 2 on either side."""
    half = (width - 1) // 2
    around = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(some) / len(some) for some in around]
