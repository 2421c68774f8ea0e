"""Evaluates the newest checkpoint of a run on its pretext task; each image of a split counts once.

Prints the result and writes it to WORKDIR: eval-SPLIT.json, eval-SPLIT.jsonl with a line for each
evaluated checkpoint, and TensorBoard events. With --follow, evaluates each checkpoint as it appears
and exports it to WORKDIR/exports, up to the checkpoint of the last step; start it before, during or
after the training.
"""

import argparse
import sys
from typing import Any, Dict, List, Optional

from pretexture.loader.console.printable import printable
from pretexture.scripts import flags, run_flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.timeout is not None and not args.follow:
        parser.error("argument --timeout: only with argument --follow")
    if args.pipeline is not None and args.follow:
        parser.error("argument --pipeline: not with argument --follow, which writes its results")
    with flags.short_errors(args.traceback, args.on_error):
        run_flags.import_tensorflow()
        from pretexture.trainers import evaluation

        names = ("split", "batch_size", "threads", "device", "pipeline")
        how: Dict[str, Any] = {name: getattr(args, name) for name in names}
        how["storage"] = flags.storage(args)
        how["npu"] = run_flags.npu_options(args)
        how["records"] = flags.record_options(args)
        if not args.follow:
            result = evaluation.evaluate(args.workdir, args.data, **how)
            for name, words in _in_words(result).items():
                print(f"{name:<14}{words}")
            return 0
        results = evaluation.follow(args.workdir, args.data, args.timeout, **how)
        for result in results:
            line = ", ".join(f"{name} {words}" for name, words in _in_words(result).items())
            print(line, flush=True)
    return 0


def _in_words(result: Dict[str, Any]) -> Dict[str, str]:
    """A result by name; accuracies in percent, with the number of images and chance."""
    chance = result["chance"]
    words = {}
    for name, value in result.items():
        if name in chance:
            words[name] = f"{value:.1%} of {result['images']:,} images (chance {chance[name]:.1%})"
        elif name != "chance":
            words[name] = f"{value:.4f}" if isinstance(value, float) else printable(str(value))
    return words


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--workdir",
        required=True,
        type=flags.place,
        metavar="DIR|URL",
        help="the run's folder",
    )
    parser.add_argument(
        "--data", required=True, type=flags.place, metavar="DIR|URL", help=flags.DATA
    )
    parser.add_argument(
        "--split",
        **flags.SPLIT,
        help="split to evaluate on (default: the eval_split of the run's recipe)",
    )
    parser.add_argument(
        "--batch-size",
        type=flags.whole,
        metavar="N",
        help="number of images at a time; only exemplar's result depends on it (default: the "
        "recipe's)",
    )
    parser.add_argument(
        "--pipeline",
        metavar="TEXT",
        help="pipeline that makes the views, a preset's name or step(args)|… (default: the "
        "recipe's); the result is printed but not written",
    )
    parser.add_argument(
        "--follow", action="store_true", help="evaluate and export checkpoints as they appear"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="X",
        help="with --follow, number of seconds without a new checkpoint after which it gives up",
    )
    flags.add_storage_flags(parser)
    flags.add_record_flags(parser, "as the run was trained")
    run_flags.add_machine_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
