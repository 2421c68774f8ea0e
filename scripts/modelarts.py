"""Pretrains a network as a job of Huawei's ModelArts: `pretexture pretrain` with its URLs.

The platform passes --data_url and --train_url, which name folders of its object storage, and
arguments of its own, which are ignored. All other flags are those of `pretexture pretrain`, in
either spelling (--batch_size, --batch-size); --recipe names its TASK.

If the platform's module moxing exists, it copies the data to --cache-dir (by default /cache) before
training, and keeps the run there in step with --train_url. Without it, and on several devices (see
`pretexture launch`), URLs are read as `pretexture pretrain` reads them; obs:// then needs
--endpoint-url, and credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import argparse
import contextlib
import importlib
import os
import re
import sys
import tempfile
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

from pretexture.loader.console.files import digest
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.remote import FetchError, RemoteFile, join
from pretexture.scripts import flags, pretrain
from pretexture.trainers.engines import environment
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.mirror import RemoteWorkdir, Transport, files_in, title

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
    # Several processes on a machine would copy to the same folders.
    with flags.short_errors("--traceback" in known):
        files = None if _processes() > 1 else _moxing_files()
    if files is None:
        return pretrain.main([*command, *known])
    cache = args.cache_dir or CACHE
    # A folder for each URL, so that no run resumes from the files of another one.
    data = os.path.join(cache, "data", title(args.data_url))
    run = os.path.join(cache, "run", title(args.train_url))
    with flags.short_errors("--traceback" in known):
        print(f"copying {redacted(args.data_url)} to {data}", flush=True)
        _moxing(args.data_url, files.copy_parallel, args.data_url, data)
    local = [*command, "--data", data, "--workdir", run, *known]
    transport = MoxingTransport(files, args.train_url, run)
    return pretrain.main(local, RemoteWorkdir(transport, run, "train"))


class MoxingTransport(Transport):
    """Copies with moxing, which copies whole folders and does not say what has changed in them.

    Args:
        files: `moxing.file`.
        url: URL of the run.
        folder: local folder of the run, which takes temporary folders, too.
    """

    def __init__(self, files: Any, url: str, folder: str):
        super().__init__(url)
        self._files = files
        self._folder = folder
        self._fetched = ""

    @contextlib.contextmanager
    def listing(self) -> Iterator[Mapping[str, RemoteFile]]:
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=self._folder) as self._fetched:
            if _moxing(self.url, self._files.exists, self.url):
                _moxing(self.url, self._files.copy_parallel, self.url, self._fetched)
            names = files_in(self._fetched)
            yield {name: self._described(self._fetched, name) for name in names}

    def fetch(self, name: str, file: RemoteFile, path: str) -> RemoteFile:
        os.replace(os.path.join(self._fetched, name), path)
        return file

    def send(self, folder: str, names: Sequence[str]) -> Iterator[Tuple[str, RemoteFile]]:
        with tempfile.TemporaryDirectory(prefix=".changed-", dir=self._folder) as changed:
            for name in names:
                link = os.path.join(changed, name)
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.link(os.path.join(folder, name), link)
            files = {name: self._described(changed, name) for name in names}
            _moxing(self.url, self._files.copy_parallel, changed, self.url)
        yield from files.items()

    def remove(self, name: str) -> None:
        url = join(self.url, name)
        _moxing(url, self._files.remove, url)

    def _described(self, folder: str, name: str) -> RemoteFile:
        path = os.path.join(folder, name)
        return RemoteFile(join(self.url, name), os.path.getsize(path), digest(path))


def _moxing(url: str, function: Callable[..., Any], *arguments: str) -> Any:
    """Calls a function of moxing. Raises FetchError for the URL."""
    try:
        return function(*arguments)
    except Exception as error:  # moxing does not say which errors it raises
        raise FetchError(url, f"moxing.file.{function.__name__}: {error}") from error


def _moxing_files() -> Any:
    """The platform's `moxing.file`; None if there is no moxing."""
    try:
        return importlib.import_module("moxing").file
    except ImportError:
        return None


def _processes() -> int:
    """The number of processes that train together, as `pretexture launch` sets it."""
    try:
        config = parse_object(os.environ.get("TF_CONFIG") or "{}", "TF_CONFIG")
        cluster = config.get("cluster", {})
        workers = sum(len(cluster.get(role, ())) for role in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError):
        workers = 0  # training reports what is wrong
    return max(environment.whole("RANK_SIZE", 1, 1), workers)


def _known(command: Sequence[str], rest: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The arguments in `rest` that `pretrain` knows, and those that it does not know."""
    spelled = [
        re.sub(r"^--[^=]+", lambda name: name.group().replace("_", "-"), argument)
        for argument in rest
    ]
    ignored = pretrain.unknown([*command, *spelled])
    known = list(spelled)
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
    parser.add_argument(
        "--cache-dir", "--cache_dir", metavar="DIR", help=f"for copies (with moxing: {CACHE})"
    )
    for name in PLATFORM:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
