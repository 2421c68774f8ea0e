"""The index of shards, which says where their records are: made by a scan once, then cached."""

import contextlib
import hashlib
import logging
import os
import stat
import struct
import tempfile
import time
from typing import Any, Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .. import _core
from ..console.paths import make_private
from ..errors import RecordError
from .access import Shards
from .cache import FETCHERS
from .remote import RemoteFile

_log = logging.getLogger("pretexture.loader")

_SECONDS = 10.0  # between two lines about a scan's progress

# An index in the cache: this header, then shard_begin, offsets and lengths, little-endian.
_MAGIC = b"PTXINDX2"
_HEADER = struct.Struct("<8sQQI4x")  # magic, shards, records, CRC-32C of what follows
# Bytes of a record that are not data: its length, two checksums.
_FRAMING = 16


class Index(NamedTuple):
    """Where the records are.

    Attributes:
        offsets: uint64 [records], bytes from the start of the shard.
        lengths: uint32 [records], bytes of data.
        shard_begin: uint64 [shards + 1], the record number at which each shard begins.
        faults: for each broken shard the error that ended its scan. The records before that place
            are in the index.
        labels: int32 [records], class labels; None if they are in the records.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    shard_begin: np.ndarray
    faults: Tuple[RecordError, ...]
    labels: Optional[np.ndarray] = None

    def locate(self, number: int) -> Tuple[int, int, int]:
        """Shard, offset and length of a record."""
        shard = int(np.searchsorted(self.shard_begin, number, side="right")) - 1
        return shard, int(self.offsets[number]), int(self.lengths[number])


class Scan(NamedTuple):
    """What a scan of shards found.

    Attributes:
        offsets, lengths, labels: see `Index`.
        counts: number of records of each shard.
        faults: for each shard whose scan broke off its path, the offset, the reason and whether
            that is a fault of the machine.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    labels: Optional[np.ndarray]
    counts: np.ndarray
    faults: Sequence[Tuple[str, int, str, bool]]


class Format(NamedTuple):
    """How shards of one kind are scanned, and their index kept.

    Attributes:
        key: what makes the name of a cached index its own.
        scan: function that scans shards at these paths, on so many threads.
        read: function that reads the index at a path, of shards of these sizes.
        save: function that writes an index to a path, if it can.
    """

    key: bytes
    scan: Callable[[Sequence[str], int], Scan]
    read: Callable[[str, Sequence[Optional[int]]], Index]
    save: Callable[[Index, str], None]


def local_index(paths: Sequence[str], cache_dir: str, format: Format) -> Index:
    """The index of local shards. A scan takes about a second for a few thousand shards.

    Raises: RecordError for a shard that cannot be opened or read.
    """
    statuses = [os.stat(path) for path in paths]
    cached = _cached(
        cache_dir,
        [
            # A file that replaces another one has another inode or time of change, even if its size
            # and its time of modification are the same.
            (os.path.abspath(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
            for path, s in zip(paths, statuses)
        ],
        format,
    )
    sizes = [status.st_size for status in statuses]
    return _load(cached, sizes, format) or _scan(paths, paths, cached, format)


def remote_index(
    files: Sequence[RemoteFile],
    cache_dir: str,
    open_shards: Callable[[], Shards],
    format: Format,
) -> Index:
    """The index of remote shards. To make it, each shard is fetched once.

    The index of each shard is also kept on its own, so that an interrupted scan continues where it
    stopped, and splits that have shards in common scan them once.

    Args:
        files: the shards.
        cache_dir: folder in which indexes are kept.
        open_shards: function that opens the shards; called only if some must be scanned.
        format: how the shards are scanned.

    Raises: OSError if a shard cannot be fetched.
    """
    cached = _cached(cache_dir, files, format)
    index = _load(cached, [file.size for file in files], format)
    if index is not None:
        return index
    parts = [_load(_cached(cache_dir, [file], format), [file.size], format) for file in files]
    missing = [shard for shard, part in enumerate(parts) if part is None]
    if missing:
        with contextlib.closing(open_shards()) as shards:
            said = time.monotonic()
            for done, shard in enumerate(missing):
                shards.expect([shard], missing[done + 1 : done + 1 + FETCHERS])
                with shards.use(shard) as path:
                    url = files[shard].url
                    part = _cached(cache_dir, [files[shard]], format)
                    parts[shard] = _scan([path], [url], part, format)
                if time.monotonic() - said > _SECONDS or done == 0:
                    said = time.monotonic()
                    _log.info(
                        "indexing the shards from %s on, which are fetched once for this: %d of %d "
                        "shards",
                        files[missing[0]].url,
                        done + 1,
                        len(missing),
                    )
    index = _joined([part for part in parts if part is not None])
    if not index.faults:
        format.save(index, cached)
    return index


def _joined(parts: Sequence[Index]) -> Index:
    counts = [len(part.offsets) for part in parts]
    labels = [part.labels for part in parts if part.labels is not None]
    return Index(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64)]),
        tuple(fault for part in parts for fault in part.faults),
        np.concatenate(labels) if labels else None,
    )


