"""Files at URLs: listed, fetched and written through fsspec, with retries for passing failures.

`obs://` is the S3 protocol at the endpoint of an object storage service. fsspec handles all other
schemes.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import logging
import os
import random
import re
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, TypeVar

from ..console.paths import cache_folder
from ..console.printable import printable
from ..console.redaction import RedactingFilter, redacted

_log = logging.getLogger("pretexture.loader")
_log.addFilter(RedactingFilter())

# Number of tries, and seconds before the second one; the pause doubles before each further try.
TRIES = 6
FIRST_PAUSE = 0.5
# An upload fails after `SILENCE` seconds plus the time that its bytes take at `SLOWEST` bytes per
# second.
SILENCE = 60.0
SLOWEST = 100e3

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_S3 = ("s3", "s3a", "obs")
_REQUESTS = 16  # requests at a time for the sizes of files
# Entries of a listing that change with a file's contents, as different file systems name them.
_VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "mtime")

# Errors of a local disk that cannot take another file.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_GLANCE = 0.2  # seconds between two checks of whether a request is still wanted

T = TypeVar("T")


class FetchError(OSError):
    """A file at a URL cannot be fetched, listed or written.

    Attributes:
        url: URL of the file.
        reason: what is wrong.
    """

    def __init__(self, url: str, reason: str):
        reason = printable(redacted(reason))
        super().__init__(f"{printable(redacted(url))}: {reason}")
        self.url = url
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.url, self.reason)


class MissingError(FetchError, FileNotFoundError):
    """A file at a URL does not exist."""


class Stopped(RuntimeError):
    """A wait ended because the reader that it was for is closed."""


class RemoteFile(NamedTuple):
    """A file at a URL, as a listing describes it.

    Attributes:
        url: URL of the file.
        size: size in bytes.
        version: an ETag or a time, which changes with the contents; empty if the server gives
            neither.
    """

    url: str
    size: int
    version: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """How remote data is reached and where its copies are kept.

    Attributes:
        cache_dir: folder for copies and indexes; None for `$XDG_CACHE_HOME/pretexture` or
            `~/.cache/pretexture`.
        cache_size: bytes that the copies of shards may take; None for nine tenths of the free space
            of the folder's disk.
        endpoint_url: URL of the service for `s3://` and `obs://` URLs; None for AWS_ENDPOINT_URL in
            the environment, or Amazon's.
        storage_options: options of the file system, as fsspec documents them.
    """

    cache_dir: Optional[str] = None
    cache_size: Optional[int] = None
    endpoint_url: Optional[str] = None
    storage_options: Optional[Mapping[str, Any]] = dataclasses.field(default=None, repr=False)

    @property
    def folder(self) -> str:
        """The folder for copies and indexes."""
        if self.cache_dir is not None:
            return self.cache_dir
        return cache_folder()


DEFAULT_STORAGE = Storage()


def is_url(name: str) -> bool:
    """Whether a name is a URL and not a path."""
    return bool(_URL.match(name))


def is_safe_name(name: str) -> bool:
    """Whether a name from a server is safe to use as a path inside a local folder.

    A safe name is relative, has no empty, `.` or `..` parts, no backslash and no control character,
    and no part is longer than file systems allow (255 bytes, less the ending of a temporary file).
    """
    parts = name.split("/")
    return (
        all(
            part not in ("", ".", "..")
            and len(os.fsencode(part)) <= 200
            and not re.search(r"[\x00-\x1f\x7f\\]", part)
            and not re.match(r"[A-Za-z]:", part)
            for part in parts
        )
        and len(os.fsencode(name)) <= 2000
    )


def join(folder: str, name: str) -> str:
    """The path or URL of a name in a folder, which is a path or a URL."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


