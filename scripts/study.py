"""Asks the paper's question at the size of two cores: which pretext task teaches the best features?

Pretrains the -small recipe of each task with several seeds, and keeps one network untrained for
comparison. Evaluates every end point of each network linearly and by nearest neighbours, and writes
tables and a chart into a document. 20,000 images of CIFAR-10 take two and a half hours on two
cores. After an interruption, run the same command again to resume.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.scripts import flags
from pretexture.trainers.transfer.study import STUDY, study


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        study(
            args.data,
            args.workdir,
            num_classes=args.num_classes,
            tasks=args.tasks,
            seeds=args.seeds,
            document=args.out,
        )
    return 0


def _names(text: str) -> List[str]:
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("--data", required=True, type=flags.place, metavar="DIR", help=flags.DATA)
    parser.add_argument(
        "--num-classes",
        type=flags.whole,
        metavar="N",
        help="number of classes in the data (default: as many as the data name, or 10)",
    )
    parser.add_argument(
        "--workdir",
        default="runs/study",
        type=flags.place,
        metavar="DIR",
        help="folder for all runs (default: runs/study)",
    )
    parser.add_argument(
        "--out",
        type=flags.local,
        metavar="FILE",
        help="document to write; in one that exists, what is between the comments <!-- study --> "
        "and <!-- /study --> is replaced (default: study.md in the workdir)",
    )
    parser.add_argument(
        "--seeds",
        type=flags.whole,
        default=3,
        metavar="N",
        help="number of networks of each task, which differ in their seeds (default: 3)",
    )
    parser.add_argument(
        "--tasks",
        type=_names,
        default=list(STUDY),
        metavar="NAME,NAME,…",
        help=f"tasks to compare, of {', '.join(STUDY)} (default: all)",
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
