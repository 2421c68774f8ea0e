"""Turns folders of images into TFRecord shards, which the loader and the trainers read.

SRC holds a folder of images for each class; or such folders in train/ (or training/) and in val/,
valid/, validation/, test/ or testing/, in any case; or images without classes. The command writes
train-*-of-*, validation-*-of-* and dataset.json to OUT. dataset.json names the classes in the order
of their labels and counts the records.

Images without class folders, of SRC or of its folder for validation, get their labels from a list:
--labels FILE has a label on each line, for the images in the order of their names, or a table of
images and labels (.csv or tabs, such as Kaggle's LOC_val_solution.csv). A label is the name of a
class, such as a synset, or its number from 0. Tiny ImageNet's val_annotations.txt is found.

A JPEG is stored as it is. Other formats, CMYK and photographs that lie on their side are encoded
again. After an interruption, run the same command again to resume.

Images that are much larger than what a network sees take longer to decode. --max-side 512 makes
them smaller once, so that training is faster. The views change a little: they show less detail if a
small crop is enlarged.

    pretexture prepare photographs/ shards/
    pretexture prepare ILSVRC/Data/CLS-LOC shards/ --labels LOC_val_solution.csv
    pretexture prepare --demo demo-data
"""

import argparse
import sys
from typing import Any, Dict, List, Optional

from pretexture.loader.console.printable import printable
from pretexture.loader.shards.limits import MAX_PIXELS
from pretexture.scripts import flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status, 130 if interrupted."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if bool(args.demo) == bool(args.src) or bool(args.src) != bool(args.out):
        parser.error("give either SRC and OUT, or --demo DIR")
    if args.demo and args.labels:
        parser.error("argument --labels: not allowed with argument --demo")
    names = [
        *("labels", "validation_fraction", "train_shards", "validation_shards", "seed", "workers"),
        *("ray", "on_error", "max_pixels", "max_side", "quality", "force"),
    ]
    options: Dict[str, Any] = {name: getattr(args, name) for name in names}
    with flags.short_errors(args.traceback):
        from pretexture.loader import prepare

        try:
            if args.demo:
                prepare.convert_demo(args.demo, **options)
            else:
                prepare.convert(args.src, args.out, **options)
        except KeyboardInterrupt:
            print("\ninterrupted; run the same command again to resume", file=sys.stderr)
            return 130
    print(
        f"next: pretexture preview --data {printable(args.demo or args.out)} --pipeline ROTATION "
        "--out sheet.png"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("src", nargs="?", type=flags.local, metavar="SRC", help="folder of images")
    parser.add_argument(
        "out", nargs="?", type=flags.local, metavar="OUT", help="folder for the shards"
    )
    parser.add_argument(
        "--demo",
        type=flags.local,
        metavar="DIR",
        help="instead, make the demo's data set: about a thousand crops of photographs that come "
        "with scikit-image and scikit-learn; shards in DIR, JPEGs in DIR/images",
    )
    parser.add_argument(
        "--labels",
        type=flags.local,
        metavar="FILE",
        help="list of labels for images that do not lie in class folders",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        metavar="X",
        help="share of each class that is held out if SRC has no folder for validation (default: "
        "0.1)",
    )
    parser.add_argument(
        "--train-shards",
        type=flags.whole,
        metavar="N",
        help="number of shards (default: of about 100 MB, at least 16, fewer for under 128 images)",
    )
    parser.add_argument(
        "--validation-shards",
        type=flags.whole,
        metavar="N",
        help="number of shards (default: of about 100 MB, at least 4, fewer for under 32 images)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for the order of images (default: 0)",
    )
    parser.add_argument(
        "--workers", type=flags.whole, metavar="N", help="number of processes (default: one a core)"
    )
    flags.add_ray_flag(parser, "convert on a Ray cluster, all of whose nodes see SRC and OUT")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at an image, file or folder that cannot be used (default), or leave it out and "
        "list it in dataset.json",
    )
    parser.add_argument(
        "--max-pixels",
        type=flags.whole,
        default=MAX_PIXELS,
        metavar="N",
        help="largest image that is taken, width x height; the loader's max_pixels must allow as "
        "much (default: %(default)s)",
    )
    parser.add_argument(
        "--max-side",
        type=flags.whole,
        metavar="N",
        help="resize images with a longer side to it, with antialiasing (default: keep all sizes)",
    )
    parser.add_argument(
        "--quality",
        type=flags.whole,
        default=95,
        metavar="N",
        help="JPEG quality of the images that are encoded, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace shards in OUT that are of other images"
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
