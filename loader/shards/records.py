"""TFRecord shards as a random-access sequence of encoded images and labels."""

import collections.abc
import contextlib
import dataclasses
import os
import re
import threading
import weakref
from typing import (
    Any,
    ContextManager,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
    overload,
)

import numpy as np

from .. import _core
from ..console import paths
from ..console.arguments import whole
from ..console.json_text import parse_object
from ..console.paths import Path
from ..console.redaction import redacted
from ..errors import RecordError
from .cache import RemoteShards, ShardCache
from .index import Index, local_index, remote_index
from .remote import (
    FetchError,
    MissingError,
    Remote,
    RemoteFile,
    Storage,
    is_safe_name,
    is_url,
    join,
)

__all__ = ["Index", "LocalShards", "Record", "Shards", "TFRecords", "imagenet"]

# What scripts/prepare.py says of the shards that it writes.
DATASET = "dataset.json"

# The feature with the class label in the layout of TF-Slim; it may be missing.
LABEL_KEY = "image/class/label"
_TFDS = {"image_key": "image", "label_key": "label", "label_offset": 0}


class Record(NamedTuple):
    """One record.

    Attributes:
        image: the encoded image.
        label: the class label less the label offset; -1 if the record has none.
        path: the shard.
        offset: bytes from the start of the shard to the start of the record.
    """

    image: bytes
    label: int
    path: str
    offset: int


class LocalShards:
    """Shards that are files, with the methods of `RemoteShards` that all readers call."""

    def __init__(self, paths: Sequence[str]):
        self._paths = paths

    def use(self, shard: int) -> ContextManager[str]:
        """The path of a shard."""
        return contextlib.nullcontext(self._paths[shard])

    def close(self) -> None:
        """Does nothing."""


Shards = Union[LocalShards, RemoteShards]


