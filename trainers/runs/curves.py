"""Pictures of how a run went: its loss, metrics and learning rate by step."""

from typing import Any, Dict, List, Sequence

from .metrics import SKIPPED, TIMINGS

Lines = List[Dict[str, Any]]


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
    names = list(dict.fromkeys(key for lines in runs.values() for key in lines[0]))
    names = [name for name in names if name not in left_out]
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
        if name.split("/")[-1] in ("accuracy", "top5"):
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
