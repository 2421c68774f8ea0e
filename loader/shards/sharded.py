"""Records in shards, which are files on this machine or at URLs."""

import hashlib
import os
import threading
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

from ..console import paths
from ..console.arguments import choice
from ..console.paths import Path
from ..console.redaction import redacted
from .access import LocalShards, Shards
from .cache import RemoteShards, ShardCache
from .index import Format, Index, local_index, remote_index
from .remote import Remote, RemoteFile, Storage, is_url, join
from .source import Records


class ShardedRecords(Records):
    """What `TFRecords` and `WebDataset` have in common: shards, their index, and their copies.

    Args:
        pattern_or_paths: a glob pattern, a path or URL, or several paths or URLs.
        row_index, cache_dir, cache_size, endpoint_url, storage_options: see `TFRecords`.
    """

    def __init__(
        self,
        pattern_or_paths: Union[Path, Sequence[Path]],
        row_index: str,
        cache_dir: Optional[Path],
        cache_size: Optional[int],
        endpoint_url: Optional[str],
        storage_options: Optional[Mapping[str, Any]],
    ):
        if not isinstance(pattern_or_paths, (str, bytes, os.PathLike)):
            pattern_or_paths = list(pattern_or_paths)
        cache_dir = None if cache_dir is None else paths.expand(cache_dir)
        self._storage = Storage(cache_dir, cache_size, endpoint_url, storage_options)
        self._files = _remote_files(pattern_or_paths, self._storage)
        self.paths: Tuple[str, ...] = (
            tuple(_resolve(pattern_or_paths))
            if self._files is None
            else tuple(file.url for file in self._files)
        )
        self.row_index = choice("row_index", row_index, ("auto", "off"))
        self._index: Optional[Index] = None

    @property
    def remote(self) -> bool:  # type: ignore[override]  # not writable here
        """Whether the shards are at URLs."""
        return self._files is not None

    @property
    def version(self) -> str:  # type: ignore[override]  # not writable here
        """Digest of the shards' sizes and times of modification, or of what servers say of them."""
        if self._files is None:
            stats = [os.stat(path) for path in self.paths]
            files = [(status.st_size, str(status.st_mtime_ns)) for status in stats]
        else:
            files = [(file.size, file.version) for file in self._files]
        return hashlib.sha256(repr(files).encode()).hexdigest()

    @property
    def format(self) -> Format:
        """How the shards are scanned, and their index kept."""
        raise NotImplementedError

    @property
    def has_row_index(self) -> bool:
        """Whether Loaders keep where the rows of each JPEG begin."""
        return self.row_index == "auto"

    @property
    def cache_folder(self) -> str:
        """The folder for indexes and for copies of remote shards."""
        return self._storage.folder

    def open_shards(self) -> Shards:
        """The shards, opened for one reader, which closes them."""
        if self._files is None:
            return LocalShards(self.paths)
        return self._open_remote(self._files)

    def _open_remote(self, files: Sequence[RemoteFile]) -> RemoteShards:
        stopped = threading.Event()
        folder = os.path.join(self._storage.folder, "shards")
        return RemoteShards(
            files,
            Remote(files[0].url, self._storage, stopped),
            ShardCache(folder, self._storage.cache_size),
            stopped,
        )

    def shard_index(self, on_error: str = "raise") -> Index:
        """Where the records are: read from the cache, or found by a scan.

        Args:
            on_error: "raise" the RecordError of the first broken shard, or "skip" the part of each
                broken shard that follows the damage.
        """
        if self._index is None:
            folder = self._storage.folder
            if self._files is None:
                self._index = local_index(self.paths, folder, self.format)
            else:
                files = self._files
                self._index = remote_index(
                    files, folder, lambda: self._open_remote(files), self.format
                )
        if self._index.faults and on_error == "raise":
            raise self._index.faults[0]
        return self._index

    def where(self, number: int, index: Index) -> Tuple[str, Optional[int]]:
        """The shard that a record is in, and its offset there."""
        shard, offset, _ = index.locate(number)
        return self.paths[shard], offset

    def __len__(self) -> int:
        return len(self.shard_index().offsets)

    def __repr__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{type(self).__name__}({redacted(self.paths[0])!r}{more})"


def _remote_files(
    pattern_or_paths: Union[Path, Sequence[Any]], storage: Storage
) -> Optional[List[RemoteFile]]:
    """The files at URLs; None for paths."""
    if isinstance(pattern_or_paths, (str, bytes, os.PathLike)):
        pattern = os.fsdecode(pattern_or_paths)
        if not is_url(pattern):
            return None
        remote = Remote(pattern, storage)
        if not set("*[") & set(pattern):  # a question mark begins the query of a web address
            try:
                return remote.describe([pattern])
            except IsADirectoryError:
                raise _folder_error(pattern) from None
        files = remote.match(pattern)
        if not files:
            raise FileNotFoundError(f"no file matches {redacted(pattern)}")
        return files
    shards: Sequence[Any] = pattern_or_paths
    urls = [shard.url if isinstance(shard, RemoteFile) else os.fsdecode(shard) for shard in shards]
    schemes = {url.partition("://")[0] if is_url(url) else "" for url in urls}
    if schemes <= {""}:
        return None
    if len(schemes) > 1:
        some = f"{redacted(urls[0])} and {redacted(urls[-1])}"
        raise ValueError(f"shards must be of one kind of URL, and {some} are not")
    files = [shard for shard in shards if isinstance(shard, RemoteFile)]
    if len(files) == len(shards):
        return files
    return Remote(urls[0], storage).describe(urls)


def _resolve(pattern_or_paths: Union[Path, Sequence[Path]]) -> List[str]:
    if isinstance(pattern_or_paths, (str, bytes, os.PathLike)):
        pattern = paths.expand(pattern_or_paths)
        if os.path.isdir(pattern):
            raise _folder_error(pattern)
        found = paths.matches(pattern)
        if not found:
            raise FileNotFoundError(f"no file matches {pattern}")
        return found
    found = [paths.expand(path) for path in pattern_or_paths]
    if not found:
        raise FileNotFoundError("no shards are given")
    for path in found:
        if not os.path.exists(path):
            raise FileNotFoundError(f"no such file: {path}")
    return found


def _folder_error(folder: str) -> IsADirectoryError:
    folder = redacted(folder)
    return IsADirectoryError(
        f"{folder} is a folder; name its shards, such as {join(folder, 'train-*')}, or use "
        "imagenet(folder, split)"
    )