class TFRecords(collections.abc.Sequence):
    """The records of TFRecord shards, in the order of the shards.

    The shards are scanned on first use, at a few thousand shards a second where they are in the
    page cache; the index is kept in `cache_dir` and read from there as long as no shard changes.

    Shards may be at URLs that fsspec knows (`s3://`, `obs://`, `gs://`, `https://`, …). They are
    copied whole to a folder in `cache_dir`, when they are needed or somewhat before, and removed
    from there where others need the room; for the index each must be copied once. See
    docs/storage.md.

    Args:
        pattern_or_paths: a glob pattern, a path or URL, or several paths or URLs. What a pattern
            matches is sorted by name; folders that exist under the very name in the pattern are
            taken literally, brackets included. Paths may be text, bytes or path objects, in any
            encoding, and begin with `~`.
        image_key: feature with the encoded image.
        label_key: feature with the class label, an int64. A record without the default feature is
            unlabelled; a record without one that is named here is an error.
        label_offset: subtracted from labels; TF-Slim's ImageNet counts from 1. A stored label of -1
            means "unlabelled" and stays -1; other labels may not fall below 0.
        verify_crc: whether to check the checksum of each record's data as it is read.
        cache_dir: where indexes, and copies of remote shards, are kept; default
            `$XDG_CACHE_HOME/pretexture` or `~/.cache/pretexture`.
        cache_size: bytes that these copies may take, together with those of other processes that
            use the folder; default nine tenths of what its disk has free. What is read at the same
            time is kept even where it takes more.
        endpoint_url: of the service that `s3://` and `obs://` URLs mean; default AWS_ENDPOINT_URL
            in the environment. `obs://` needs one.
        storage_options: for the file system, as fsspec documents them.

    Raises: FileNotFoundError where nothing matches; ImportError for URLs without fsspec; on first
        use RecordError for a shard that is empty, truncated or not a TFRecord file, and OSError for
        one that cannot be fetched.
    """

    def __init__(
        self,
        pattern_or_paths: Union[Path, Sequence[Path]],
        image_key: str = "image/encoded",
        label_key: str = LABEL_KEY,
        label_offset: int = 1,
        verify_crc: bool = True,
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
        self._index: Optional[Index] = None
        self._shards: Optional[Shards] = None

    @property
    def remote(self) -> bool:
        """Whether the shards are at URLs."""
        return self._files is not None

    def open_shards(self) -> Shards:
        """Opens the shards to one reader, who closes them."""
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
        """Where the records are, from the cache or by a scan.

        Args:
            on_error: "raise" the first broken shard's RecordError, or "skip" what follows the
                damage in such shards.
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
        shard, offset, length = self.locate(number, index)
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
        """Whether each record must have a label: if its feature is not the default one."""
        return self.label_key != LABEL_KEY

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_shards": None}

    def locate(self, number: int, index: Index) -> Tuple[int, int, int]:
        """Shard, offset and length of a record."""
        shard = int(np.searchsorted(index.shard_begin, number, side="right")) - 1
        return shard, int(index.offsets[number]), int(index.lengths[number])

    def __repr__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"TFRecords({redacted(self.paths[0])!r}{more})"


def imagenet(root: Path, split: str, **kwargs) -> TFRecords:
    """A split of ImageNet, or of any data set in shards named as TF-Slim or TFDS names ImageNet's.

    Args:
        root: folder with `train-00000-of-01024` and on, `validation-00000-of-00128` and on, or as
            TFDS has them `imagenet2012-train.tfrecord-00000-of-01024`; a path or a URL. In a folder
            that is a path they may also lie in folders `train` and `validation`. If a web server
            holds it, `dataset.json`, which `prepare.py` writes beside the shards, says which there
            are.
        split: "train" (all but the last 40/1024 of the training shards, rounded, but at least
            one), "val" (those last shards), "trainval" (all of them) or "test" (the validation
            shards).
        **kwargs: as for `TFRecords`. For shards that TensorFlow Datasets has named
            (`imagenet2012-train.tfrecord-00000-of-01024`), image_key, label_key and label_offset
            default to "image", "label" and 0, unless the first record has TF-Slim's features.

    Raises: ValueError for another split, or for a split of a single training shard;
        FileNotFoundError where the shards, or some of them, are missing.
    """
    if split not in ("train", "val", "trainval", "test"):
        raise ValueError(f"split must be train, val, trainval or test, not {split!r}")
    root = os.fsdecode(root) if is_url(os.fsdecode(root)) else paths.expand(root)
    name = "validation" if split == "test" else "train"
    listed: Mapping[str, Any]
    if is_url(root):
        names = [field.name for field in dataclasses.fields(Storage)]
        listed = _remote_listing(root, Storage(**{n: kwargs[n] for n in names if n in kwargs}))
    elif os.path.isdir(root):
        listed = _entries(root)
        if not any(_shard_name(name).fullmatch(entry) for entry in listed):
            inner = os.path.join(root, name)
            listed = _entries(inner) if os.path.isdir(inner) else listed
    else:
        raise FileNotFoundError(f"there is no folder {root}")
    entries = _numbered(root, name, listed)
    shards = [listed[entry] for entry in entries]
    if ".tfrecord-" in entries[0] and _has_tfds_features(shards[0], kwargs):
        kwargs = {**_TFDS, **kwargs}
    if split in ("train", "val"):
        held_out = max(1, round(len(shards) * 40 / 1024))
        if held_out == len(shards):
            root = redacted(root)
            options = "".join(f", {key}={kwargs[key]!r}" for key in _TFDS if key in kwargs)
            raise ValueError(
                f"{root} has a single training shard, which cannot be split into train and val; "
                f"use trainval and test, or TFRecords({join(root, entries[0])!r}{options})"
            )
        shards = shards[-held_out:] if split == "val" else shards[:-held_out]
    return TFRecords(shards, **kwargs)


def _has_tfds_features(shard: Any, options: Mapping[str, Any]) -> bool:
    """Whether records that TensorFlow Datasets has named have its features, or TF-Slim's.

    The first record tells; for shards at URLs the names alone do, because they are not read yet.
    """
    if not isinstance(shard, str) or is_url(shard):
        return True
    options = {name: value for name, value in options.items() if name not in _TFDS}
    for features in (_TFDS, {}):
        with contextlib.suppress(RecordError, IndexError):
            TFRecords([shard], **{**options, **features})[0]
            return features == _TFDS
    return True


def _entries(folder: str) -> Dict[str, str]:
    """The paths of a folder's entries by name."""
    return {entry: os.path.join(folder, entry) for entry in os.listdir(folder)}


def _shard_name(name: str) -> "re.Pattern[str]":
    """Matches the shards of a split: what stands before the number, the number, how many."""
    return re.compile(rf"({name}|[\w-]+-{name}\.tfrecord)-([0-9]{{5}})-of-([0-9]{{5}})")


def _numbered(root: str, name: str, entries: Iterable[str]) -> List[str]:
    """Which of a folder's entries are the shards of that name, in order."""
    root = redacted(root)
    found: Dict[Tuple[int, str], Dict[int, str]] = {}
    for entry in entries:
        match = _shard_name(name).fullmatch(entry)
        if match:
            stem, number, count = match.groups()
            found.setdefault((int(count), stem), {})[int(number)] = entry
    if not found:
        raise FileNotFoundError(
            f"{root} has no shards {name}-*-of-* or *-{name}.tfrecord-*-of-*; scripts/prepare.py "
            "writes them from images"
        )
    if len(found) > 1:
        sets = " and of ".join(
            str(count) if stem == name else f"{count} named {stem}" for count, stem in sorted(found)
        )
        raise FileNotFoundError(f"{root} mixes {name} shards of {sets}; keep one set of them")
    ((count, stem), shards), *_ = found.items()
    missing = sorted(set(range(count)) - set(shards))
    if missing:
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} of {count} {name} shards, the first of them "
            f"{stem}-{missing[0]:05d}-of-{count:05d}"
        )
    return [shards[i] for i in range(count)]


def _remote_listing(root: str, storage: Storage) -> Mapping[str, Any]:
    """What is in a folder at a URL: URLs by name, or files where the listing has described them."""
    remote = Remote(root, storage)
    if not root.startswith(("http://", "https://")):
        return remote.entries(root)
    description = join(root, DATASET)
    shown = redacted(description)
    try:
        splits = parse_object(remote.read(description), shown)["splits"].values()
        names = [name for split in splits for name in split["shards"]]
        if not all(is_safe_name(name) and "/" not in name for name in names):
            raise ValueError("a shard's name is not that of a file in the folder")
        return {name: join(root, name) for name in names}
    except MissingError:
        raise FileNotFoundError(
            f"there is no {shown}, and a web server does not list the shards that it has; "
            "scripts/prepare.py writes that file beside them"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{shown} does not name the shards: {type(error).__name__}: {error}"
        ) from error


def _remote_files(
    pattern_or_paths: Union[Path, Sequence[Any]], storage: Storage
) -> Optional[List[RemoteFile]]:
    """The shards that URLs mean; None for paths."""
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
