"""Pictures of how a run went: its loss, metrics and learning rate by step."""

import os
from typing import Any, Dict, List, Optional, Sequence

from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage, is_url, join

from .metrics import METRICS, SKIPPED, TIMINGS, read_metrics
from .mirror import fetched

CURVES = "curves.png"

Lines = List[Dict[str, Any]]


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
    lines = {_name(run, runs): _read(run, storage) for run in runs}
    out = out or os.path.join("" if is_url(runs[0]) else runs[0], CURVES)
    draw(lines, make_parent(out), smooth)
    return out


def _read(run: str, storage: Storage) -> Lines:
    lines = read_metrics(fetched(run, storage, "plot"))
    if not lines:
        raise ValueError(f"{join(run, METRICS)} holds no metrics yet, or does not belong to a run")
    return lines


def _name(run: str, runs: Sequence[str]) -> str:
    """The folder's name, or its whole path if two have the same name."""
    name = os.path.basename(os.path.normpath(run))
    same = [r for r in runs if os.path.basename(os.path.normpath(r)) == name]
    return name if len(same) == 1 else run


def draw(runs: Dict[str, Lines], out: str, smooth: int) -> None:
    """Draws the metrics of one or several runs into a picture.

    Args:
        runs: the lines of metrics.jsonl of each run, by the name to show.
        out: path of the picture; its ending gives the format.
        smooth: number of lines that the running mean is taken over.

    Raises: ImportError without matplotlib; ValueError for an unknown ending.
    """
    from pretexture.loader.pyplot import matplotlib, pyplot

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
        for number, (run, lines) in enumerate(runs.items()):
            steps = [line["step"] for line in lines if name in line]
            values = [line[name] for line in lines if name in line]
            color = f"C{number}"
            if name != "lr":
                axis.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
                values = _running_mean(values, smooth)
            axis.plot(steps, values, color=color, label=run)
        axis.set_title("learning rate" if name == "lr" else name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if name.split("/")[-1] in ("accuracy", "top5", "knn"):
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    if len(runs) > 1:
        axes[0].legend()
    else:
        figure.suptitle(next(iter(runs)))
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _running_mean(values: Sequence[float], width: int) -> List[float]:
    """The mean of each value and up to (width - 1) // 2 on either side."""
    half = (width - 1) // 2
    around = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(some) / len(some) for some in around]
