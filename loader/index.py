"""Where the records of shards are: found by a scan once, then read from a cache."""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import _core
from .errors import RecordError
from .remote import RemoteFile
from .shard_cache import FETCHERS, RemoteShards

_log = logging.getLogger("pretexture.loader")

_SECONDS = 10.0  # between two lines about a scan's progress


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


def local_index(paths: Sequence[str], cache_dir: str) -> Index:
    """The index of local shards; a few thousand of them are scanned in a second."""
    statuses = [os.stat(path) for path in paths]
    cached = _cached(
        cache_dir,
        [
            (os.path.abspath(path), status.st_size, status.st_mtime_ns)
            for path, status in zip(paths, statuses)
        ],
    )
    return _load(cached, len(paths)) or _scan(paths, paths, cached)


def remote_index(
    files: Sequence[RemoteFile], cache_dir: str, open_shards: Callable[[], RemoteShards]
) -> Index:
    """The index of remote shards, for which each must be fetched once.

    The index of each shard is kept, too: a pass that was interrupted goes on where it was, and
    splits share what they have in common.

    Args:
        files: the shards.
        cache_dir: where indexes are kept.
        open_shards: opens them, if need be.

    Raises: OSError where a shard cannot be fetched.
    """
    cached = _cached(cache_dir, files)
    index = _load(cached, len(files))
    if index is not None:
        return index
    parts = [_load(_cached(cache_dir, [file]), 1) for file in files]
    missing = [shard for shard, part in enumerate(parts) if part is None]
    if missing:
        with contextlib.closing(open_shards()) as shards:
            said = time.monotonic()
            for done, shard in enumerate(missing):
                shards.expect([shard], missing[done + 1 : done + 1 + FETCHERS])
                with shards.use(shard) as path:
                    url = files[shard].url
                    parts[shard] = _scan([path], [url], _cached(cache_dir, [files[shard]]))
                if time.monotonic() - said > _SECONDS or done == 0:
                    said = time.monotonic()
                    _log.info(
                        "looking for the records of %s and on, which are fetched once for it: "
                        "%d of %d shards",
                        files[missing[0]].url,
                        done + 1,
                        len(missing),
                    )
    index = _joined([part for part in parts if part is not None])
    if not index.faults:
        _save(index, cached)
    return index


def _joined(parts: Sequence[Index]) -> Index:
    counts = [len(part.offsets) for part in parts]
    return Index(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64)]),
        tuple(fault for part in parts for fault in part.faults),
    )


def _cached(cache_dir: str, files: Iterable[Tuple[Any, ...]]) -> str:
    """The path of the index of files, each with all that changes when it does."""
    key = hashlib.sha256(b"pretexture index 1\n")
    for file in files:
        key.update(("\0".join(map(str, file)) + "\n").encode())
    return os.path.join(cache_dir, f"index-{key.hexdigest()[:32]}.npz")


def _load(cached: str, shards: int) -> Optional[Index]:
    try:
        return _read(cached, shards)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever NumPy and zipfile make of a damaged file
        _log.warning("the cached index %s cannot be read and is made anew: %s", cached, error)
        return None


def _scan(paths: Sequence[str], names: Sequence[str], cached: str) -> Index:
    """The index of shards by a scan; errors call them by their names."""
    threads = min(32, 4 * (os.cpu_count() or 1), len(paths))
    offsets, lengths, counts, faults = _core.scan_shards(list(paths), threads)
    shard_begin = np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64)])
    name_of = dict(zip(paths, names))
    errors = []
    for path, offset, reason, unavailable in faults:
        error = RecordError(name_of[path], offset, None, reason)
        if unavailable:
            raise error
        errors.append(error)
    index = Index(offsets, lengths, shard_begin, tuple(errors))
    if not errors:
        _save(index, cached)
    return index


def _read(path: str, shards: int) -> Index:
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


def _save(index: Index, path: str) -> None:
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
