"""Draws a contact sheet of what a network sees: each row shows an image and its views.

The labels on it are those that the pipeline gives: degrees of a rotation, counter-clockwise; the
original places of patches, counted row by row from 0, and the number of their permutation; the
number of a patch's neighbour. Views are shown as they are before normalisation. If the data are at
a URL, the images come from a few shards only.

    pretexture preview --data shards/ --pipeline ROTATION --out sheet.png
    pretexture preview --data 'shards/train-*' --pipeline 'resize(96)|patches(3)|jigsaw' \\
        --out sheet.png
"""

import argparse
import os
import random
import sys
from typing import List, Optional, Tuple

from pretexture.loader import TFRecords, imagenet, presets
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.imagenet import DATASET, SPLITS, is_folder
from pretexture.loader.shards.remote import Remote, Storage, is_url, join
from pretexture.scripts import flags

SHARDS = 4  # number of shards that are fetched if the data are at a URL


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        from pretexture.loader.preview import contact_sheet

        pipeline = presets.find(args.pipeline)
        storage = flags.storage(args)
        records, folder = _records(args.data, args.split, storage, args.seed)
        sheet = contact_sheet(
            records,
            pipeline,
            training=not args.eval,
            count=args.count,
            seed=args.seed,
            tile=args.tile,
            classes=_classes(folder, storage),
        )
        sheet.save(make_parent(args.out))
    print(f"{args.out}: {sheet.width}x{sheet.height} pixels")
    return 0


def _records(data: str, split: str, storage: Storage, seed: int) -> Tuple[TFRecords, str]:
    """The records of a split of a folder, or of a pattern; and the folder."""
    options = vars(storage)
    if is_folder(data):
        records, folder = imagenet(data, split, **options), data
    else:
        records = TFRecords(data, **options)
        folder = os.path.dirname(records.paths[0])
    if records.remote and len(records.paths) > SHARDS:
        paths = random.Random(seed).sample(records.paths, SHARDS)
        records = TFRecords(sorted(paths), **options)
    return records, folder


def _classes(folder: str, storage: Storage) -> List[str]:
    """The names of the classes in the folder's dataset.json; [] if there is none."""
    description = join(folder, DATASET)
    try:
        if is_url(folder):
            text = Remote(folder, storage).read(description)
        else:
            with open(description, "rb") as file:
                text = file.read()
        classes = parse_object(text, description).get("classes", [])
        if not isinstance(classes, list):
            raise ValueError(f"{description}: its classes are not a list")
        return list(map(str, classes))
    except FileNotFoundError:
        return []


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|PATTERN|URL",
        help="folder of shards, or a pattern that matches shards",
    )
    parser.add_argument(
        "--pipeline",
        required=True,
        metavar="NAME|TEXT",
        help=f"{', '.join(presets.ALL)}, or step(args)|step(args)|…",
    )
    parser.add_argument(
        "--out", required=True, type=flags.local, metavar="PNG", help="picture to write"
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="split of a folder of shards (default: train)",
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
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
