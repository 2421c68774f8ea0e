"""Draws a contact sheet of what a network sees: each row shows an image and its views.

The labels on it are those that the pipeline gives: degrees of a rotation, counter-clockwise; the
original places of patches, counted row by row from 0, and the number of their permutation; the
number of a patch's neighbour. Views are shown as they are before normalisation. If the data are at
a URL, the images come from a few shards only.

    pretexture preview --data shards/ --pipeline ROTATION --out sheet.png
    pretexture preview --data shards/ --recipe rotation-small --out sheet.png
    pretexture preview --data 'shards/train-*' --pipeline 'resize(96)|patches(3)|jigsaw' \\
        --out sheet.png
"""

import argparse
import sys
from typing import List, Optional

from pretexture.loader import Pipeline, presets
from pretexture.loader.console.paths import make_parent
from pretexture.scripts import flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if (args.pipeline is None) == (args.recipe is None):
        parser.error("give either --pipeline or --recipe")
    with flags.short_errors(args.traceback):
        from pretexture.loader.preview import preview

        pipeline = _of_recipe(args) if args.recipe else presets.find(args.pipeline)
        sheet = preview(
            args.data,
            pipeline,
            split=args.split,
            training=not (args.eval or pipeline.name.startswith("EVAL")),
            count=args.count,
            seed=args.seed,
            tile=args.tile,
            storage=flags.storage(args),
            features=flags.features(args),
        )
        sheet.save(make_parent(args.out))
    print(f"{args.out}: {sheet.width}x{sheet.height} pixels")
    return 0


def _of_recipe(args: argparse.Namespace) -> Pipeline:
    """The pipeline of a recipe. Raises: ValueError."""
    from pretexture.trainers.recipes import RECIPES  # which needs no TensorFlow

    if args.recipe not in RECIPES:
        hint = flags.suggestion(args.recipe, RECIPES)
        raise ValueError(f"there is no recipe {args.recipe!r}; {hint}")
    recipe = RECIPES[args.recipe]
    return Pipeline((args.eval and recipe.eval_pipeline) or recipe.pipeline)


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|PATTERN|URL",
        help=f"{flags.DATA}, or a pattern that matches shards",
    )
    parser.add_argument(
        "--pipeline",
        metavar="NAME|TEXT",
        help=f"{', '.join(presets.ALL)}, or step(args)|step(args)|…",
    )
    parser.add_argument(
        "--recipe",
        metavar="TASK",
        help="instead of --pipeline, the one of a recipe of `pretexture pretrain`",
    )
    parser.add_argument(
        "--out", required=True, type=flags.local, metavar="PNG", help="picture to write"
    )
    parser.add_argument(
        "--split",
        **flags.SPLIT,
        default="train",
        help="split of a folder (default: train)",
    )
    parser.add_argument(
        "--count", type=flags.whole, default=8, metavar="N", help="number of images (default: 8)"
    )
    parser.add_argument(
        "--eval", action="store_true", help="show the views of evaluation, not those of training"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for every draw (default: 0)",
    )
    parser.add_argument(
        "--tile",
        type=flags.whole,
        default=160,
        metavar="N",
        help="side of a view, pixels (default: 160)",
    )
    flags.add_storage_flags(parser)
    flags.add_feature_flags(parser)
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
