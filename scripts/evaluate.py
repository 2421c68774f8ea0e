"""Evaluates the newest checkpoint of a run on its pretext task, each image of a split once.

Prints the result and writes it to WORKDIR: eval-SPLIT.json, eval-SPLIT.jsonl with a line a step,
and TensorBoard events. With --follow it evaluates each checkpoint as it appears and exports it to
WORKDIR/exports, until that of the last step; it may be started before the training.
"""

import argparse
import sys
from typing import Any, Dict, List, Optional

from pretexture.loader.console.printable import printable
from pretexture.scripts import flags as commandline


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.timeout is not None and not flags.follow:
        parser.error("argument --timeout: only with argument --follow")
    if flags.pipeline is not None and flags.follow:
        parser.error("argument --pipeline: not with argument --follow, which writes its results")
    with commandline.short_errors(flags.traceback, flags.on_error):
        commandline.import_tensorflow()
        from pretexture.trainers import evaluation

        names = ("split", "batch_size", "threads", "device", "pipeline")
        how: Dict[str, Any] = {name: getattr(flags, name) for name in names}
        how["storage"] = commandline.storage(flags)
        how["npu"] = commandline.npu_options(flags)
        how["records"] = commandline.record_options(flags)
        if not flags.follow:
            result = evaluation.evaluate(flags.workdir, flags.data, **how)
            for name, value in result.items():
                print(f"{name:<14}{_spell(value)}")
            return 0
        results = evaluation.follow(flags.workdir, flags.data, flags.timeout, **how)
        for result in results:
            words = (f"{name} {_spell(value)}" for name, value in result.items())
            print(", ".join(words), flush=True)
    return 0


def _spell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=commandline.place,
        metavar="DIR|URL",
        help="the run's folder",
    )
    parser.add_argument(
        "--data", required=True, type=commandline.place, metavar="DIR|URL", help="folder of shards"
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "trainval", "test"),
        help="(default: the eval_split of the run's recipe)",
    )
    parser.add_argument(
        "--batch-size",
        type=commandline.whole,
        metavar="N",
        help="images at a time; only exemplar's result depends on it (default: the recipe's)",
    )
    parser.add_argument(
        "--pipeline",
        metavar="TEXT",
        help="how an image becomes views, a preset's name or step(args)|… (default: the recipe's); "
        "the result is shown and not written",
    )
    parser.add_argument(
        "--follow", action="store_true", help="evaluate and export checkpoints as they appear"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="X",
        help="with --follow, give up after so many seconds without another checkpoint",
    )
    commandline.add_storage_flags(parser)
    commandline.add_record_flags(parser, "as the run was trained")
    commandline.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
