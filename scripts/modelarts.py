"""Pretrains a network as a job of Huawei's ModelArts: `pretexture pretrain` with its URLs.

The platform passes --data_url and --train_url, which name folders of its object storage, and
arguments of its own, which are ignored. All other flags are those of `pretexture pretrain`;
--recipe names its TASK.

If the platform's module moxing exists, it copies the data to --cache-dir (by default /cache) before
training, and keeps the run there in step with --train_url. Without it, and on several devices (see
`pretexture launch`), URLs are read as `pretexture pretrain` reads them; obs:// then needs
--endpoint-url, and credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import argparse
import os
import sys
from typing import List, Optional, Sequence, Tuple

from pretexture.scripts import flags, pretrain, run_flags
from pretexture.trainers import engines
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs import moxing

# What the platform adds to a job's arguments.
PLATFORM = ("init_method", "num_gpus", "rank", "world_size")
CACHE = "/cache"  # the fast disk of a job


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status, as `pretrain.main` does."""
    args, rest = _parser().parse_known_args(arguments)
    command = [args.recipe, "--data", args.data_url, "--workdir", args.train_url]
    if args.cache_dir is not None:
        command += ["--cache-dir", args.cache_dir]
    known, ignored = _known(command, rest)
    if ignored:
        # Without their values, some of which are secrets.
        names = [argument.partition("=")[0] for argument in ignored if argument.startswith("-")]
        print(f"not known to pretexture pretrain, and ignored: {' '.join(names)}")
    with flags.short_errors("--traceback" in known):
        run_flags.import_tensorflow()
        # Several processes on a machine would copy to the same folders.
        files = None if engines.several_processes() else moxing.find()
        if files is not None:
            cache = args.cache_dir or CACHE
            data = moxing.fetch(files, args.data_url, os.path.join(cache, "data"))
            workdir = moxing.workdir(files, args.train_url, os.path.join(cache, "run"))
    if files is None:
        return pretrain.main([*command, *known])
    local = [*command, "--data", data, "--workdir", workdir.folder, *known]
    return pretrain.main(local, workdir)


def _known(command: Sequence[str], rest: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The arguments in `rest` that `pretrain` knows, and those that it does not know."""
    ignored = pretrain.unknown([*command, *rest])
    known = list(rest)
    for argument in ignored:
        known.remove(argument)
    return known, ignored


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument("--data_url", required=True, metavar="URL", help="folder of shards")
    parser.add_argument("--train_url", required=True, metavar="URL", help="the run's folder")
    parser.add_argument(
        "--recipe", required=True, metavar="TASK", choices=RECIPES, help="task to train"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help=f"for copies (with moxing: {CACHE})")
    for name in PLATFORM:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
