"""Draws the loss, the metrics and the learning rate of one run, or of several in the same axes.

Each RUN is a workdir of `pretexture pretrain`. A thin line shows the values in metrics.jsonl, a
thick one their running mean.
"""

import argparse
import os
import sys
from typing import List, Optional, Sequence

from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import Storage, is_url, join
from pretexture.scripts import flags
from pretexture.trainers.runs.curves import Lines, draw
from pretexture.trainers.runs.metrics import METRICS, read_metrics
from pretexture.trainers.runs.mirror import fetched

CURVES = "curves.png"


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
