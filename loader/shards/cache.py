"""Copies of remote shards in a local folder of bounded size.

The folder is the only record of its contents, so the processes of a machine can share it, and a
killed process leaves nothing to repair. A copy is complete as soon as it has its name. A reader
holds a shared `flock` on the copy that it uses, and an exclusive `flock` on the `.part` file while
it fetches one. Only files that nobody has locked are removed, the least recently used first.
"""

import collections
import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import threading
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from .. import _core
from ..console.files import lock
from ..console.paths import make_private
from ..console.redaction import url_title
from .access import Opener, Shards
from .remote import FetchError, Remote, RemoteFile, Stopped

_log = logging.getLogger("pretexture.loader")

FETCHERS = 4  # threads that fetch; each has its own connection
_LOCK = ".lock"
_PART = ".part"
# The names of copies: a title and a hash; while they are fetched also the size.
_OWN = re.compile(r".+\.[0-9a-f]{16}(\.\d+\.part)?")
_POLL = 0.1  # seconds between two checks of what other processes do
_PATIENCE = 1.0  # seconds to wait for room
_PINS = 256  # copies that a reader keeps open, with a descriptor for each


class Pin(NamedTuple):
    """A copy that no process removes until its descriptor is closed."""

    path: str
    descriptor: int


class ShardCache:
    """A folder with copies of shards.

    Args:
        folder: path of the folder, which is made if it does not exist.
        size: bytes that it may take; None for nine tenths of the free space of its disk.

    Raises: OSError if the folder cannot be used.
    """

    def __init__(self, folder: str, size: Optional[int] = None):
        make_private(folder)
        self.folder = folder
        if size is None:
            taken = 0
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):  # another process removes it
                    taken += entry.stat(follow_symlinks=False).st_size
            size = (shutil.disk_usage(folder).free + taken) * 9 // 10
        self.size = size

    def pin(
        self,
        file: RemoteFile,
        fetch: Callable[[RemoteFile, str], None],
        stopped: threading.Event,
        beyond: bool = False,
    ) -> Optional[Pin]:
        """The copy of a file, which is fetched if there is none.

        Args:
            file: file to copy.
            fetch: function that copies a file to a path.
            stopped: event that ends all waits when it is set.
            beyond: whether to fetch the file even if there is no room for it.

        Returns: None if there is no room.

        Raises: what `fetch` raises; Stopped; OSError if the folder cannot be written.
        """
        name = url_title(file.url)
        key = hashlib.sha256("\0".join(map(str, file)).encode()).hexdigest()[:16]
        path = os.path.join(self.folder, f"{name}.{key}")
        part = f"{path}.{file.size}{_PART}"
        while not stopped.is_set():
            found = _open(path, os.O_RDONLY, shared=True)
            if found is not None:
                os.utime(found)
                return Pin(path, found)
            descriptor = _open(part, os.O_RDWR | os.O_CREAT)
            if descriptor is None:  # another process fetches it, or cleans up after a killed one
                stopped.wait(_POLL)
                continue
            pin = None
            try:
                if not os.path.exists(path):  # nobody has fetched it in the meantime
                    if not (self._make_room() or beyond):
                        return None
                    fetch(file, part)
                    os.fsync(descriptor)
                    with self._lock():  # so that nobody removes it between the two locks
                        os.rename(part, path)
                        lock(descriptor, shared=True, wait=True)
                    pin = Pin(path, descriptor)
                    return pin
            finally:
                if pin is None:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(part)
                    os.close(descriptor)
        raise Stopped

    def _make_room(self) -> bool:
        """Removes files that nobody uses until the folder has room; returns whether it has."""
        with self._lock():
            taken = 0
            copies: List[Tuple[int, int, str]] = []
            for entry in os.scandir(self.folder):
                if not (_OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                    continue  # the lock, or a file that does not belong to this cache
                if entry.name.endswith(_PART):
                    # Parts of killed processes are removed. The others will grow to the size in
                    # their names.
                    if not _remove(entry.path):
                        taken += int(entry.name[: -len(_PART)].rpartition(".")[2])
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    taken += status.st_size
                    copies.append((status.st_mtime_ns, status.st_size, entry.path))
            for _, size, path in sorted(copies):
                if taken <= self.size:
                    break
                if _remove(path):
                    taken -= size
            return taken <= self.size

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(os.path.join(self.folder, _LOCK), flags, 0o600), "w") as file:
            lock(file.fileno(), wait=True)
            yield


