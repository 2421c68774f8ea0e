"""Features on disk: the output of a frozen network for each record, computed once.

A folder holds `features.npy` (float32 [records, features], with all end points side by side),
`labels.npy` (int32 [records]) and `features.json`, which says what they are and which rows are
done, so that a stopped extraction can be resumed. Row i is record i. A record that could not be
used has the label `LEFT_OUT`: it is neither trained nor evaluated on, and the next extraction tries
it again.
"""

import contextlib
import errno
import io
import json
import os
import time
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
from pretexture.loader import ArraySpec, Batch, Loader
from pretexture.loader.console.files import is_full, sync, write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.progress import Bar
from pretexture.loader.epoch.sharding import WorkerShare

from ..runs.skipped import replaced

LEFT_OUT = -(2**31)
_FEATURES, _LABELS, _STATE = "features.npy", "labels.npy", "features.json"
_SECONDS = 30.0

Range = Tuple[int, int]  # the first number, and the one after the last
# Consecutive batches: the number of the first one, features [images, size], labels [images].
Part = Tuple[int, np.ndarray, np.ndarray]
# From ranges of batches to their parts, in any order.
Compute = Callable[[List[Range]], Iterator[Part]]


def extract(
    folder: str,
    count: int,
    batch_size: int,
    size: int,
    compute: Compute,
    key: Mapping[str, Any],
) -> Tuple[np.ndarray, np.ndarray]:
    """The features and labels of all records; those that are not on disk are computed.

    They are written to space that is reserved before the first one is computed. So a disk that is
    too small is an error at the start, not a bus error of a memory map hours later.

    Args:
        folder: folder of the features, which is made if it does not exist.
        count: number of records.
        batch_size: records per batch, in file order; the last batch may be smaller.
        size: number of features per image.
        compute: function from ranges of batches to their parts, in any order; it is called for what
            is missing.
        key: what decides the features; if the folder has another key, all are computed again.

    Returns: read-only memory maps, float32 [records, size] and int32 [records].

    Raises: OSError if the disk is too small; then nothing is left in the folder.
    """
    os.makedirs(folder, exist_ok=True)
    state = _read_state(folder)
    done = np.zeros(count, bool)  # by record
    rows = [
        Rows(os.path.join(folder, _FEATURES), np.float32, (count, size)),
        Rows(os.path.join(folder, _LABELS), np.int32, (count,)),
    ]
    if state.get("key") == key and all(part.exist() for part in rows):
        for begin, end in state.get("ranges", []):
            done[begin:end] = True
    if not done.all() and state.get("batch_size") != batch_size:
        done[:] = False
    if not done.any():
        _write_state(folder, {})  # what it says is about to go
        try:
            for part in rows:
                part.make()
        except OSError as error:
            for part in rows:
                part.remove()
            if not is_full(error):
                raise
            size_in_words = f"{sum(part.bytes for part in rows):,} bytes"
            raise OSError(
                f"no space left on the device for {folder}: the features of {count:,} records take "
                f"{size_in_words}; make room, lower --max-features, or choose fewer --end-points"
            ) from error
    labels = rows[1].read()
    starts = np.arange(0, count, batch_size)
    missing = np.logical_or.reduceat(~done | (labels == LEFT_OUT), starts) if count else done
    if missing.any():
        _compute(folder, rows, _ranges(missing), done, compute, key, batch_size)
    return rows[0].read(), labels


def _compute(
    folder: str,
    rows: Sequence["Rows"],
    missing: List[Range],
    done: np.ndarray,
    compute: Compute,
    key: Mapping[str, Any],
    batch_size: int,
) -> None:
    """Computes what is missing, and regularly notes what is done; see `extract`."""
    features, labels = rows

    def note() -> None:
        for part in rows:
            sync(part.path)
        state = {"key": dict(key), "batch_size": batch_size, "ranges": _ranges(done)}
        _write_state(folder, state)

    saved = time.monotonic()
    skipped = 0
    with contextlib.ExitStack() as stack:
        bar = Bar(len(done), "images")
        stack.callback(bar.close)
        stack.callback(note)
        for first, values, marks in compute(missing):
            begin = first * batch_size
            end = begin + len(marks)
            features.write(begin, values)
            labels.write(begin, marks)
            done[begin:end] = True
            skipped += int((marks == LEFT_OUT).sum())
            words = "features computed" + (f", {skipped:,} skipped" if skipped else "")
            bar.update(int(done.sum()), words)
            if time.monotonic() - saved > _SECONDS:
                note()
                saved = time.monotonic()


