"""Writes the network of a run as a SavedModel, for use without Pretexture.

Its signatures are serving_default (image -> logits) and representation (image -> all end points).
"""

import argparse
import sys
from typing import List, Optional

from pretexture.trainers import commandline


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    flags = _parser().parse_args(arguments)
    with commandline.short_errors(flags.traceback):
        commandline.import_tensorflow()
        from pretexture.trainers import export

        print(f"wrote {export.export_run(flags.workdir, flags.out, flags.step)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--step",
        type=commandline.whole,
        metavar="N",
        help="whose checkpoint to take (default: the newest)",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="where an error comes from, not just its message"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
