"""A run's folder: a local one, or a copy that is kept in step with a URL.

The copy lies in the cache folder. Each use of a run has its own copy, so a training and an
evaluation beside it do not write to the same files. A reader of the URL never sees half a
checkpoint: its data files are uploaded before its index, and removed after it.
"""

import abc
import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import threading
from typing import (
    IO,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
)

from pretexture.loader.console.files import digest, lock, write_text
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

_SYNCED = ".synced.json"
# What version 0.1 wrote on ModelArts instead, with the values of `Synced` in another order.
_COPIED = ".copied.json"
_LOCK = ".lock"
_PROBE = ".writable"
_DESCRIPTION = "pretexture.json"  # `saved_model.DESCRIPTION`, whose module needs TensorFlow
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index")
_CHECKPOINT = re.compile(r"checkpoint|model\.ckpt-.*")
_EVALUATION = re.compile(r"(eval-|exports/).*")
_LINES = re.compile(r"eval-[^/]*\.jsonl")
_FEATURES = re.compile(r"features/.*")  # large, and quickly computed again

# The files that each use of a run reads and writes.
USES: Mapping[str, Callable[[str], bool]] = {
    "train": lambda name: not (_EVALUATION.match(name) or _FEATURES.match(name)),
    "evaluate": lambda name: bool(
        name == CONFIG or _CHECKPOINT.fullmatch(name) or _EVALUATION.match(name)
    ),
    "export": lambda name: bool(name == CONFIG or _CHECKPOINT.fullmatch(name)),
    "plot": lambda name: name in (METRICS, CONFIG) or bool(_LINES.fullmatch(name)),
    "module": lambda name: True,
}
_READING = ("export", "plot", "module")


class Workdir:
    """A run's local folder, opened for one use.

    As a context, it keeps a second training out of the folder. Uses other than training are never
    kept out.

    Args:
        folder: path of the folder.
        use: one of `USES`.
        worker: number of this process among the run's workers; only the first one locks.

    Attributes:
        folder: path of the folder.

    Raises: WorkdirError if another run is using the folder.
    """

    def __init__(self, folder: str, use: str = "train", worker: int = 0):
        self.folder = folder
        self._use = use
        self._first = worker == 0
        self._locked = contextlib.ExitStack()

    def pull(self) -> None:
        """Downloads what has changed at the run's URL, if it has one."""

    def push(self) -> None:
        """Uploads what has changed here, if the run has a URL."""

    def __enter__(self) -> "Workdir":
        if self._use == "train" and self._first:
            os.makedirs(self.folder, exist_ok=True)
            try:
                self._locked.enter_context(_lock(self.folder))
            except BlockingIOError:
                raise WorkdirError(
                    f"another run is using {self.folder}: wait until it ends, or give another "
                    "--workdir"
                ) from None
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._locked.close()


class Transport(abc.ABC):
    """Copies files between this machine and a folder at a URL.

    Args:
        url: URL of the folder.

    Every method raises FetchError.
    """

    def __init__(self, url: str):
        self.url = url

    @abc.abstractmethod
    def listing(self) -> ContextManager[Mapping[str, RemoteFile]]:
        """The files at the URL, by path in the folder; they can be fetched within the context."""

    @abc.abstractmethod
    def fetch(self, name: str, file: RemoteFile, path: str) -> RemoteFile:
        """Copies a listed file to `path`; returns its description. Raises MissingError."""

    @abc.abstractmethod
    def send(self, folder: str, names: Sequence[str]) -> Iterator[Tuple[str, RemoteFile]]:
        """Copies files of a local folder to the URL; yields their names and descriptions there."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file at the URL."""

    def check_writable(self, empty: str) -> None:  # noqa: B027
        """Finds out, with an empty local file, whether files can be written at the URL."""


class FsspecTransport(Transport):
    """Copies with fsspec.

    Args:
        url: URL of the folder.
        storage: how the URL is reached.
    """

    def __init__(self, url: str, storage: Storage):
        super().__init__(url)
        self._remote = Remote(url, storage, threading.Event())

    @contextlib.contextmanager
    def listing(self) -> Iterator[Mapping[str, RemoteFile]]:
        yield self._remote.entries(self.url, deep=True)

    def fetch(self, name: str, file: RemoteFile, path: str) -> RemoteFile:
        return self._remote.fetch_newest(file, path)

    def send(self, folder: str, names: Sequence[str]) -> Iterator[Tuple[str, RemoteFile]]:
        for name in names:
            yield name, self._remote.write(os.path.join(folder, name), join(self.url, name))

    def remove(self, name: str) -> None:
        self._remote.remove(join(self.url, name))

    def check_writable(self, empty: str) -> None:
        self._remote.write(empty, join(self.url, _PROBE))
        self.remove(_PROBE)