class Remote:
    """The file system of a URL.

    Requests that fail for a passing reason (a refused connection, a busy server, a body that ends
    early) are tried up to `TRIES` times, with growing pauses. A lasting reason (a missing file, no
    permission, a full local disk) is an error at once.

    Args:
        url: any URL of the file system.
        storage: how the file system is reached.
        stopped: event that ends all waits when it is set.

    Raises: ImportError naming the extra to install; ValueError for an unknown scheme, or for a URL
        that needs an endpoint.
    """

    def __init__(self, url: str, storage: Storage, stopped: Optional[threading.Event] = None):
        self._scheme = _scheme(url)
        self._stopped = stopped or threading.Event()
        self._fs = _file_system(self._scheme, storage)

    def match(self, pattern: str) -> List[RemoteFile]:
        """The files that a glob pattern matches, sorted by name. Raises FetchError."""

        def glob() -> Mapping[str, Any]:
            self._fs.invalidate_cache()
            return self._call("glob", self._path(pattern), detail=True)

        found = self._persist(pattern, glob)
        files = {path: info for path, info in found.items() if _is_file(path, info)}
        return self._described([self._url(path) for path in sorted(files)], files)

    def describe(self, urls: Sequence[str]) -> List[RemoteFile]:
        """The files at these URLs. Raises: MissingError, FetchError."""
        return self._described(urls, {})

    def entries(self, folder: str, deep: bool = False) -> Dict[str, RemoteFile]:
        """The files in a folder, by name; with `deep` also those in its folders, by relative path.

        Names that are not safe (see `is_safe_name`) are left out with a warning, because callers
        turn the names into local paths. A folder that does not exist is empty.

        Raises: FetchError.
        """
        root = self._path(folder).rstrip("/")

        def listing() -> List[Any]:
            self._fs.invalidate_cache()
            try:
                if deep:
                    return list(self._call("find", root, detail=True).values())
                return self._call("ls", root, detail=True)
            except FileNotFoundError as error:
                if not _is_missing(error):
                    raise
                return []

        infos = {
            info["name"]: info
            for info in self._persist(folder, listing)
            if _is_file(info["name"], info)
        }
        names = {path[len(root) + 1 :]: path for path in infos if path.startswith(f"{root}/")}
        unsafe = [name for name in names if not is_safe_name(name)]
        if unsafe:
            _log.warning(
                "%s: %d files are left out, because their names cannot be those of local files; "
                "one is %r",
                folder,
                len(unsafe),
                unsafe[0][:80],
            )
        kept = [name for name in names if name not in unsafe]
        urls = [self._url(names[name]) for name in kept]
        return dict(zip(kept, self._described(urls, infos)))

    def read(self, url: str) -> bytes:
        """The contents of a small file. Raises: MissingError, FetchError."""
        return self._persist(url, lambda: self._call("cat_file", self._path(url)))

    def fetch(self, file: RemoteFile, path: str) -> None:
        """Copies a whole file to `path`. Raises: MissingError, FetchError, Stopped."""
        self._persist(file.url, lambda: self._get(file, path))

    def fetch_newest(self, file: RemoteFile, path: str) -> RemoteFile:
        """Copies a file that may have changed since it was listed; returns its new description.

        Raises: MissingError, FetchError, Stopped.
        """
        newest: Optional[RemoteFile] = file

        def get() -> RemoteFile:
            nonlocal newest
            if newest is None:
                self._fs.invalidate_cache()
                newest = self._described([file.url], {})[0]
            try:
                self._get(newest, path)
                return newest
            except Exception:
                newest = None  # the next try asks the server again
                raise

        return self._persist(file.url, get)

    def _get(self, file: RemoteFile, path: str) -> None:
        callback = _until(self._stopped, file.size)
        try:
            self._call("get_file", self._path(file.url), path, callback=callback)
        except OSError as error:
            if error.errno in _CANNOT_WRITE:  # an error of the local disk, not of the server
                reason = f"cannot be kept in {os.path.dirname(path)}: {error}"
                raise FetchError(file.url, reason) from error
            raise
        size = os.path.getsize(path)
        if size != file.size:
            raise OSError(f"{size} bytes came, and the listing says {file.size}")

    def write(self, path: str, url: str) -> RemoteFile:
        """Copies a local file to a URL; returns the new file there. Raises FetchError."""

        def put() -> RemoteFile:
            # There must be a limit, because a server may never answer.
            patience = SILENCE + os.path.getsize(path) / SLOWEST
            self._call("put_file", path, self._path(url), patience=patience)
            self._fs.invalidate_cache()
            (file,) = self._described([url], {})
            return file

        return self._persist(url, put, "there is no such bucket or folder")

    def remove(self, url: str) -> None:
        """Removes a file if it exists. Raises FetchError."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._call("rm_file", self._path(url))

        self._persist(url, remove)

    def _path(self, url: str) -> str:
        return self._fs._strip_protocol(f"s3{url[3:]}" if self._scheme == "obs" else url)

    def _url(self, path: str) -> str:
        return path if is_url(path) else f"{self._scheme}://{path}"

    def _described(
        self, urls: Sequence[str], infos: Mapping[str, Mapping[str, Any]]
    ) -> List[RemoteFile]:
        """Files as a listing describes them; the server is asked about those without a size."""

        def describe(url: str) -> RemoteFile:
            info = infos.get(self._path(url), {})
            if info.get("size") is None:
                info = self._persist(url, lambda: self._call("info", self._path(url)))
            if info["type"] != "file":
                raise IsADirectoryError(f"{url} is a folder")
            if info.get("size") is None:
                raise FetchError(url, "the server does not say how many bytes it has")
            version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
            return RemoteFile(url, int(info["size"]), version)

        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            try:
                return list(pool.map(describe, urls))
            except KeyboardInterrupt:
                self._stopped.set()  # ends the threads, which the pool waits for
                raise

    def _call(
        self, method: str, *args: Any, patience: Optional[float] = None, **kwargs: Any
    ) -> Any:
        """Calls a method of the file system; the call ends when `stopped` is set, or on Ctrl-C.

        Raises: Stopped; TimeoutError after `patience` seconds; whatever the method raises.
        """
        if not self._fs.async_impl:
            return getattr(self._fs, method)(*args, **kwargs)
        request = getattr(self._fs, f"_{method}")(*args, **kwargs)
        future = asyncio.run_coroutine_threadsafe(request, self._fs.loop)
        began = time.monotonic()
        try:
            while True:
                try:
                    return future.result(_GLANCE)
                except concurrent.futures.TimeoutError:
                    if future.done():  # the request timed out, not this wait
                        raise
                if self._stopped.is_set():
                    raise Stopped
                if patience is not None and time.monotonic() - began > patience:
                    raise TimeoutError(f"no answer within {patience:.0f} s")
        finally:
            future.cancel()

    def _persist(self, url: str, act: Callable[[], T], missing: str = "there is no such file") -> T:
        """Calls `act` until it succeeds or fails for good; returns what it returns.

        `missing` is the reason of the error if the file does not exist.
        """
        pause = FIRST_PAUSE
        for attempt in range(1, TRIES + 1):
            try:
                return act()
            except (FetchError, Stopped):
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError):
                    if _is_missing(error):
                        raise MissingError(url, missing) from error
                    # fsspec also raises FileNotFoundError for other failures of a web server.
                    error = error.__cause__ if isinstance(error.__cause__, Exception) else error
                reason = _reason(error)
                if _lasting(error):
                    raise FetchError(url, reason) from error
                if attempt == TRIES:
                    raise FetchError(url, f"{reason} (the last of {TRIES} tries)") from error
            # Random, so that readers that wait for the same server do not all return at once.
            seconds = pause * random.uniform(0.5, 1)
            pause *= 2
            # When the interpreter exits, requests fail before this thread ends.
            if self._stopped.wait(seconds) or not threading.main_thread().is_alive():
                raise Stopped
            _log.warning("%s: %s; trying again after %.1f s", url, reason, seconds)
        raise AssertionError("the last attempt returns or raises")


def _is_file(path: str, info: Mapping[str, Any]) -> bool:
    """Whether an entry is a file, and not the empty object that represents a folder."""
    return info["type"] == "file" and not (path.endswith("/") or info["name"].endswith("/"))


def _scheme(url: str) -> str:
    match = _URL.match(url)
    assert match, url
    return match.group(1).lower()


def _file_system(scheme: str, storage: Storage) -> Any:
    try:
        import fsspec
    except ImportError:
        raise ImportError(
            f"{scheme}:// URLs need fsspec: pip install 'pretexture[remote]'"
        ) from None
    options: Dict[str, Any] = dict(storage.storage_options or {})
    if scheme in _S3:
        _add_s3_options(scheme, storage.endpoint_url, options)
    if scheme in ("http", "https"):
        _add_http_options(options)
    try:
        fs = fsspec.filesystem("s3" if scheme == "obs" else scheme, **options)
    except ImportError as error:
        extra = "gcs" if scheme in ("gs", "gcs") else "remote"
        raise ImportError(
            f"{scheme}:// URLs need another package ({error}): pip install 'pretexture[{extra}]'"
        ) from error
    except ValueError as error:
        raise ValueError(f"fsspec does not open {scheme}:// URLs: {error}") from error
    if scheme in _S3:
        fs.retries = fs.max_concurrency = 1  # files are sent whole, and `Remote` does the retries
    return fs


def _add_s3_options(scheme: str, endpoint_url: Optional[str], options: Dict[str, Any]) -> None:
    endpoint = (
        endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if scheme == "obs" and not endpoint:
        raise ValueError(
            "obs:// URLs need the endpoint of the service: --endpoint-url (endpoint_url) or "
            "AWS_ENDPOINT_URL, such as https://obs.cn-north-4.myhuaweicloud.com"
        )
    client = dict(options.get("client_kwargs", {}))
    if endpoint:
        client["endpoint_url"] = endpoint
    config = {"retries": {"max_attempts": 0}, **options.get("config_kwargs", {})}
    host = urllib.parse.urlsplit(endpoint or "").hostname or ""
    if scheme == "obs" and not re.fullmatch(r"localhost|[\d.]+|.*:.*", host):
        # The service has a host name for each bucket, BUCKET.obs.…. An IP address has none.
        config.setdefault("s3", {"addressing_style": "virtual"})
    options.update(client_kwargs=client, config_kwargs=config)


def _add_http_options(options: Dict[str, Any]) -> None:
    import aiohttp

    # aiohttp's default limits the whole download to five minutes; only silence should end it.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    options["client_kwargs"] = {"timeout": timeout, **options.get("client_kwargs", {})}
    # A compressed transfer would not have the size that the server gives.
    options["headers"] = {"Accept-Encoding": "identity", **options.get("headers", {})}


def _until(stopped: threading.Event, size: int) -> Any:
    """A callback of fsspec that ends a transfer when `stopped` is set or too many bytes arrive."""
    from fsspec.callbacks import Callback

    came = 0

    class Until(Callback):
        def relative_update(self, inc: int = 1) -> None:
            nonlocal came
            came += inc
            if stopped.is_set():
                raise Stopped
            if came > size:
                raise OSError(f"more bytes come than the {size} that the listing says")

    return Until()


def _is_missing(error: FileNotFoundError) -> bool:
    """Whether the error says that the file does not exist, and not that the server failed."""
    cause = error.__cause__
    if cause is None or isinstance(cause, FileNotFoundError):
        return True
    status = getattr(cause, "status", None)  # aiohttp's
    if isinstance(status, int):
        return status in (404, 410)
    network = isinstance(cause, (OSError, asyncio.TimeoutError))
    return not (network or type(cause).__module__.partition(".")[0] == "aiohttp")


def _lasting(error: Exception) -> bool:
    """Whether another try would fail in the same way."""
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        return True
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    if isinstance(error, (ImportError, NotImplementedError, TypeError, ValueError, AssertionError)):
        return True
    status = getattr(error, "status", None)  # aiohttp's
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return True
    # These are botocore's errors, compared by name because importing botocore is slow.
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")


def _reason(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    if not words and error.__cause__ is not None:  # such as fsspec's error for a timeout
        return _reason(error.__cause__)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