def _cached(cache_dir: str, files: Iterable[Tuple[Any, ...]], format: Format) -> str:
    """The path of the index of these files; each comes with values that change when it changes."""
    key = hashlib.sha256(format.key)
    for file in files:
        key.update(("\0".join(map(str, file)) + "\n").encode("utf-8", "surrogateescape"))
    return os.path.join(cache_dir, f"index-{key.hexdigest()[:32]}.bin")


def _load(cached: str, sizes: Sequence[Optional[int]], format: Format) -> Optional[Index]:
    """The cached index of shards of these sizes in bytes; None if it is missing or damaged."""
    try:
        return format.read(cached, sizes)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        _log.warning("the cached index %s is rebuilt, because it is damaged: %s", cached, error)
        return None


def _scan(paths: Sequence[str], names: Sequence[str], cached: str, format: Format) -> Index:
    """The index of shards, made by a scan; errors use their names instead of their paths."""
    threads = min(32, 4 * (os.cpu_count() or 1), len(paths))
    found = format.scan(paths, threads)
    ends = np.cumsum(found.counts, dtype=np.uint64)
    name_of = dict(zip(paths, names))
    errors = []
    for path, offset, reason, unavailable in found.faults:
        error = RecordError(name_of[path], offset, None, reason)
        if unavailable:
            raise error
        errors.append(error)
    shard_begin = np.concatenate([np.zeros(1, np.uint64), ends])
    index = Index(found.offsets, found.lengths, shard_begin, tuple(errors), found.labels)
    if not errors:
        format.save(index, cached)
    return index


def _scan_tfrecords(paths: Sequence[str], threads: int) -> Scan:
    offsets, lengths, counts, faults = _core.scan_shards(list(map(os.fsencode, paths)), threads)
    return Scan(offsets, lengths, None, counts, faults)


def read_index(path: str, sizes: Sequence[Optional[int]]) -> Index:
    """Reads an index and checks all of it against the shards.

    Args:
        path: path of the file. It may hold anything; links and pipes are not followed.
        sizes: size of each shard in bytes; None if it is not known.

    Raises: ValueError with what is wrong; OSError.
    """
    shard_begin, (offsets, lengths) = load_columns(
        path, sizes, _MAGIC, "an index", ("<u8", "<u4"), _FRAMING
    )
    index = Index(offsets, lengths, shard_begin, ())
    _check(index, sizes)
    return index


