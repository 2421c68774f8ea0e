"""TFRecord shards as a random-access sequence of encoded images and labels."""

import collections.abc
import glob
import hashlib
import logging
import os
import re
import tempfile
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union, overload

import numpy as np

from . import _core
from .errors import RecordError

_log = logging.getLogger("pretexture.loader")

_Path = Union[str, "os.PathLike[str]"]


class Record(NamedTuple):
    """One record.

    Attributes:
        image: the encoded image.
        label: the class label less the label offset; -1 where the record has none.
        path: the shard.
        offset: bytes from the start of the shard to the start of the record.
    """

    image: bytes
    label: int
    path: str
    offset: int


class Index(NamedTuple):
    """Where the records are.

    Attributes:
        offsets: uint64 [records], bytes from the start of the shard.
        lengths: uint32 [records], bytes of data.
        shard_begin: uint64 [shards + 1], the record number at which each shard begins.
        faults: for each shard whose framing is broken, where and why its scan ended; the records
            before that are in the index.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    shard_begin: np.ndarray
    faults: Tuple[RecordError, ...]


class TFRecords(collections.abc.Sequence):
    """The records of TFRecord shards, in the order of the shards.

    The shards are scanned on first use, at a few thousand shards a second where they are in the
    page cache; the index is kept in `cache_dir` and read from there as long as no shard changes.

    Args:
        pattern_or_paths: a glob pattern, a path, or several paths. What a pattern matches is
            sorted by name.
        image_key: feature with the encoded image.
        label_key: feature with the class label, an integer.
        label_offset: subtracted from labels; TF-Slim's ImageNet counts from 1.
        verify_crc: whether to check the checksum of each record's data as it is read.
        cache_dir: where indexes are kept; default `$XDG_CACHE_HOME/pretexture` or
            `~/.cache/pretexture`.

    Raises: FileNotFoundError where nothing matches; on first use RecordError for a shard that is
        empty, truncated or not a TFRecord file.
    """

    def __init__(
        self,
        pattern_or_paths: Union[_Path, Sequence[_Path]],
        image_key: str = "image/encoded",
        label_key: str = "image/class/label",
        label_offset: int = 1,
        verify_crc: bool = True,
        cache_dir: Optional[_Path] = None,
    ):
        self.paths: Tuple[str, ...] = tuple(_resolve(pattern_or_paths))
        self.image_key = image_key
        self.label_key = label_key
        self.label_offset = int(label_offset)
        self.verify_crc = bool(verify_crc)
        self._cache_dir = _default_cache_dir() if cache_dir is None else os.fspath(cache_dir)
        self._index: Optional[Index] = None

    def shard_index(self, on_error: str = "raise") -> Index:
        """Where the records are, from the cache or by a scan.

        Args:
            on_error: "raise" the first broken shard's RecordError, or "skip" what follows the
                damage in such shards.
        """
        if self._index is None:
            self._index = _load_index(self.paths, self._cache_dir)
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
        path, offset, length = self.locate(number, index)
        try:
            data = _core.read_record(path, offset, length, self.verify_crc)
            image, label = _core.parse_example(data, self.image_key, self.label_key)
        except ValueError as error:
            raise RecordError(path, offset, number, str(error)) from None
        return Record(image, -1 if label is None else label - self.label_offset, path, offset)

    def locate(self, number: int, index: Index) -> Tuple[str, int, int]:
        """Path, offset and length of a record."""
        shard = int(np.searchsorted(index.shard_begin, number, side="right")) - 1
        return self.paths[shard], int(index.offsets[number]), int(index.lengths[number])

    def __repr__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"TFRecords({self.paths[0]!r}{more})"


def imagenet(root: _Path, split: str, **kwargs) -> TFRecords:
    """A split of ImageNet, or of any data set in shards named as TF-Slim names ImageNet's.

    Args:
        root: folder with `train-00000-of-01024` and on, `validation-00000-of-00128` and on.
        split: "train" (all but the last 40/1024 of the training shards, rounded, but at least
            one), "val" (those last shards), "trainval" (all of them) or "test" (the validation
            shards).
        **kwargs: as for `TFRecords`.

    Raises: ValueError for another split, or for a split of a single training shard;
        FileNotFoundError where the shards, or some of them, are missing.
    """
    if split not in ("train", "val", "trainval", "test"):
        raise ValueError(f"split must be train, val, trainval or test, not {split!r}")
    shards = _numbered_shards(os.fspath(root), "validation" if split == "test" else "train")
    if split in ("train", "val"):
        held_out = max(1, round(len(shards) * 40 / 1024))
        if held_out == len(shards):
            raise ValueError(
                f"{root} has a single training shard, which cannot be split into train and val; "
                "use trainval and test"
            )
        shards = shards[-held_out:] if split == "val" else shards[:-held_out]
    return TFRecords(shards, **kwargs)


def _numbered_shards(root: str, name: str) -> List[str]:
    if not os.path.isdir(root):
        raise FileNotFoundError(f"there is no folder {root}")
    found: Dict[int, Dict[int, str]] = {}
    for entry in os.listdir(root):
        match = re.fullmatch(re.escape(name) + r"-(\d{5})-of-(\d{5})", entry)
        if match:
            found.setdefault(int(match.group(2)), {})[int(match.group(1))] = entry
    if not found:
        raise FileNotFoundError(
            f"{root} has no shards {name}-*-of-*; scripts/prepare.py writes them from images"
        )
    if len(found) > 1:
        counts = " and ".join(f"of {count}" for count in sorted(found))
        raise FileNotFoundError(f"{root} mixes {name} shards {counts}; keep one set of them")
    (count, shards), *_ = found.items()
    missing = sorted(set(range(count)) - set(shards))
    if missing:
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} of {count} {name} shards, the first of them "
            f"{name}-{missing[0]:05d}-of-{count:05d}"
        )
    return [os.path.join(root, shards[i]) for i in range(count)]


def _resolve(pattern_or_paths: Union[_Path, Sequence[_Path]]) -> List[str]:
    if isinstance(pattern_or_paths, (str, os.PathLike)):
        pattern = os.fspath(pattern_or_paths)
        if os.path.isdir(pattern):
            raise IsADirectoryError(
                f"{pattern} is a folder; name its shards, such as "
                f"{os.path.join(pattern, 'train-*')}, or use imagenet(folder, split)"
            )
        paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"no file matches {pattern}")
        return paths
    paths = [os.fspath(path) for path in pattern_or_paths]
    if not paths:
        raise FileNotFoundError("no shards are given")
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"no such file: {path}")
    return paths


def _default_cache_dir() -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "pretexture")


def _load_index(paths: Sequence[str], cache_dir: str) -> Index:
    key = hashlib.sha256(b"pretexture index 1\n")
    for path in paths:
        status = os.stat(path)
        key.update(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    cached = os.path.join(cache_dir, f"index-{key.hexdigest()[:32]}.npz")
    try:
        index = _read_index(cached, len(paths))
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever NumPy and zipfile make of a damaged file
        _log.warning("the cached index %s cannot be read and is made anew: %s", cached, error)
    else:
        return index

    threads = min(32, 4 * (os.cpu_count() or 1), len(paths))
    offsets, lengths, counts, faults = _core.scan_shards(list(paths), threads)
    shard_begin = np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64)])
    errors = tuple(RecordError(path, offset, None, reason) for path, offset, reason in faults)
    index = Index(offsets, lengths, shard_begin, errors)
    if not errors:
        _save_index(index, cached)
    return index


def _read_index(path: str, shards: int) -> Index:
    with np.load(path) as arrays:
        index = Index(arrays["offsets"], arrays["lengths"], arrays["shard_begin"], ())
    kinds = [(array.dtype, array.ndim) for array in index[:3]]
    sizes = (len(index.offsets), len(index.lengths), len(index.shard_begin))
    records = int(index.shard_begin[-1])
    if kinds != [(np.uint64, 1), (np.uint32, 1), (np.uint64, 1)]:
        raise ValueError("its arrays are of other types")
    if sizes != (records, records, shards + 1):
        raise ValueError("its arrays are of other sizes")
    return index


def _save_index(index: Index, path: str) -> None:
    """Written beside and renamed. A cache that cannot be written costs a scan, not the run."""
    temporary = None
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file, offsets=index.offsets, lengths=index.lengths, shard_begin=index.shard_begin
            )
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("the index cannot be cached in %s: %s", os.path.dirname(path), error)
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
