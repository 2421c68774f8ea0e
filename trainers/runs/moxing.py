"""Data and runs at URLs that `moxing`, the module of Huawei's ModelArts platform, copies."""

import contextlib
import importlib
import os
import tempfile
from typing import Any, Callable, Iterator, Mapping, Sequence, Tuple

from pretexture.loader.console.files import digest
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.remote import FetchError, RemoteFile, join

from .mirror import RemoteWorkdir, Transport, files_in, title


def find() -> Any:
    """The platform's `moxing.file`; None if there is no moxing."""
    try:
        return importlib.import_module("moxing").file
    except ImportError:
        return None


def fetch(files: Any, url: str, cache: str) -> str:
    """Copies a folder at a URL into a folder of its own in `cache`; returns the path of that.

    Args:
        files: `moxing.file`.
        url: URL of the folder.
        cache: folder for the copies.

    Raises: FetchError.
    """
    folder = os.path.join(cache, title(url))
    print(f"copying {redacted(url)} to {folder}", flush=True)
    _call(url, files.copy_parallel, url, folder)
    return folder


def workdir(files: Any, url: str, cache: str) -> RemoteWorkdir:
    """The folder of a training run at a URL; its copy is a folder of its own in `cache`."""
    folder = os.path.join(cache, title(url))  # so that no run resumes from the files of another one
    return RemoteWorkdir(MoxingTransport(files, url, folder), folder, "train")


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
            if _call(self.url, self._files.exists, self.url):
                _call(self.url, self._files.copy_parallel, self.url, self._fetched)
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
            _call(self.url, self._files.copy_parallel, changed, self.url)
        yield from files.items()

    def remove(self, name: str) -> None:
        url = join(self.url, name)
        _call(url, self._files.remove, url)

    def _described(self, folder: str, name: str) -> RemoteFile:
        path = os.path.join(folder, name)
        return RemoteFile(join(self.url, name), os.path.getsize(path), digest(path))


def _call(url: str, function: Callable[..., Any], *arguments: str) -> Any:
    """Calls a function of moxing. Raises FetchError for the URL."""
    try:
        return function(*arguments)
    except Exception as error:  # moxing does not say which errors it raises
        raise FetchError(url, f"moxing.file.{function.__name__}: {error}") from error
