"""Draws the loss, the metrics and the learning rate of one run, or of several in the same axes.

Each RUN is a workdir of `pretexture pretrain`. A thin line shows the values in metrics.jsonl, a
thick one their running mean, dots the results of `pretexture evaluate`, and a dotted line chance.
Means over unusually few steps, as at the end of an interrupted run, are left out.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.scripts import flags
from pretexture.trainers.runs.curves import plot


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        out = plot(args.runs, args.out, args.smooth, flags.storage(args))
    print(f"{out}: {len(args.runs)} run{'s' if len(args.runs) > 1 else ''}")
    return 0


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
