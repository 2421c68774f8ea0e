"""Pretrains a network on a pretext task.

In --data lie shards named train-*-of-* and validation-*-of-*, as scripts/prepare.py writes them.
The same command again takes the run up where its newest checkpoint left it. Ctrl-C saves a
checkpoint and ends the run; a second one kills it.
"""

import argparse
import sys
from typing import Any, List, Optional

from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipes import RECIPES


def main(arguments: Optional[List[str]] = None, workdir: Any = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line.
        workdir: what keeps --workdir, see `run.pretrain`.

    Returns: the exit status, 128 and the signal's number if interrupted.
    """
    args = run_flags.parse_run(_parser(), arguments)
    with flags.short_errors(args.traceback, args.on_error):
        recipe = run_flags.chosen_recipe(args, RECIPES[args.recipe], run_flags.PRETRAIN_FIELDS)
        run_flags.import_tensorflow()
        from pretexture.trainers.run import pretrain

        outcome = pretrain(recipe, run_flags.run_options(args), workdir=workdir)
    if outcome.interrupted:
        return run_flags.interrupted(outcome.interrupted, outcome.chief)
    if outcome.chief:
        command = f"scripts/evaluate.py --workdir {args.workdir} --data {args.data}"
        print(printable(redacted(f"next: python {command}")))
    return 0


def unknown(arguments: List[str]) -> List[str]:
    """Those of the arguments that this command does not know."""
    return _parser().parse_known_args(arguments)[1]


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "recipe", metavar="TASK", choices=RECIPES, help=f"one of {', '.join(RECIPES)}"
    )
    run_flags.add_recipe_flags(
        parser, run_flags.PRETRAIN_FIELDS, "fields of the recipe, by default as TASK has them"
    )
    run_flags.add_run_flags(parser)
    parser.add_argument(
        "--view-steps",
        type=flags.whole,
        default=1000,
        metavar="N",
        help="between two grids of input views in TensorBoard (default: 1000)",
    )
    run_flags.add_devices_flag(parser)
    run_flags.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
