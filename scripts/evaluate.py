"""Evaluates the newest checkpoint of a run on its pretext task, each image of a split once.

Prints the result and writes it to WORKDIR/eval-SPLIT.json.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.trainers import commandline


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    flags = _parser().parse_args(arguments)
    with commandline.short_errors(flags.traceback):
        commandline.import_tensorflow()
        from pretexture.trainers.evaluation import evaluate

        result = evaluate(
            flags.workdir, flags.data, flags.split, flags.batch_size, flags.threads, flags.device
        )
    for name, value in result.items():
        print(f"{name:<12}{value:.4f}" if isinstance(value, float) else f"{name:<12}{value}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of shards")
    parser.add_argument(
        "--split",
        choices=("train", "val", "trainval", "test"),
        help="(default: the eval_split of the run's recipe)",
    )
    parser.add_argument(
        "--batch-size",
        type=commandline.whole,
        metavar="N",
        help="images at a time; the result does not depend on it (default: the recipe's)",
    )
    commandline.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
