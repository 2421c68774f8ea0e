"""Pretrains a network on a pretext task.

In --data lie shards named train-*-of-* and validation-*-of-*, as scripts/prepare.py writes them.
The same command again takes the run up where its newest checkpoint left it. Ctrl-C saves a
checkpoint and ends the run; a second one kills it.
"""

import argparse
import dataclasses
import sys
from typing import List, Optional

from pretexture.trainers import commandline


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status, 128 and the signal's number if interrupted."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.steps and flags.epochs:
        parser.error("argument --epochs: not allowed with argument --steps")
    with commandline.short_errors(flags.traceback):
        recipe = commandline.chosen_recipe(flags)
        commandline.import_tensorflow()
        from pretexture.trainers.run import Options, pretrain

        names = [field.name for field in dataclasses.fields(Options)]
        options = Options(**{name: getattr(flags, name) for name in names})
        outcome = pretrain(recipe, options)
    if outcome.interrupted:
        print("the same command goes on with it")
        return 128 + outcome.interrupted
    print(f"next: python scripts/evaluate.py --workdir {flags.workdir} --data {flags.data}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commandline.add_recipe_flags(parser)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of shards")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--steps", type=commandline.whole, metavar="N", help="in all, instead of --epochs"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the initial weights, the order of images and all other draws (default: 0)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=600.0,
        metavar="X",
        help="between two checkpoints (default: 600)",
    )
    parser.add_argument(
        "--checkpoint-steps",
        type=commandline.whole,
        metavar="N",
        help="between two checkpoints, instead of seconds",
    )
    parser.add_argument(
        "--log-steps",
        type=commandline.whole,
        default=10,
        metavar="N",
        help="between two lines of metrics.jsonl, which are means over these steps (default: 10)",
    )
    parser.add_argument(
        "--view-steps",
        type=commandline.whole,
        default=1000,
        metavar="N",
        help="between two grids of input views in TensorBoard (default: 1000)",
    )
    commandline.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
