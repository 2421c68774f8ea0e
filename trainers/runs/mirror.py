"""A run's folder at a URL: a local copy that is kept the same.

The copy lies in the cache folder, one for each use that is made of a run, so that a training and an
evaluation beside it do not write to the same files. A reader of the URL never sees half a
checkpoint: its data go before its index, and the other way round when it is removed.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import threading
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Tuple, TypeVar, Union

from pretexture.loader.console.files import digest, write_text
from pretexture.loader.console.paths import make_private
from pretexture.loader.console.redaction import RedactingFilter, redacted, url_title
from pretexture.loader.shards.remote import (
    FetchError,
    MissingError,
    Remote,
    RemoteFile,
    Storage,
    is_safe_name,
    is_url,
    join,
)

from .folder import CONFIG, WorkdirError
from .metrics import METRICS

_log = logging.getLogger("pretexture.trainers")
_log.addFilter(RedactingFilter())

T = TypeVar("T")

_SYNCED = ".synced.json"
_PROBE = ".writable"
_DESCRIPTION = "pretexture.json"  # `export.DESCRIPTION`, which needs TensorFlow
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
_CHECKPOINT = re.compile(r"checkpoint|model\.ckpt-.*")
_EVALUATION = re.compile(r"(eval-|exports/).*")
_FEATURES = re.compile(r"features/.*")  # large, and quickly computed anew

# The files that each use of a run has to do with.
USES: Mapping[str, Callable[[str], bool]] = {
    "train": lambda name: not (_EVALUATION.match(name) or _FEATURES.match(name)),
    "evaluate": lambda name: bool(
        name == CONFIG or _CHECKPOINT.fullmatch(name) or _EVALUATION.match(name)
    ),
    "export": lambda name: bool(name == CONFIG or _CHECKPOINT.fullmatch(name)),
    "plot": lambda name: name == METRICS,
    "module": lambda name: True,
}
_READING = ("export", "plot", "module")


class Synced(NamedTuple):
    """A file as it was when it was last the same here and there."""

    size: int
    version: str
    mtime: int  # of the copy, nanoseconds


class LocalWorkdir:
    """A run's folder that is simply there, with what runs use of `RemoteWorkdir`.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def pull(self) -> None:
        """Does nothing."""

    def push(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "LocalWorkdir":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class RemoteWorkdir:
    """A local copy of a run's folder.

    As a context it begins with what is at the URL, as far as it is not here, and ends with all that
    changed here at the URL. Uses that only read wait for one another, and bring nothing there.

    Args:
        url: of the run.
        storage: how to reach it, and where the copy is kept.
        use: one of `USES`.
        worker: which of a run's workers this is. Only the first one's changes go to the URL; the
            others have no more than what they go on from.

    Attributes:
        folder: of the copy.

    Raises: WorkdirError where another process uses the copy; OSError where the URL cannot be read
        or, for training, written.
    """

    def __init__(self, url: str, storage: Storage, use: str, worker: int = 0):
        self.folder = copy_of(url, storage, use) + (f"-{worker}" if worker else "")
        self._use = use
        self._first = worker == 0
        self._url = url
        self._wanted = USES[use]
        self._remote = Remote(url, storage, threading.Event())
        self._synced: Dict[str, Synced] = {}

    def __enter__(self) -> "RemoteWorkdir":
        make_private(self.folder)
        self._lock = open(os.path.join(self.folder, ".lock"), "w")
        try:
            at_once = 0 if self._use in _READING else fcntl.LOCK_NB
            fcntl.flock(self._lock, fcntl.LOCK_EX | at_once)
        except BlockingIOError:
            self._lock.close()
            raise WorkdirError(
                f"another process on this machine works on {redacted(self._url)} in {self.folder}: "
                "end that one, or give another --cache-dir"
            ) from None
        try:
            notes = read_notes(self._path(_SYNCED), Synced)
            self._synced = {name: note for name, note in notes.items() if is_safe_name(name)}
            self.pull()
            if self._use == "train" and self._first:
                self._try_to_write()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        with contextlib.closing(self._lock):
            if error is None:
                self._push()
            elif isinstance(error, Exception):
                self.push()
            if isinstance(error, WorkdirError):  # who gave the URL does not know the copy
                raise WorkdirError(str(error).replace(self.folder, redacted(self._url))) from error

    def pull(self) -> None:
        """Makes the copy follow what has changed at the URL since they were last the same.

        Where a file has changed here as well, the URL's is taken. Raises FetchError.
        """
        there = {
            name: file
            for name, file in self._remote.entries(self._url, deep=True).items()
            if _lasts(name) and self._wanted(name)
        }
        if not self._first:
            there = {name: there[name] for name in _enough(there)}
        try:
            fetched = [name for name in ordered(there) if self._follow(name, there[name])]
            for name, synced in list(self._synced.items()):
                if name not in there:
                    del self._synced[name]
                    if self._state(name) == (synced.size, synced.mtime) and self._is_own(name):
                        os.remove(self._path(name))
            if "checkpoint" in fetched:
                self._drop_fork(there)
        finally:
            self._write_synced()

    def push(self) -> None:
        """Brings what has changed here to the URL; where that fails, next time."""
        try:
            self._push()
        except FetchError as error:
            _log.warning("%s; the run goes on, and its files are in %s", error, self.folder)

    def _push(self) -> None:
        if self._use in _READING or not self._first:
            return
        try:
            for name in ordered(self._names()):
                size, mtime = self._state(name)
                before = self._synced.get(name)
                if before is None or (size, mtime) != (before.size, before.mtime):
                    file = self._remote.write(self._path(name), join(self._url, name))
                    self._synced[name] = Synced(file.size, file.version, mtime)
            for name in reversed(ordered(self._synced)):
                if not os.path.exists(self._path(name)):
                    self._remote.remove(join(self._url, name))
                    del self._synced[name]
        except FetchError as error:
            raise FetchError(
                error.url,
                f"{error.reason}. What is missing there is in {self.folder}, and the same command "
                f"brings it there",
            ) from error
        finally:
            self._write_synced()

    def _try_to_write(self) -> None:
        """Finds out before hours of training where nothing can be written. Raises FetchError."""
        probe = join(self._url, _PROBE)
        self._remote.write(self._lock.name, probe)
        self._remote.remove(probe)

    def _follow(self, name: str, file: RemoteFile) -> bool:
        """Fetches a file where it is another one than the copy; whether it did."""
        path = self._path(name)
        before = self._synced.get(name)
        if before and before[:2] == file[1:] and os.path.exists(path):
            return False
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not self._is_own(name):
            raise WorkdirError(
                f"{os.path.dirname(path)} leads out of {self.folder}; remove that link, and run "
                "the same command again"
            )
        beside = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.fetched")
        try:
            file = self._remote.fetch_newest(file, beside)
        except MissingError:  # the run has removed it meanwhile
            return False
        os.replace(beside, path)
        self._synced[name] = Synced(file.size, file.version, self._state(name)[1])
        return True

    def _drop_fork(self, there: Mapping[str, RemoteFile]) -> None:
        """Removes checkpoints that the run at the URL, which went on elsewhere, does not have."""
        others = [n for n in self._names() if _CHECKPOINT.fullmatch(n) and n not in there]
        for name in others:
            os.remove(self._path(name))
        if others:
            _log.warning(
                "%s went on elsewhere: %d files of checkpoints that are not there are removed from "
                "%s",
                self._url,
                len(others),
                self.folder,
            )

    def _names(self) -> List[str]:
        """The files in the copy that belong to the run."""
        return [name for name in files_in(self.folder) if self._wanted(name)]

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _is_own(self, name: str) -> bool:
        """Whether a file of the copy lies within the copy, whatever links stand there."""
        folder = os.path.realpath(os.path.dirname(self._path(name)))
        return os.path.commonpath([folder, os.path.realpath(self.folder)]) == os.path.realpath(
            self.folder
        )

    def _state(self, name: str) -> Tuple[int, int]:
        """Size and time of a file of the copy; -1 where it is not there."""
        try:
            status = os.stat(self._path(name))
            return status.st_size, status.st_mtime_ns
        except FileNotFoundError:
            return -1, -1

    def _write_synced(self) -> None:
        write_text(self._path(_SYNCED), json.dumps(self._synced))


Workdir = Union[LocalWorkdir, RemoteWorkdir]


def open_workdir(name: str, storage: Storage, use: str, worker: int = 0) -> Workdir:
    """A run's folder, which may be at a URL, as a context; see `RemoteWorkdir`.

    Raises: WorkdirError for a URL to which nothing can be written.
    """
    if use not in _READING and re.match("https?://", name, re.IGNORECASE):
        raise WorkdirError(
            f"{redacted(name)}: nothing can be written there; give a path or an s3:// URL"
        )
    return RemoteWorkdir(name, storage, use, worker) if is_url(name) else LocalWorkdir(name)


def fetched(name: str, storage: Storage, use: str) -> str:
    """The path of a folder that is only read, after fetching it if it is at a URL."""
    with open_workdir(name, storage, use) as workdir:
        return workdir.folder


def copy_of(name: str, storage: Storage, use: str) -> str:
    """Where `open_workdir` has a run's files."""
    if not is_url(name):
        return name
    return os.path.join(storage.folder, "workdirs", f"{title(name)}-{use}")


def title(url: str) -> str:
    """A name for what is at a URL, and for nothing else: its last part and a hash of all."""
    url = url.rstrip("/")
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    return f"{url_title(url)}-{key}"


def absolute(name: str) -> str:
    """A path made absolute; a URL as it is."""
    return name if is_url(name) else os.path.abspath(name)


def files_in(folder: str) -> List[str]:
    """The files in a folder and its folders, by path in it, without those of a moment."""
    found = []
    for inner, _, files in os.walk(folder):
        inner = os.path.relpath(inner, folder)
        found += [os.path.normpath(os.path.join(inner, name)) for name in files]
    return [name for name in found if _lasts(name)]


def contents(folder: str) -> Dict[str, str]:
    """The digests of a folder's files by path in it: equal where the folders are."""
    return {name: digest(os.path.join(folder, name)) for name in sorted(files_in(folder))}


def read_notes(path: str, kind: Callable[..., T]) -> Dict[str, T]:
    """What a JSON file says of files by name; {} where there is no such file, or another one."""
    try:
        with open(path, encoding="utf-8") as file:
            return {name: kind(*values) for name, values in json.load(file).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _lasts(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and not name.endswith(".tmp")


def _enough(names: Iterable[str]) -> List[str]:
    """Of a run's files those with which it can go on: its configuration and newest checkpoint."""
    steps = [int(index.group(1)) for index in map(_INDEX.fullmatch, names) if index]
    newest = f"model.ckpt-{max(steps, default=0)}."
    return [name for name in names if name == CONFIG or name.startswith(newest)]


def turn(name: str) -> int:
    """When a file appears: a checkpoint is there with its index, and then listed; an export is
    there with its description.

    Metrics go before: lines that are later than the newest checkpoint do no harm.
    """
    if name in (CONFIG, METRICS):
        return 0
    if _CHECKPOINT.fullmatch(name):
        return 3 if name == "checkpoint" else 2 if name.endswith(".index") else 1
    return 5 if name.rpartition("/")[2] == _DESCRIPTION else 4


def ordered(names: Iterable[str]) -> List[str]:
    """Files in the order in which they appear; those that go do so in the opposite one."""
    return sorted(names, key=lambda name: (turn(name), name))
