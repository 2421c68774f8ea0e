"""Nearest neighbours: tells in seconds what a frozen network knows about classes.

Each image of --eval-split asks its nearest neighbours in --train-split for their classes: the
--neighbours images whose features are most similar by cosine vote, with the weights
exp(cosine / --temperature) (Wu et al., 2018; Caron et al., 2021). Nothing is trained. Prints a
table of top-1 and top-5 by end point of the export --module (made by `pretexture export`), beside
what guessing gives.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.loader.shards.record_options import RecordOptions
from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipes import KNN


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback, args.on_error):
        run_flags.import_tensorflow()
        from pretexture.trainers.transfer.knn import knn
        from pretexture.trainers.transfer.representation import Representation

        storage = flags.storage(args)
        network = Representation(args.module, storage)
        recipe = run_flags.chosen_recipe(
            args, KNN.replace(pipeline=network.pipeline), run_flags.FEATURE_FIELDS
        ).replace(train_split=args.train_split, eval_split=args.eval_split)
        knn(
            recipe,
            args.data,
            network,
            end_points=args.end_points,
            k=args.neighbours,
            temperature=args.temperature,
            out=args.out,
            device=args.device,
            threads=args.threads,
            npu=run_flags.npu_options(args),
            storage=storage,
            records=RecordOptions(**flags.record_options(args)),
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    run_flags.add_module_flags(parser, "evaluated")
    parser.add_argument(
        "--data", required=True, type=flags.place, metavar="DIR|URL", help=flags.DATA
    )
    for name, text in (("train", "split of the neighbours"), ("eval", "split to evaluate")):
        default = getattr(KNN, f"{name}_split")
        parser.add_argument(
            f"--{name}-split", **flags.SPLIT, default=default, help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--neighbours",
        type=flags.whole,
        default=20,
        metavar="K",
        help="number of neighbours that vote (default: 20)",
    )
    parser.add_argument(
        "--temperature",
        type=_positive,
        default=0.07,
        metavar="X",
        help="a lower one gives near neighbours more weight (default: 0.07)",
    )
    parser.add_argument("--out", type=flags.local, metavar="FILE", help="JSON file for the results")
    run_flags.add_feature_flags(parser)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
