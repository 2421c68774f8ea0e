"""Measures how fast the Loader and other loaders turn TFRecords into batches.

The contenders take turns, once in each round, each in a new process that is pinned to the same
processors; the report gives medians over the rounds. Prints Markdown tables, and the progress on
standard error.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.scripts import flags
from pretexture.scripts.benchmarking.comparison import Files, benchmark, scaling
from pretexture.scripts.benchmarking.jobs import (
    CONTENDERS,
    ON_CPU,
    ON_GPU,
    OTHERS,
    PAPER,
    SMALL,
    STEPS,
    TASKS,
)
from pretexture.scripts.benchmarking.report import MARK


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    most = max(args.threads, default=None)
    with flags.short_errors(args.traceback):
        # Paths that cannot be written fail now, not at the end.
        files = Files(args.json, args.plot, args.markdown)
        comparison = benchmark(
            args.data,
            tasks=args.tasks,
            against=[*args.against, *(ON_GPU if args.gpu else ())],
            rounds=args.rounds,
            seconds_per_run=args.seconds_per_run,
            threads=scaling(most) if args.scaling else args.threads or [1],
            batch_size=args.batch_size,
            dtype=args.dtype,
        )
        print(comparison.markdown(), end="")
        files.write(comparison)
    return 0


def _names(text: str) -> List[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> List[int]:
    return [flags.whole(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    contenders = "\n".join(f"  {name:<14}{c.about}" for name, c in CONTENDERS.items())
    parser = flags.parser(__doc__, epilog=f"contenders:\n{contenders}")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with shards train-*-of-*"
    )
    parser.add_argument(
        "--tasks",
        type=_names,
        default=PAPER,
        metavar="A,B,…",
        help=f"of {', '.join(TASKS)} (default: those of the paper; {SMALL} is for images of about "
        f"32 x 32 pixels; {' and '.join(STEPS)} train a ResNet-50, give --batch-size 32)",
    )
    parser.add_argument(
        "--against",
        type=_names,
        default=ON_CPU,
        metavar="A,B,…",
        help=f"of {', '.join(OTHERS)} (default: those on a CPU that are installed); '' for none",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help=f"also compare with {' and '.join(ON_GPU)}, whose batches end up on a GPU",
    )
    parser.add_argument("--rounds", type=flags.whole, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--seconds-per-run",
        type=float,
        default=5.0,
        metavar="X",
        help="measured, after a warm-up (default: 5)",
    )
    parser.add_argument(
        "--threads",
        type=_counts,
        default=[],
        metavar="N[,N…]",
        help="of each contender, on as many processors (default: 1)",
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="measure with 1, 2, 4, … threads up to --threads (default: one a processor)",
    )
    parser.add_argument(
        "--batch-size", type=flags.whole, default=64, metavar="N", help="(default: 64)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "uint8"),
        default="float32",
        help="of the images (default: float32); contenders that cannot make it are left out",
    )
    parser.add_argument(
        "--json", type=flags.local, metavar="FILE", help="write every run and all medians"
    )
    parser.add_argument(
        "--plot",
        type=flags.local,
        metavar="FILE",
        help="draw a bar chart, as PNG, SVG or PDF",
    )
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        help=f"put the report, with the chart of --plot, into this page between its "
        f"marks <!-- {MARK} -->",
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