def _open(path: str, flags: int, shared: bool = False) -> Optional[int]:
    """A descriptor with a lock; None if there is no file or another process has locked it."""
    try:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = _with_room(lambda: os.open(path, flags, 0o600))
    except FileNotFoundError:
        return None
    try:
        lock(descriptor, shared)
        # The file may have been removed or renamed between opening and locking it.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _with_room(make: Callable[[], int]) -> int:
    """The descriptor that `make` returns; Loaders close shards if too many files are open."""
    while True:
        try:
            return make()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not _core.close_oldest_file():
                raise


def _remove(path: str) -> bool:
    """Removes a file unless somebody has locked it; returns whether it is gone."""
    descriptor = _open(path, os.O_RDONLY)
    if descriptor is None:
        return not os.path.exists(path)
    os.unlink(path)
    os.close(descriptor)
    return True


def _most_pins() -> int:
    """Copies that a reader may keep open: a quarter of the descriptors of a process, or fewer."""
    try:
        import resource  # only here, because Windows and WebAssembly lack it
    except ImportError:
        return _PINS
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The compiled core keeps as many open again.
    return _PINS if open_files < 0 else max(1, min(_PINS, open_files // 4))


class RemoteShards(Shards):
    """The shards of a remote data set, opened for one reader.

    Threads fetch the shards that somebody waits for, then those that are read now, then those that
    come next if there is room. Shards that are read now stay until the next call of `expect`. If
    they are more than may be open at the same time, the least recently used may be removed.

    Args:
        files: the shards.
        remote: file system that they are on.
        cache: cache for their copies.
        stopped: event that ends the waits of `remote`; `close` sets it.
    """

    def __init__(
        self,
        files: Sequence[RemoteFile],
        remote: Remote,
        cache: ShardCache,
        stopped: threading.Event,
    ):
        self._release_opened: Optional[Callable[[int], None]] = None
        self._files = files
        self._remote = remote
        self._cache = cache
        self._stopped = stopped
        self._changed = threading.Condition()
        self._threads: List[threading.Thread] = []
        self._pins: collections.OrderedDict[int, Pin] = collections.OrderedDict()
        self._most = _most_pins()
        self._users: Dict[int, int] = collections.defaultdict(int)
        self._waiting: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._failed: Dict[int, FetchError] = {}
        self._fetching: Set[int] = set()
        self._now: Sequence[int] = ()
        self._next: Sequence[int] = ()
        self._put_off: Set[int] = set()  # failed, and tried again only when somebody waits for them
        self._full = False
        self._warned_of = 0  # bytes that the last warning said are needed

    @contextlib.contextmanager
    def use(self, shard: int) -> Iterator[str]:
        """The local path of a shard, which stays there while it is in use. Raises: FetchError."""
        path = self._enter(shard).path
        try:
            yield path
        finally:
            self._leave(shard)

    def opener(self, release: Callable[[int], None]) -> Opener:
        """A function that raises ValueError with the reason if a shard cannot be fetched."""
        self._release_opened = release
        return self._descriptor

    def _descriptor(self, shard: int) -> int:
        try:
            descriptor = self._enter(shard).descriptor
        except FetchError as error:
            raise ValueError(error.reason) from error
        try:
            return _with_room(lambda: os.dup(descriptor))
        finally:
            self._leave(shard)

    def expect(self, now: Sequence[int], following: Sequence[int] = ()) -> None:
        """Fetches these shards, and lets go of all others."""
        with self._changed:
            self._now, self._next = now, following
            wanted = {*now, *following}
            self._put_off &= wanted
            self._full = False
            self._release([shard for shard in self._pins if shard not in wanted])
            self._begin()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads and all waits, which raise Stopped."""
        self._stopped.set()
        with self._changed:
            self._release_opened = None
            self._now = self._next = ()
            self._release(list(self._pins))
            self._changed.notify_all()

    def _enter(self, shard: int) -> Pin:
        with self._changed:
            if shard not in self._pins:
                self._wait_for(shard)
            self._users[shard] += 1
            self._pins.move_to_end(shard)
            return self._pins[shard]

    def _wait_for(self, shard: int) -> None:
        self._waiting[shard] = self._waiting.get(shard, 0) + 1
        try:
            self._begin()
            self._changed.notify_all()
            while shard not in self._pins:
                if self._stopped.is_set():
                    raise Stopped("closed while a shard was waited for")
                if shard in self._failed:
                    failed = self._failed[shard]
                    raise type(failed)(failed.url, failed.reason)  # one per waiting thread
                self._changed.wait()
        finally:
            self._waiting[shard] -= 1
            if not self._waiting[shard]:
                del self._waiting[shard]
                self._failed.pop(shard, None)  # a later reader tries again

    def _leave(self, shard: int) -> None:
        with self._changed:
            self._users[shard] -= 1
            if not self._users[shard]:
                del self._users[shard]
                if self._stopped.is_set() and shard in self._pins:  # it was in use at `close`
                    self._release([shard])

    def _begin(self) -> None:
        while len(self._threads) < FETCHERS and not self._stopped.is_set():
            thread = threading.Thread(target=self._run, name="pretexture-fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                shard = self._choose()
                while shard is None:
                    if self._stopped.is_set():
                        return
                    self._changed.wait()
                    shard = self._choose()
                self._fetching.add(shard)
                needed = shard in self._waiting or shard in self._now
            pin, error = None, None
            try:
                pin = self._fetch(shard, needed)
            except Stopped:
                pass
            except FetchError as failed:
                error = failed
            except Exception as failed:
                reason = f"cannot be kept in {self._cache.folder}: {failed}"
                error = FetchError(self._files[shard].url, reason)
            with self._changed:
                self._fetching.discard(shard)
                self._arrived(shard, pin, error)
                self._changed.notify_all()

    def _choose(self) -> Optional[int]:
        """The shard to fetch next; None if there is none."""
        if self._stopped.is_set():
            return None
        here = {*self._pins, *self._fetching}
        for shard in self._waiting:
            if shard not in here and shard not in self._failed:
                return shard
        if len(here) >= self._most:
            return None
        here |= self._put_off
        for shard in [*self._now, *(() if self._full else self._next)]:
            if shard not in here:
                return shard
        return None

    def _arrived(self, shard: int, pin: Optional[Pin], error: Optional[FetchError]) -> None:
        if pin is not None:
            if self._stopped.is_set() or not self._is_wanted(shard):
                os.close(pin.descriptor)
            else:
                self._pins[shard] = pin
                kept = {*self._users, *self._waiting}
                spare = [other for other in self._pins if other not in kept and other != shard]
                self._release(spare[: max(0, len(self._pins) - self._most)])
        elif error is None:
            self._full = True
        else:
            self._put_off.add(shard)
            if shard in self._waiting:
                self._failed[shard] = error
            else:
                _log.warning("%s; it is fetched again when it is needed", error)

    def _is_wanted(self, shard: int) -> bool:
        return shard in self._waiting or shard in self._now or shard in self._next

    def _fetch(self, shard: int, needed: bool) -> Optional[Pin]:
        file = self._files[shard]
        patience = _PATIENCE
        while True:
            pin = self._cache.pin(file, self._remote.fetch, self._stopped)
            if pin is not None or not needed:
                return pin
            if self._give_up_one():
                continue
            # The copy that was given up is removed once nobody reads it, which is soon.
            if patience > 0 and self._needed(shard) <= self._cache.size:
                patience -= _POLL
                self._stopped.wait(_POLL)
                continue
            self._warn(shard)
            return self._cache.pin(file, self._remote.fetch, self._stopped, beyond=True)

    def _give_up_one(self) -> bool:
        """Releases the copy that is needed last, among those that nobody needs now, if any."""
        with self._changed:
            kept = {*self._users, *self._waiting, *self._now}
            spare = [shard for shard in self._pins if shard not in kept]
            if not spare:
                return False
            later = {shard: place for place, shard in enumerate(self._next)}
            # First those that are not announced, the least recently used first; then those that are
            # needed last.
            self._release([min(spare, key=lambda shard: -later.get(shard, len(later)))])
            self._full = True
            return True

    def _release(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if shard not in self._users:
                if self._release_opened is not None:
                    self._release_opened(shard)
                os.close(self._pins.pop(shard).descriptor)

    def _needed(self, shard: int) -> int:
        """Bytes of the shards that are read at the same time as this one, itself included."""
        with self._changed:
            shards = {shard, *self._now, *self._users, *self._waiting}
            return sum(self._files[each].size for each in shards)

    def _warn(self, shard: int) -> None:
        needed = self._needed(shard)
        with self._changed:
            if needed <= self._warned_of:
                return
            self._warned_of = needed
            ahead = sum(self._files[each].size for each in self._next)
        limit = f"{self._cache.folder} may take {_spell(self._cache.size)}"
        if needed <= self._cache.size:
            _log.warning("%s, and what others use fills it: more is taken now", limit)
            return
        _log.warning(
            "%s, and what is read at the same time has %s: more is taken now. A cache_size "
            "(--cache-size) of %s would do, and %s would leave room to fetch ahead",
            limit,
            _spell(needed),
            _spell(needed),
            _spell(needed + ahead),
        )


def _spell(size: int) -> str:
    """A number of bytes as text such as 1.5GB, rounded up."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{-(-size * 10 // unit) / 10:g}{name}"
    return f"{size}B"
