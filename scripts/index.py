"""Makes the indexes of shards before they are needed.

The first Loader on some shards scans them for their records, and during the first epochs it finds
out where the rows of each JPEG begin. This command does both at once, on all processors, so that
the first epoch is as fast as the later ones. Both indexes are kept in the cache folder, and depend
on the paths of the shards. With --rows, shards at URLs are fetched, one after the other.

    pretexture index --rows shards/
    pretexture index --rows 'shards/train-*'
"""

import argparse
import contextlib
import sys
from typing import Any, Dict, List, Optional

from pretexture.loader import TFRecords, imagenet
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar
from pretexture.loader.shards.imagenet import is_folder
from pretexture.loader.shards.limits import MAX_PIXELS
from pretexture.loader.shards.row_index import index_rows
from pretexture.scripts import flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        for records in _splits(args):
            _index(records, args)
    return 0


def _splits(args: argparse.Namespace) -> List[TFRecords]:
    """The training and the validation shards of a folder, or the shards that a pattern matches."""
    options: Dict[str, Any] = {**vars(flags.storage(args))}
    if args.image_key is not None:
        options["image_key"] = args.image_key
    if not is_folder(args.data):
        return [TFRecords(args.data, **options)]
    found = [imagenet(args.data, "trainval", **options)]
    with contextlib.suppress(FileNotFoundError):  # there may be no validation shards
        found.append(imagenet(args.data, "test", **options))
    return found


def _index(records: TFRecords, args: argparse.Namespace) -> None:
    name, more = printable(records.paths[0]), len(records.paths) - 1
    shards = f"{name} and {more} more" if more else name
    print(f"{shards}: {len(records):,} records", flush=True)
    if not args.rows:
        return
    with contextlib.closing(Bar(len(records.paths))) as bar:
        counts = index_rows(
            records,
            args.threads,
            args.max_pixels,
            lambda shards, counts: bar.update(shards, f"{sum(counts):,} images"),
        )
    print(
        f"the rows of {counts.known:,} images are known; {counts.without:,} images have no row "
        "index, because they are small, progressive or damaged"
    )


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of shards, or a pattern that matches shards; a path or a URL",
    )
    parser.add_argument(
        "--rows", action="store_true", help="also find out where the rows of each JPEG begin"
    )
    parser.add_argument(
        "--threads",
        type=flags.whole,
        metavar="N",
        help="number of threads (default: one a processor)",
    )
    parser.add_argument(
        "--max-pixels",
        type=flags.whole,
        default=MAX_PIXELS,
        metavar="N",
        help="largest image that is decoded, width x height (default: %(default)s)",
    )
    parser.add_argument(
        "--image-key",
        metavar="NAME",
        help="feature that holds the encoded image (default: image/encoded, or image for shards of "
        "TensorFlow Datasets)",
    )
    flags.add_storage_flags(parser)
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
