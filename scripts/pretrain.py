"""Pretrains a network on a pretext task.

The folder --data holds shards named train-*-of-* and validation-*-of-*, as `pretexture prepare`
writes them. `pretexture pretrain --show TASK` lists the defaults of TASK. Ctrl-C saves a checkpoint
and ends the run; a second Ctrl-C kills it. Run the same command again to resume from the newest
checkpoint.
"""

import argparse
import math
import os
import sys
from typing import Any, List, Optional, Sequence

from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipe_files import read_recipe, write_recipe
from pretexture.trainers.recipes import FIELDS, RECIPES, Recipe
from pretexture.trainers.runs.folder import read_config_file, spell


def main(arguments: Optional[List[str]] = None, workdir: Any = None) -> int:
    """Runs the command.

    Args:
        arguments: the command's arguments.
        workdir: keeps --workdir, see `run.pretrain`.

    Returns: the exit status; 128 + the signal's number if interrupted. One of several workers that
        TensorFlow connects does not return: its process ends.
    """
    parser = _parser()
    args = run_flags.parse_run(parser, arguments)
    _check(parser, args)
    with flags.short_errors(args.traceback, args.on_error):
        recipe = run_flags.chosen_recipe(args, _recipe(args), run_flags.PRETRAIN_FIELDS)
        if args.recipe in RECIPES and args.data:  # a file says all of it
            recipe = run_flags.suited_recipe(args, recipe)
        if args.save_recipe is not None:
            write_recipe(args.save_recipe, recipe)
            print(printable(f"{args.save_recipe}: the recipe; nothing was trained"))
            return 0
        run_flags.import_tensorflow()
        from pretexture.trainers.run import dry_run, pretrain

        options = run_flags.run_options(args)
        if args.dry_run:
            dry_run(recipe, options, args.dry_run_picture)
            return 0
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


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with an error of the parser if flags are missing, or exclude each other."""
    if args.recipe and args.config:
        parser.error("argument --config: not allowed with argument TASK")
    if not args.recipe and not args.config:
        parser.error("the following arguments are required: TASK, or --config")
    if args.save_recipe is None:
        needed = {"data": args.data or args.config, "workdir": args.workdir}
        missing = ", ".join(f"--{name}" for name, value in needed.items() if not value)
        if missing:
            parser.error(f"the following arguments are required: {missing}")
    else:
        given = {"steps": args.steps, "seed": args.seed, "workdir": args.workdir}
        for name, value in {**given, "dry-run": args.dry_run or None}.items():
            if value is not None:
                parser.error(f"argument --{name}: not allowed with argument --save-recipe")
    if args.dry_run_picture is not None and not args.dry_run:
        parser.error("argument --dry-run-picture: only with argument --dry-run")


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that is named, or that of --config, which also sets flags that are not given.

    Raises: ValueError, OSError.
    """
    if not args.config:
        args.seed = args.seed or 0
        return RECIPES[args.recipe] if args.recipe in RECIPES else read_recipe(args.recipe)
    config = read_config_file(args.config)
    if config.module:
        raise ValueError(f"{args.config} is of a linear evaluation, which linear-eval runs")
    from_epochs = math.ceil(config.recipe.epochs * config.steps_per_epoch)
    if args.steps is None and not args.epochs and config.steps != from_epochs:
        args.steps = config.steps
    given = {"data": config.data, "seed": config.seed, **config.features}
    for name, value in given.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return config.recipe


def _named(text: str) -> str:
    """The name of a recipe, or the path of a file."""
    if text in RECIPES:
        return text
    if text.endswith(".json"):
        return _file(text)
    raise argparse.ArgumentTypeError(
        f"invalid choice: {text!r}; {flags.suggestion(text, RECIPES)} (or give a file that "
        "--save-recipe wrote, ending in .json)"
    )


def _file(text: str) -> str:
    """The path of a file that exists."""
    path = flags.local(text)
    if not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def unknown(arguments: List[str]) -> List[str]:
    """The arguments that this command does not know."""
    return _parser().parse_known_args(arguments)[1]


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("--show", action=_Show, help="list the fields of a recipe, and end")
    parser.add_argument(
        "recipe",
        metavar="TASK",
        nargs="?",
        type=_named,
        help=f"one of {', '.join(RECIPES)}; or the path of a recipe, a file ending in .json",
    )
    parser.add_argument(
        "--config",
        type=_file,
        metavar="FILE",
        help="config.json of a run to repeat in another --workdir, instead of TASK: its recipe, "
        "--data, --seed and --steps, and how its records are read; flags change them",
    )
    parser.add_argument(
        "--save-recipe",
        type=flags.local,
        metavar="FILE",
        help="write the recipe, with what flags change in it, to a JSON file, and end",
    )
    run_flags.add_recipe_flags(
        parser, run_flags.PRETRAIN_FIELDS, "fields of the recipe; the defaults are those of TASK"
    )
    run_flags.add_run_flags(parser, required=False)
    parser.set_defaults(seed=None)  # 0, or that of --config
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
        "--dry-run",
        action="store_true",
        help="say what would be run and how much memory it takes, draw views of the first batch, "
        "and end",
    )
    parser.add_argument(
        "--dry-run-picture",
        type=flags.local,
        metavar="FILE",
        help="PNG file for the views of --dry-run (default: views.png in the workdir)",
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