class Synced(NamedTuple):
    """A file when it was last the same here and at the URL.

    Attributes:
        size, version: as in its `RemoteFile`.
        mtime: time of the local file, in nanoseconds.
    """

    size: int
    version: str
    mtime: int


class RemoteWorkdir(Workdir):
    """A local copy of a run's folder at a URL.

    As a context, it first downloads what has changed at the URL and finally uploads what has
    changed here. Only one process at a time uses a copy. Uses that only read wait for each other,
    and upload nothing.

    Args:
        transport: copies the files.
        folder: path of the copy.
        use: one of `USES`.
        worker: number of this process among the run's workers. Only the first one uploads; the
            others download only what they resume from.

    Raises: WorkdirError if another process is using the copy; FetchError if the URL cannot be read
        or, for training, written.
    """

    def __init__(self, transport: Transport, folder: str, use: str, worker: int = 0):
        super().__init__(folder, use, worker)
        self._transport = transport
        self._url = transport.url
        self._wanted = USES[use]
        self._synced: Dict[str, Synced] = {}

    def __enter__(self) -> "RemoteWorkdir":
        make_private(self.folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_lock(self.folder, wait=self._use in _READING))
            except BlockingIOError:
                raise WorkdirError(
                    f"another process on this machine is using {redacted(self._url)}, with its "
                    f"copy in {self.folder}: end that process, or give another --cache-dir"
                ) from None
            self._synced = _read_synced(self.folder)
            self.pull()
            if self._use == "train" and self._first:
                # Now, and not after hours of training.
                self._transport.check_writable(self._path(_LOCK))
            self._locked = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        with self._locked:
            if error is None:
                self._push()
            elif isinstance(error, Exception):
                self.push()
            if isinstance(error, WorkdirError):  # the user knows the URL, not the copy
                raise WorkdirError(str(error).replace(self.folder, redacted(self._url))) from error

    def pull(self) -> None:
        """Downloads what has changed at the URL since the copy was last the same.

        If a file has changed here as well, the version at the URL replaces it. Raises FetchError.
        """
        with self._transport.listing() as listed:
            there = {n: file for n, file in listed.items() if _lasts(n) and self._wanted(n)}
            if not self._first:
                there = {name: there[name] for name in _enough(there)}
            try:
                fetched = [name for name in ordered(there) if self._follow(name, there[name])]
                for name in set(self._synced) - set(there):
                    synced = self._synced.pop(name)
                    if self._state(name) == (synced.size, synced.mtime) and self._is_own(name):
                        os.remove(self._path(name))
                if "checkpoint" in fetched:
                    self._drop_fork(there)
            finally:
                self._write_synced()

    def push(self) -> None:
        """Uploads what has changed here. If that fails, the next call tries again."""
        try:
            self._push()
        except FetchError as error:
            _log.warning("%s; the run continues, and its files are in %s", error, self.folder)

    def _push(self) -> None:
        if self._use in _READING or not self._first:
            return
        states = {name: self._state(name) for name in self._names()}
        changed = []
        for name, state in states.items():
            synced = self._synced.get(name)
            if synced is None or (synced.size, synced.mtime) != state:
                changed.append(name)
        try:
            for _, names in itertools.groupby(ordered(changed), _turn):
                for name, file in self._transport.send(self.folder, list(names)):
                    self._synced[name] = Synced(file.size, file.version, states[name][1])
            for name in reversed(ordered(set(self._synced) - set(states))):
                self._transport.remove(name)
                del self._synced[name]
        except FetchError as error:
            raise FetchError(
                error.url,
                f"{error.reason}. What is missing there is in {self.folder}; run the same command "
                "again to upload it",
            ) from error
        finally:
            self._write_synced()

    def _follow(self, name: str, file: RemoteFile) -> bool:
        """Downloads a file if it differs from the copy; returns whether it did."""
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
            file = self._transport.fetch(name, file, beside)
        except MissingError:  # the run has removed it since it was listed
            return False
        os.replace(beside, path)
        self._synced[name] = Synced(file.size, file.version, self._state(name)[1])
        return True

    def _drop_fork(self, there: Mapping[str, RemoteFile]) -> None:
        """Removes checkpoints that the URL lacks, because the run continued on another machine."""
        others = [n for n in self._names() if _CHECKPOINT.fullmatch(n) and n not in there]
        for name in others:
            os.remove(self._path(name))
        if others:
            _log.warning(
                "%s was continued on another machine: %d checkpoint files that it lacks are "
                "removed from %s",
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
        """Whether a file of the copy lies within the copy, and not behind a link out of it."""
        folder = os.path.realpath(os.path.dirname(self._path(name)))
        return os.path.commonpath([folder, os.path.realpath(self.folder)]) == os.path.realpath(
            self.folder
        )

    def _state(self, name: str) -> Tuple[int, int]:
        """Size and time of a file of the copy; -1 and -1 if it does not exist."""
        try:
            status = os.stat(self._path(name))
            return status.st_size, status.st_mtime_ns
        except FileNotFoundError:
            return -1, -1

    def _write_synced(self) -> None:
        write_text(self._path(_SYNCED), json.dumps(self._synced))


def open_workdir(name: str, storage: Storage, use: str, worker: int = 0) -> Workdir:
    """A run's folder as a context; see `Workdir` and, for a URL, `RemoteWorkdir`.

    Raises: WorkdirError for a URL at which nothing can be written.
    """
    if use not in _READING and re.match("https?://", name, re.IGNORECASE):
        raise WorkdirError(
            f"{redacted(name)}: nothing can be written there; give a path or an s3:// URL"
        )
    if not is_url(name):
        return Workdir(name, use, worker)
    folder = copy_of(name, storage, use) + (f"-{worker}" if worker else "")
    return RemoteWorkdir(FsspecTransport(name, storage), folder, use, worker)


def fetched(name: str, storage: Storage, use: str) -> str:
    """The path of a folder that is only read, after fetching it if it is at a URL."""
    with open_workdir(name, storage, use) as workdir:
        return workdir.folder


def copy_of(name: str, storage: Storage, use: str) -> str:
    """The folder in which `open_workdir` has a run's files."""
    if not is_url(name):
        return name
    return os.path.join(storage.folder, "workdirs", f"{title(name)}-{use}")


def title(url: str) -> str:
    """A file name that is unique to a URL: its last part and a hash of the whole."""
    url = url.rstrip("/")
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    return f"{url_title(url)}-{key}"


def absolute(name: str) -> str:
    """A path made absolute; a URL as it is."""
    return name if is_url(name) else os.path.abspath(name)


def files_in(folder: str) -> List[str]:
    """The files in a folder, by path in it, without hidden and temporary ones."""
    found = []
    for inner, _, files in os.walk(folder):
        inner = os.path.relpath(inner, folder)
        found += [os.path.normpath(os.path.join(inner, name)) for name in files]
    return [name for name in found if _lasts(name)]


def contents(folder: str) -> Dict[str, str]:
    """The digests of a folder's files by path in it; equal if the folders are equal."""
    return {name: digest(os.path.join(folder, name)) for name in sorted(files_in(folder))}


def _lock(folder: str, wait: bool = False) -> IO[str]:
    """Locks a folder until the returned file is closed or this process ends, however it ends.

    Raises: BlockingIOError if another process has locked it and `wait` is false.
    """
    file = open(os.path.join(folder, _LOCK), "w")  # noqa: SIM115
    try:
        lock(file.fileno(), wait=wait)
    except BlockingIOError:
        file.close()
        raise
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked: %s; use it for one run at a time", folder, error)
    return file


def _read_synced(folder: str) -> Dict[str, Synced]:
    """The notes about the files in a copy; {} if there are none, or if they are damaged."""
    for name, order in ((_SYNCED, (0, 1, 2)), (_COPIED, (0, 2, 1))):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                notes = json.load(file).items()
            return {n: Synced(*(note[i] for i in order)) for n, note in notes if is_safe_name(n)}
        except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
            continue
    return {}


def _lasts(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and not name.endswith(".tmp")


def _enough(names: Iterable[str]) -> List[str]:
    """The files that a run resumes from: its configuration and its newest checkpoint."""
    steps = [int(index.group(1)) for index in map(_INDEX.fullmatch, names) if index]
    newest = f"model.ckpt-{max(steps, default=0)}."
    return [name for name in names if name == CONFIG or name.startswith(newest)]


def _turn(name: str) -> int:
    """The place of a file in the order of uploads.

    A checkpoint exists once its index does, and is listed after that; an export exists once its
    description does. Metrics come first: lines of steps after the newest checkpoint do no harm.
    """
    if name in (CONFIG, METRICS):
        return 0
    if _CHECKPOINT.fullmatch(name):
        return 3 if name == "checkpoint" else 2 if name.endswith(".index") else 1
    return 5 if name.rpartition("/")[2] == _DESCRIPTION else 4


def ordered(names: Iterable[str]) -> List[str]:
    """Files in the order of their upload; they are removed in the opposite order."""
    return sorted(names, key=lambda name: (_turn(name), name))
