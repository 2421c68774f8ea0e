"""Makes the indexes of shards before they are needed.

The first Loader on some shards scans them for their records, and during the first epochs it finds
out where the rows of each JPEG begin. This command does both at once, on all processors, so that
the first epoch is as fast as the later ones. Both indexes are kept in the cache folder, and depend
on the paths of the shards. With --rows, shards at URLs are fetched, one after the other.

Of class folders of images, the files are listed again, which is needed if a file has changed.

    pretexture index --rows shards/
    pretexture index --rows 'shards/train-*'
"""

import argparse
import contextlib
import sys
from typing import Any, Dict, List, Optional

from pretexture.loader import Records
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar
from pretexture.loader.shards.imagenet import is_folder, open_records
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


def _splits(args: argparse.Namespace) -> List[Records]:
    """The training and the validation records of a folder, or those that a pattern names."""
    options: Dict[str, Any] = {**vars(flags.storage(args)), **flags.features(args)}
    found = [open_records(args.data, "trainval", refresh=True, **options)]
    if is_folder(args.data):
        with contextlib.suppress(FileNotFoundError):  # there may be none for validation
            found.append(open_records(args.data, "test", refresh=True, **options))
    return found


def _index(records: Records, args: argparse.Namespace) -> None:
    name, more = printable(records.paths[0]), len(records.paths) - 1
    shards = f"{name} and {more} more" if more else name
    print(f"{shards}: {len(records):,} records", flush=True)
    if not args.rows:
        return
    with contextlib.closing(Bar(len(records.paths), "shards")) as bar:
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
        help=f"{flags.DATA}, or a pattern that matches shards; a path or a URL",
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
    flags.add_storage_flags(parser)
    flags.add_feature_flags(parser)
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
