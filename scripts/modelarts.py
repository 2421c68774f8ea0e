"""Pretrains a network as a job of Huawei's ModelArts: scripts/pretrain.py with the platform's URLs.

The platform passes --data_url and --train_url, which name folders of its object storage, and
arguments of its own, which are of no use here. All others are those of scripts/pretrain.py, in
either spelling (--batch_size, --batch-size); --recipe names its TASK.

Where the platform's module moxing exists, it copies the data to --cache-dir (by default /cache)
before training, and the run from there and back. Elsewhere, and on several devices (see
scripts/launch.py), URLs are read as scripts/pretrain.py reads them; obs:// then needs
--endpoint-url, and credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import argparse
import importlib
import itertools
import json
import os
import re
import sys
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pretexture.loader.console.files import digest, write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.remote import join
from pretexture.scripts import flags, pretrain
from pretexture.trainers.engines import environment
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.mirror import LocalWorkdir, files_in, ordered, read_notes, title, turn

# What the platform adds to a job's arguments.
PLATFORM = ("init_method", "num_gpus", "rank", "world_size")
CACHE = "/cache"  # the fast disk of a job

_COPIED = ".copied.json"


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status, as `pretrain.main` does."""
    args, rest = _parser().parse_known_args(arguments)
    command = [args.recipe, "--data", args.data_url, "--workdir", args.train_url]
    if args.cache_dir is not None:
        command += ["--cache-dir", args.cache_dir]
    known, ignored = _known(command, rest)
    if ignored:
        # Not their values, some of which are secrets.
        names = [argument.partition("=")[0] for argument in ignored if argument.startswith("-")]
        print(f"not known to scripts/pretrain.py, and ignored: {' '.join(names)}")
    # Ranks of a machine would copy to the same folders.
    with flags.short_errors("--traceback" in known):
        files = None if _processes() > 1 else _moxing_files()
    if files is None:
        return pretrain.main([*command, *known])
    cache = args.cache_dir or CACHE
    # One for each URL, so that no run goes on from another one's files.
    data = os.path.join(cache, "data", title(args.data_url))
    run = os.path.join(cache, "run", title(args.train_url))
    with flags.short_errors("--traceback" in known):
        print(f"copying {redacted(args.data_url)} to {data}", flush=True)
        _moxing(files.copy_parallel, args.data_url, data)
    local = [*command, "--data", data, "--workdir", run, *known]
    return pretrain.main(local, MoxingWorkdir(files, args.train_url, run))


class Copied(NamedTuple):
    """A file as it was when it was last the same here and at the URL."""

    size: int
    mtime: int  # of the file here, nanoseconds
    digest: str


class MoxingWorkdir(LocalWorkdir):
    """A run's folder that moxing copies from a URL when the run begins, and back as it changes.

    As a context it begins with what is at the URL, except where only the file here has changed
    since they were last the same, and ends with all that changed at the URL. Where a file has
    changed at both, the URL's is taken.

    Args:
        files: `moxing.file`.
        url: of the run.
        folder: for the run.

    Raises: OSError where something cannot be copied.
    """

    def __init__(self, files: Any, url: str, folder: str):
        super().__init__(folder)
        self._files = files
        self._url = url
        self._copied: Dict[str, Copied] = {}

    def __enter__(self) -> "MoxingWorkdir":
        os.makedirs(self.folder, exist_ok=True)
        self._copied = read_notes(os.path.join(self.folder, _COPIED), Copied)
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=self.folder) as fetched:
            if _moxing(self._files.exists, self._url):
                _moxing(self._files.copy_parallel, self._url, fetched)
            self._follow(fetched)
        self._write_copied()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self._push()
        elif isinstance(error, Exception):
            self.push()

    def push(self) -> None:
        """Copies what has changed to the URL; where that fails, next time."""
        try:
            self._push()
        except OSError as error:
            print(f"warning: {error}; the run goes on", file=sys.stderr)

    def _follow(self, fetched: str) -> None:
        """Takes over what has changed at the URL, of which `fetched` is a copy."""
        states = self._states()
        there = files_in(fetched)
        for name in ordered(there):
            source, path = os.path.join(fetched, name), os.path.join(self.folder, name)
            contents = digest(source)
            before = self._copied.get(name)  # moxing does not say what has changed
            if before is not None and name in states:
                if contents == before.digest:
                    continue  # where it has changed here, it goes to the URL
            elif name in states and contents == digest(path):
                self._copied[name] = Copied(*states[name], contents)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(source, path)
            self._copied[name] = Copied(*_state(path), contents)
            if name == "checkpoint":  # the run went on elsewhere
                for other in states:
                    if other.startswith("model.ckpt-") and other not in there:
                        os.remove(os.path.join(self.folder, other))
        for name in set(self._copied) - set(there):  # removed elsewhere
            path = os.path.join(self.folder, name)
            if os.path.exists(path) and _state(path) == self._copied[name][:2]:
                os.remove(path)
            del self._copied[name]

    def _push(self) -> None:
        states = self._states()
        changed = [
            name
            for name, state in states.items()
            if name not in self._copied or self._copied[name][:2] != state
        ]
        try:
            for _, group in itertools.groupby(ordered(changed), turn):
                names = list(group)
                self._copied.update(self._copy(names))
            for name in reversed(ordered(set(self._copied) - set(states))):
                _moxing(self._files.remove, join(self._url, name))
                del self._copied[name]
        finally:
            self._write_copied()

    def _copy(self, names: Sequence[str]) -> Dict[str, Copied]:
        """Copies files in one go, by a folder of links to them; returns what was copied."""
        copied = {}
        with tempfile.TemporaryDirectory(prefix=".changed-", dir=self.folder) as changed:
            for name in names:
                link = os.path.join(changed, name)
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.link(os.path.join(self.folder, name), link)
                copied[name] = Copied(*_state(link), digest(link))
            _moxing(self._files.copy_parallel, changed, self._url)
        return copied

    def _states(self) -> Dict[str, Tuple[int, int]]:
        return {name: _state(os.path.join(self.folder, name)) for name in files_in(self.folder)}

    def _write_copied(self) -> None:
        write_text(os.path.join(self.folder, _COPIED), json.dumps(self._copied))


def _state(path: str) -> Tuple[int, int]:
    """Size and time of a file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _moxing(function: Any, *arguments: str) -> Any:
    """Calls a function of moxing. Raises OSError."""
    try:
        return function(*arguments)
    except Exception as error:  # moxing does not say which it raises
        words = " ".join(map(str, arguments))
        raise OSError(redacted(f"moxing.file.{function.__name__} {words}: {error}")) from error


def _moxing_files() -> Any:
    """The platform's `moxing.file`; None where there is none."""
    try:
        return importlib.import_module("moxing").file
    except ImportError:
        return None


def _processes() -> int:
    """How many train together, as scripts/launch.py says in the environment."""
    try:
        config = parse_object(os.environ.get("TF_CONFIG") or "{}", "TF_CONFIG")
        cluster = config.get("cluster", {})
        workers = sum(len(cluster.get(role, ())) for role in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError):
        workers = 0  # training says what is wrong with it
    return max(environment.whole("RANK_SIZE", 1, 1), workers)


def _known(command: Sequence[str], rest: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Which of the arguments `pretrain` knows, beside those of a command, and which not."""
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
        "--recipe", required=True, metavar="TASK", choices=RECIPES, help="of scripts/pretrain.py"
    )
    parser.add_argument(
        "--cache-dir", "--cache_dir", metavar="DIR", help=f"for copies (with moxing: {CACHE})"
    )
    for name in PLATFORM:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
