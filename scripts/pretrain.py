"""Pretrains a network on a pretext task.

The folder --data holds shards named train-*-of-* and validation-*-of-*, as `pretexture prepare`
writes them. `pretexture pretrain --show TASK` lists the defaults of TASK. Ctrl-C saves a checkpoint
and ends the run; a second Ctrl-C kills it. Run the same command again to resume from the newest
checkpoint.
"""

import argparse
import os
import sys
from typing import Any, List, Optional, Sequence

from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipes import FIELDS, RECIPES
from pretexture.trainers.runs.folder import spell


def main(arguments: Optional[List[str]] = None, workdir: Any = None) -> int:
    """Runs the command.

    Args:
        arguments: the command's arguments.
        workdir: keeps --workdir, see `run.pretrain`.

    Returns: the exit status; 128 + the signal's number if interrupted. One of several workers that
        TensorFlow connects does not return: its process ends.
    """
    args = run_flags.parse_run(_parser(), arguments)
    with flags.short_errors(args.traceback, args.on_error):
        recipe = run_flags.chosen_recipe(args, RECIPES[args.recipe], run_flags.PRETRAIN_FIELDS)
        run_flags.import_tensorflow()
        from pretexture.trainers.run import pretrain

        options = run_flags.run_options(args)
        recipe = run_flags.suited_recipe(args, recipe)
        outcome = pretrain(recipe, options, workdir=workdir)
    status = 0
    if outcome.interrupted:
        status = run_flags.interrupted(outcome.interrupted, outcome.chief)
    elif outcome.chief:
        command = f"pretexture evaluate --workdir {args.workdir} --data {args.data}"
        print(printable(redacted(f"next: {command}")))
    if outcome.connected:
        # TensorFlow may abort when Python ends: github.com/tensorflow/tensorflow/issues/55250.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class _Show(argparse.Action):
    """Prints the flags that stand for a recipe, with what they mean, and ends the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, metavar="TASK", choices=RECIPES, **options)

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: Any = None) -> None:
        recipe = RECIPES[value]
        print(f"{value}: task {recipe.task}")
        for name, setting in recipe.flat().items():
            if name in run_flags.PRETRAIN_FIELDS:
                print(f"  --{name.replace('_', '-')} {spell(setting) or repr('')}")
                print(f"        {FIELDS[name].metadata['help']}")
        parser.exit()


def unknown(arguments: List[str]) -> List[str]:
    """The arguments that this command does not know."""
    return _parser().parse_known_args(arguments)[1]


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("--show", action=_Show, help="list the fields of a recipe, and end")
    parser.add_argument(
        "recipe", metavar="TASK", choices=RECIPES, help=f"one of {', '.join(RECIPES)}"
    )
    run_flags.add_recipe_flags(
        parser, run_flags.PRETRAIN_FIELDS, "fields of the recipe; the defaults are those of TASK"
    )
    run_flags.add_run_flags(parser)
    parser.add_argument(
        "--view-steps",
        type=flags.whole,
        default=1000,
        metavar="N",
        help="number of steps between two grids of input views in TensorBoard (default: 1000)",
    )
    parser.add_argument(
        "--knn-epochs",
        type=flags.whole,
        metavar="N",
        help="number of epochs between two evaluations by nearest neighbours, as `pretexture knn` "
        "makes them, of eval_split among train_split; needs class labels (default: none)",
    )
    parser.add_argument(
        "--name", metavar="TEXT", help="name of the run (default: that of its folder)"
    )
    parser.add_argument(
        "--track",
        choices=("wandb", "mlflow"),
        help="hand the metrics to Weights & Biases or MLflow too; their environment variables say "
        "where",
    )
    run_flags.add_devices_flag(parser)
    run_flags.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
