"""Lists the runs in a folder: name, task, state, step, loss, accuracy and speed.

A run is a folder that `pretexture pretrain` or `pretexture linear-eval` has made; folders inside
DIR are looked at, too. Loss, accuracy and speed are those of the last line of metrics, kNN is the
newest result of `pretrain --knn-epochs`, and "evaluated" what `evaluate` or `linear-eval` found, by
split.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.loader.console.printable import printable
from pretexture.scripts import flags
from pretexture.trainers.runs import listing


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        found = listing.runs(args.folder)
        if args.json:
            print(listing.as_json(found))
        else:
            for line in listing.table(found):
                print(printable(line))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("folder", metavar="DIR", type=flags.local, help="folder of the runs")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON array of objects, with more fields"
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
