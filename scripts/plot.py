"""Draws the loss, the metrics and the learning rate of one run, or of several over each other.

Each RUN is a workdir of scripts/pretrain.py. A thin line is what `metrics.jsonl` says, a thick one
its running mean.
"""

import argparse
import os
import sys
from typing import Any, Dict, List, Optional, Sequence

from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import Storage, is_url, join
from pretexture.scripts import flags
from pretexture.trainers.runs.metrics import METRICS, SKIPPED, TIMINGS, read_metrics
from pretexture.trainers.runs.mirror import fetched

CURVES = "curves.png"

Lines = List[Dict[str, Any]]


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        storage = flags.storage(args)
        runs = {_name(run, args.runs): _read(run, storage) for run in args.runs}
        out = args.out or os.path.join("" if is_url(args.runs[0]) else args.runs[0], CURVES)
        draw(runs, make_parent(out), args.smooth)
    print(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
    return 0


def draw(runs: Dict[str, Lines], out: str, smooth: int) -> None:
    """Draws the runs' lines of metrics, by name, to an image file.

    Args:
        runs: lines of metrics by the name to show.
        out: a file whose ending says its format.
        smooth: how many lines a running mean is taken over.

    Raises: ImportError without matplotlib; ValueError for an ending that it does not know.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError(
            "plots need matplotlib: pip install 'pretexture[demo]', or matplotlib alone"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

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


def _read(run: str, storage: Storage) -> Lines:
    lines = read_metrics(fetched(run, storage, "plot"))
    if not lines:
        raise ValueError(f"{join(run, METRICS)} holds no metrics yet, or is no run's")
    return lines


def _name(run: str, runs: Sequence[str]) -> str:
    """The folder's name, or the whole path where two have the same."""
    name = os.path.basename(os.path.normpath(run))
    same = [r for r in runs if os.path.basename(os.path.normpath(r)) == name]
    return name if len(same) == 1 else run


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", type=flags.place, metavar="RUN", help="a run's folder, or its URL"
    )
    parser.add_argument(
        "--out",
        type=flags.local,
        metavar="FILE",
        help="the picture (default: curves.png in the first run; here, if that is at a URL)",
    )
    parser.add_argument(
        "--smooth",
        type=flags.whole,
        default=5,
        metavar="N",
        help="lines that the running mean is taken over (default: 5)",
    )
    flags.add_storage_flags(parser, data=False)
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