def _ranges(mask: np.ndarray) -> List[Range]:
    """The ranges in which a mask is true, in order."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2]))


class Rows:
    """A `.npy` file whose rows are written in any order, and read through a memory map.

    Args:
        path: path of the file.
        dtype, shape: type and shape of the array.
    """

    def __init__(self, path: str, dtype: Any, shape: Tuple[int, ...]):
        self.path = path
        self._shape = shape
        self._dtype = np.dtype(dtype)
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._header = header.getvalue()
        self._row = self._dtype.itemsize * int(np.prod(shape[1:]))
        self.bytes = len(self._header) + self._row * shape[0]

    def exist(self) -> bool:
        """Whether the file exists, with rows of this type and shape."""
        try:
            with open(self.path, "rb") as file:
                whole = os.fstat(file.fileno()).st_size == self.bytes
                return whole and file.read(len(self._header)) == self._header
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Makes an empty file, with all of its space reserved. Raises OSError."""
        with open(self.path, "wb") as file:
            file.write(self._header)
            file.flush()
            _reserve(file, self.bytes)

    def remove(self) -> None:
        """Removes the file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)

    def write(self, first: int, rows: np.ndarray) -> None:
        """Writes rows from the first one on. Raises OSError."""
        with open(self.path, "r+b") as file:
            file.seek(len(self._header) + first * self._row)
            file.write(np.asarray(rows, self._dtype).tobytes())

    def copy(self, file: IO[bytes], count: int) -> None:
        """Writes the array of the first `count` rows to another file. Raises OSError."""
        described = {"descr": self._dtype.str, "fortran_order": False}
        described["shape"] = (count, *self._shape[1:])
        np.lib.format.write_array_header_1_0(file, described)
        left = count * self._row
        with open(self.path, "rb") as own:
            own.seek(len(self._header))
            while left:
                block = own.read(min(left, 1 << 20))
                file.write(block)
                left -= len(block)

    def read(self) -> np.ndarray:
        """A read-only memory map of all rows."""
        return np.memmap(self.path, self._dtype, "r", len(self._header), self._shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Reserves disk space for a new file of `size` bytes. Raises OSError."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        # macOS lacks the function, and some file systems do not support it.
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        block = bytes(1 << 20)
        while file.tell() < size:
            file.write(block[: size - file.tell()])


def in_order(
    loader: Loader, compute: Callable[[np.ndarray], np.ndarray]
) -> Callable[[List[Range]], Iterator[Part]]:
    """Computes features in this process, batch by batch; for `extract`.

    A record that could not be used has the label `LEFT_OUT`.

    Args:
        loader: Loader in file order, without random draws, with the batch size of `extract`.
        compute: function from a batch's images to float32 [images, size].
    """

    def parts(ranges: List[Range]) -> Iterator[Part]:
        for first, last in ranges:
            loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": first})
            for number, batch in zip(range(first, last), loader):
                labels = np.where(replaced(loader, batch), LEFT_OUT, batch.label)
                yield number, compute(batch.image), labels

    return parts


def _read_state(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, _STATE), "rb") as file:
            return parse_object(file.read(), _STATE)
    except (FileNotFoundError, ValueError):
        return {}


def _write_state(folder: str, state: Mapping[str, Any]) -> None:
    write_text(os.path.join(folder, _STATE), json.dumps(state))


class FeatureLoader:
    """Batches of features, in the same keyed order as the batches of a `Loader`.

    Args:
        features: float32 [records, size].
        labels: int32 [records]; records whose label is `LEFT_OUT` do not count.
        batch_size: images per batch.
        training: whether each epoch has an order of its own, and an incomplete last batch is left
            out.
        seed: random seed of the order.

    Attributes:
        num_records: number of records, without those left out.
        batch_size: see above.
        shard: (0, 1), because one worker has all records.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        training: bool,
        seed: int = 0,
    ):
        self._records = np.flatnonzero(labels != LEFT_OUT)
        self.num_records = len(self._records)
        if training and self.num_records < batch_size:
            raise ValueError(
                f"the training split has {self.num_records} records, fewer than batch_size "
                f"{batch_size}"
            )
        self.batch_size = batch_size
        self.shard = (0, 1)
        self._features = features
        self._labels = labels
        self._training = training
        self._share = WorkerShare(
            self.num_records,
            seed,
            shuffle=training,
            worker=0,
            workers=1,
            batch_size=batch_size,
            drop_remainder=training,
        )
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        return self._share.batches

    @property
    def element_spec(self) -> Batch:
        """A `Batch` of `ArraySpec`."""
        count = self.batch_size if self._training else None
        return Batch(
            ArraySpec((count, self._features.shape[1]), "float32"),
            ArraySpec((count,), "int32"),  # type: ignore[arg-type]
            ArraySpec((count,), "int64"),  # type: ignore[arg-type]
        )

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch."""
        epoch = self._epoch
        for batch in range(self._batch, len(self)):
            index = self._records[self._share.records(epoch, batch)]
            self._move(epoch, batch + 1)
            yield Batch(self._features[index], self._labels[index], index)

    def state_dict(self) -> Dict[str, Any]:
        """The state, with the entries of `Loader.state_dict`."""
        return self._share.state(self._epoch, self._batch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises ValueError naming the entry that does not fit."""
        if "version" not in state:
            # Of a version before this order: the rest of the epoch is in another order.
            state = {**self.state_dict(), **state}
        self._move(*self._share.position(state))

    def _move(self, epoch: int, batch: int) -> None:
        """Makes a batch the next one; the end of an epoch is the beginning of the next."""
        self._epoch, self._batch = (epoch + 1, 0) if batch == len(self) else (epoch, batch)

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "FeatureLoader":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