def _check(index: Index, sizes: Sequence[Optional[int]]) -> None:
    """Checks that records follow each other from the first byte of each shard to its last."""
    begin = index.shard_begin.astype(np.int64)
    # Lengths have 32 bits and right offsets are sums of lengths, so this can only overflow if an
    # offset is wrong, and then the comparison below fails.
    ends = index.offsets + index.lengths + np.uint64(_FRAMING)
    starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]])
    starts[begin[:-1]] = 0
    if (index.offsets != starts).any():
        raise ValueError("its records do not follow one another")
    for end, size in zip(ends[begin[1:] - 1], sizes):
        if size is not None and int(end) != size:
            raise ValueError("its records do not end where the shard does")


def load_columns(
    path: str,
    sizes: Sequence[Optional[int]],
    magic: bytes,
    kind: str,
    dtypes: Sequence[str],
    smallest: int,
) -> Tuple[np.ndarray, List[np.ndarray]]:
    """Reads a file that `save_columns` has written, which may hold anything.

    Args:
        path: path of the file; links and pipes are not followed.
        sizes: size of each shard in bytes; None if it is not known.
        magic: first eight bytes of such a file.
        kind: what such a file is, for a message.
        dtypes: type of each column.
        smallest: bytes of the smallest record that a shard can have.

    Returns: where the records of each shard begin, ending with their number; and the columns.
    Raises: ValueError with what is wrong; OSError.
    """
    width = sum(np.dtype(dtype).itemsize for dtype in dtypes)
    most = min(2**32, sum(2**32 if size is None else size // smallest for size in sizes))
    data = contents(path, _HEADER.size + 8 * (len(sizes) + 1) + width * most)
    if len(data) < _HEADER.size:
        raise ValueError("it is too short")
    found, shards, records, crc = _HEADER.unpack_from(data)
    if found != magic:
        raise ValueError(f"it is not {kind}")
    if shards != len(sizes) or len(data) != _HEADER.size + 8 * (shards + 1) + width * records:
        raise ValueError("its size is not the one that its header says")
    if _core.masked_crc32c(memoryview(data)[_HEADER.size :]) != crc:
        raise ValueError("its checksum is wrong")
    at = _HEADER.size
    begin = np.frombuffer(data, "<u8", shards + 1, at)
    at += begin.nbytes
    columns = []
    for dtype in dtypes:
        columns.append(np.frombuffer(data, dtype, records, at))
        at += columns[-1].nbytes
    # Every shard has a record, because empty shards are faults and an index with faults is not
    # cached. The numbers may have any size, so they are compared and not subtracted.
    if begin[0] != 0 or begin[-1] != records or (begin[1:] <= begin[:-1]).any():
        raise ValueError("it does not say in which shard its records are")
    return begin, columns


def save_columns(
    path: str, magic: bytes, begin: np.ndarray, columns: Sequence[Tuple[np.ndarray, str]]
) -> None:
    """Writes columns of records and where those of each shard begin, if it can."""
    arrays = [(begin, "<u8"), *columns]
    body = b"".join(np.ascontiguousarray(array, dtype).tobytes() for array, dtype in arrays)
    crc = _core.masked_crc32c(body)
    replace(path, _HEADER.pack(magic, len(begin) - 1, len(columns[0][0]), crc), body)


def contents(path: str, most: int) -> bytes:
    """The bytes of a regular file that has at most so many. Raises: ValueError; OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > most:
            raise ValueError("it is larger than an index of these shards can be")
        return file.read(status.st_size)


def _save(index: Index, path: str) -> None:
    """Writes an index, if it can."""
    columns = [(index.offsets, "<u8"), (index.lengths, "<u4")]
    save_columns(path, _MAGIC, index.shard_begin, columns)


def replace(path: str, *parts: bytes) -> None:
    """Writes an index to a temporary file and renames it.

    If the cache cannot be written, the run continues and the next run scans again.
    """
    temporary = None
    try:
        make_private(os.path.dirname(path))
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".part")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("the index cannot be cached in %s: %s", os.path.dirname(path), error)
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


TFRECORD = Format(b"pretexture index 2\n", _scan_tfrecords, read_index, _save)
