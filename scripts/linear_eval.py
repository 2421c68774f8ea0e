"""Linear evaluation: trains a linear classifier on each end point of a frozen network.

The features of every end point of the export --module (made by `pretexture export`) are pooled, and
a linear classifier or an MLP is trained on each, all at the same time. Prints a table of top-1 and
top-5 on --eval-split, and writes it to WORKDIR as results.json and results.png. After an
interruption, run the same command again to resume.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipes import LINEAR_EVAL, LINEAR_EVAL_PAPER


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status; 128 + the signal's number if interrupted."""
    parser = _parser()
    args = run_flags.parse_run(parser, arguments)
    if args.ray is not None and not args.cache:
        parser.error(
            "argument --ray: needs --cache, because the cluster computes the features to cache"
        )
    with flags.short_errors(args.traceback, args.on_error):
        run_flags.import_tensorflow()
        from pretexture.trainers.transfer import linear
        from pretexture.trainers.transfer.representation import Representation

        options = run_flags.run_options(args)
        network = Representation(args.module, options.storage)
        published = LINEAR_EVAL_PAPER if args.paper else LINEAR_EVAL
        module = published.replace(pipeline=network.pipeline)
        recipe = run_flags.chosen_recipe(args, module, run_flags.LINEAR_FIELDS)
        recipe = run_flags.suited_recipe(args, recipe)
        outcome = linear.linear_eval(
            recipe, options, network, args.end_points, args.cache, args.ray
        )
        if isinstance(outcome, int):
            return run_flags.interrupted(outcome)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    run_flags.add_module_flags(parser, "evaluated")
    parser.add_argument(
        "--cache",
        action="store_true",
        help="compute the features of each image once, from the views of evaluation, and keep "
        "them in WORKDIR; without it, training uses random views and runs the network in every "
        "step",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="the settings of the published scripts: --pooling max, --dct fast, "
        "--eval-batch-size 32",
    )
    flags.add_ray_flag(
        parser,
        "compute the features of --cache on a Ray cluster, all of whose nodes see --data and "
        "--module; each worker has --threads processors (default: as many as the smallest node)",
    )
    run_flags.add_run_flags(parser)
    run_flags.add_recipe_flags(
        parser,
        run_flags.LINEAR_FIELDS,
        "training of the classifiers; the defaults are the published ones, --pipeline is the "
        "export's",
    )
    run_flags.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
