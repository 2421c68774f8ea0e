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
from pretexture.scripts import flags as commandline
from pretexture.trainers.recipes import RECIPES


def main(arguments: Optional[List[str]] = None, workdir: Any = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line.
        workdir: what keeps --workdir, see `run.pretrain`.

    Returns: the exit status, 128 and the signal's number if interrupted.
    """
    flags = commandline.parse_run(_parser(), arguments)
    with commandline.short_errors(flags.traceback, flags.on_error):
        recipe = commandline.chosen_recipe(
            flags, RECIPES[flags.recipe], commandline.PRETRAIN_FIELDS
        )
        commandline.import_tensorflow()
        from pretexture.trainers.run import pretrain

        outcome = pretrain(recipe, commandline.run_options(flags), workdir=workdir)
    if outcome.interrupted:
        return commandline.interrupted(outcome.interrupted, outcome.chief)
    if outcome.chief:
        command = f"scripts/evaluate.py --workdir {flags.workdir} --data {flags.data}"
        print(printable(redacted(f"next: python {command}")))
    return 0


def unknown(arguments: List[str]) -> List[str]:
    """Those of the arguments that this command does not know."""
    return _parser().parse_known_args(arguments)[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipe", metavar="TASK", choices=RECIPES, help=f"one of {', '.join(RECIPES)}"
    )
    commandline.add_recipe_flags(
        parser, commandline.PRETRAIN_FIELDS, "fields of the recipe, by default as TASK has them"
    )
    commandline.add_run_flags(parser)
    parser.add_argument(
        "--view-steps",
        type=commandline.whole,
        default=1000,
        metavar="N",
        help="between two grids of input views in TensorBoard (default: 1000)",
    )
    commandline.add_devices_flag(parser)
    commandline.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
