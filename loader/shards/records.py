"""TFRecord shards as a random-access sequence of encoded images and labels."""

import collections.abc
import os
import threading
import weakref
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union, overload

from .. import _core
from ..console import paths
from ..console.arguments import choice, whole
from ..console.paths import Path
from ..console.redaction import redacted
from ..errors import RecordError
from .access import LocalShards, Opener, Shards
from .cache import RemoteShards, ShardCache
from .index import Index, local_index, remote_index
from .remote import FetchError, Remote, RemoteFile, Storage, is_url, join

# The feature with the class label in the layout of TF-Slim; it may be missing.
LABEL_KEY = "image/class/label"


class Record(NamedTuple):
    """One record.

    Attributes:
        image: the encoded image.
        label: the class label minus the label offset; -1 if the record has none.
        path: path or URL of the shard.
        offset: bytes from the start of the shard to the start of the record.
    """

    image: bytes
    label: int
    path: str
    offset: int


class TFRecords(collections.abc.Sequence):
    """The records of TFRecord shards, in the order of the shards.

    The shards are scanned on first use, at a few thousand shards per second if they are in the page
    cache. The index is kept in `cache_dir` and read from there until a shard changes.

    Shards may be at URLs that fsspec knows (`s3://`, `obs://`, `gs://`, `https://`, …). They are
    copied whole to a folder in `cache_dir` when they are needed or shortly before, and removed from
    there when others need the room. To make the index, each shard is copied once. See
    https://github.com/pretexture/pretexture/blob/main/docs/storage.md.

    Args:
        pattern_or_paths: a glob pattern, a path or URL, or several paths or URLs. The matches of a
            pattern are sorted by name. If a folder has exactly the name in the pattern, that folder
            is meant, even if the name has brackets. Paths may be text, bytes or path objects, in
            any encoding, and begin with `~`.
        image_key: name of the feature with the encoded image.
        label_key: name of the feature with the class label, an int64. A record without the default
            feature has no label; a record without a feature that is named here is an error.
        label_offset: number that is subtracted from labels; TF-Slim's ImageNet counts from 1. A
            stored label of -1 means "no label" and stays -1; other labels may not fall below 0.
        verify_crc: whether the checksum of each record's data is checked when it is read.
        row_index: "auto" keeps in `cache_dir` where the rows of each JPEG begin, so that later
            epochs need not decode what lies above and beside a crop. It takes at most 0.6% of the
            size of the shards, and no pixel depends on it. "off" does without. It needs
            `verify_crc`.
        cache_dir: folder for indexes and for copies of remote shards. Default:
            `$XDG_CACHE_HOME/pretexture` or `~/.cache/pretexture`.
        cache_size: bytes that these copies may take, together with those of other processes that
            use the folder. Default: nine tenths of the free space of its disk. Shards that are read
            at the same time are kept even if they take more.
        endpoint_url: URL of the service for `s3://` and `obs://` URLs. Default: AWS_ENDPOINT_URL in
            the environment. `obs://` needs one.
        storage_options: options of the file system, as fsspec documents them.

    Raises: FileNotFoundError if nothing matches; ImportError for URLs without fsspec; on first use
        RecordError for a shard that is empty, truncated or not a TFRecord file, and OSError for a
        shard that cannot be fetched.
    """

    def __init__(
        self,
        pattern_or_paths: Union[Path, Sequence[Path]],
        image_key: str = "image/encoded",
        label_key: str = LABEL_KEY,
        label_offset: int = 1,
        verify_crc: bool = True,
        row_index: str = "auto",
        cache_dir: Optional[Path] = None,
        cache_size: Optional[int] = None,
        endpoint_url: Optional[str] = None,
        storage_options: Optional[Mapping[str, Any]] = None,
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
        self.image_key = image_key
        self.label_key = label_key
        self.label_offset = whole("label_offset", label_offset, -(2**31), 2**31 - 1)
        self.verify_crc = bool(verify_crc)
        self.row_index = choice("row_index", row_index, ("auto", "off"))
        self._index: Optional[Index] = None
        self._shards: Optional[Shards] = None

    @property
    def remote(self) -> bool:
        """Whether the shards are at URLs."""
        return self._files is not None

    def open_shards(self) -> Shards:
        """The shards, opened for one reader, which closes them."""
        if self._files is None:
            return LocalShards(self.paths)
        return self._open_remote(self._files)

    @property
    def cache_folder(self) -> str:
        """The folder for indexes and for copies of remote shards."""
        return self._storage.folder

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records.

        Args:
            index: index of the shards.
            opener: function that opens a shard; None if the core opens the paths.
        """
        return {
            "paths": list(map(os.fsencode, self.paths)),
            "open": opener,
            "shard_begin": [int(x) for x in index.shard_begin],
            "offsets": index.offsets,
            "lengths": index.lengths,
            "verify_crc": self.verify_crc,
            "image_key": self.image_key,
            "label_key": self.label_key,
            "label_offset": self.label_offset,
            "label_required": self.label_required,
        }

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
                self._index = local_index(self.paths, folder)
            else:
                files = self._files
                self._index = remote_index(files, folder, lambda: self._open_remote(files))
        if self._index.faults and on_error == "raise":
            raise self._index.faults[0]
        return self._index

    def __len__(self) -> int:
        return len(self.shard_index().offsets)

    @overload
    def __getitem__(self, i: int) -> Record: ...
    @overload
    def __getitem__(self, i: slice) -> List[Record]: ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        index = self.shard_index()
        number = int(i) + (len(index.offsets) if i < 0 else 0)
        if not 0 <= number < len(index.offsets):
            raise IndexError(f"record {i} of {len(index.offsets)}")
        shard, offset, length = index.locate(number)
        name = self.paths[shard]
        if self._shards is None:
            self._shards = self.open_shards()
            weakref.finalize(self, self._shards.close)
        try:
            with self._shards.use(shard) as path:
                data = _core.read_record(os.fsencode(path), offset, length, self.verify_crc)
            image, _ = _core.parse_example(data, self.image_key, self.label_key)
            label = self.class_label(data)
        except FetchError as error:
            raise RecordError(name, offset, number, error.reason) from error
        except (ValueError, OSError) as error:
            raise RecordError(name, offset, number, str(error)) from None
        return Record(image, label, name, offset)

    def class_label(self, data: bytes) -> int:
        """The class label of a serialised record; -1 if it has none.

        Raises: ValueError with the reason.
        """
        return _core.class_label(
            data, self.image_key, self.label_key, self.label_offset, self.label_required
        )

    @property
    def label_required(self) -> bool:
        """Whether each record must have a label, because `label_key` names another feature."""
        return self.label_key != LABEL_KEY

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_shards": None}

    def __repr__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"TFRecords({redacted(self.paths[0])!r}{more})"


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
