"""Features on disk: what a frozen network says of each record, computed once.

A folder holds `features.npy` (float32 [records, features], those of all end points side by side),
`labels.npy` (int32 [records]) and `features.json`, which says what they are and which are there, so
that a stopped extraction goes on where it was. Row i is record i. The label of a record that could
not be used is `LEFT_OUT`: its row is neither trained nor evaluated on, and it is tried again the
next time.
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

from ..runs.skipped import replaced

LEFT_OUT = -(2**31)
_FEATURES, _LABELS, _STATE = "features.npy", "labels.npy", "features.json"
_SECONDS = 30.0

Range = Tuple[int, int]  # the first, and the one after the last
# Of some batches in a row: the first one's number, features [images, size], labels [images].
Part = Tuple[int, np.ndarray, np.ndarray]


def extract(
    folder: str,
    count: int,
    batch_size: int,
    size: int,
    compute: Callable[[List[Range]], Iterator[Part]],
    key: Mapping[str, Any],
) -> Tuple[np.ndarray, np.ndarray]:
    """The features and labels of a data set's records, from disk as far as they are there.

    They are written by `pwrite` to space that is reserved before the first one is computed: a disk
    that is too small is an error at the start, not a bus error of a memory map hours later.

    Args:
        folder: to keep them in; made where it is not there.
        count: records.
        batch_size: records a batch, but for the last one, in file order.
        size: features of an image.
        compute: from ranges of batches to parts that make them up, in whatever order; it is asked
            for what is missing.
        key: says what decides the features; where the folder's differs, it is done anew.

    Returns: read-only memory maps, float32 [records, size] and int32 [records].

    Raises: OSError if the disk is too small; then nothing is left in the folder.
    """
    os.makedirs(folder, exist_ok=True)
    state = _read_state(folder)
    done: List[Range] = []  # records
    rows = [
        _Rows(os.path.join(folder, _FEATURES), np.float32, (count, size)),
        _Rows(os.path.join(folder, _LABELS), np.int32, (count,)),
    ]
    if state.get("key") == key and all(part.exist() for part in rows):
        done = [(begin, end) for begin, end in state.get("ranges", [])]
    if done != [(0, count)] and state.get("batch_size") != batch_size:
        done = []
    if not done:
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
    skipped = np.flatnonzero(labels == LEFT_OUT).tolist()
    missing = _missing(_without(done, skipped, batch_size), count, batch_size)
    if missing:
        _compute(folder, rows, missing, done, compute, key, batch_size)
    return rows[0].read(), labels


def _compute(
    folder: str,
    rows: Sequence["_Rows"],
    missing: List[Range],
    done: List[Range],
    compute: Callable[[List[Range]], Iterator[Part]],
    key: Mapping[str, Any],
    batch_size: int,
) -> None:
    """Computes what is missing, and notes now and then what is there; see `extract`."""
    features, labels = rows
    count = labels.shape[0]

    def note() -> None:
        for part in rows:
            sync(part.path)
        _write_state(folder, {"key": dict(key), "batch_size": batch_size, "ranges": done})

    saved = time.monotonic()
    skipped = 0
    with contextlib.ExitStack() as stack:
        bar = Bar(count)
        stack.callback(bar.close)
        stack.callback(note)
        stack.enter_context(features)
        stack.enter_context(labels)
        for first, values, marks in compute(missing):
            begin = first * batch_size
            end = begin + len(marks)
            features.write(begin, values)
            labels.write(begin, marks)
            done = _joined([*done, (begin, end)])
            skipped += int((marks == LEFT_OUT).sum())
            words = "features" + (f", {skipped:,} skipped" if skipped else "")
            bar.update(sum(end - begin for begin, end in done), words)
            if time.monotonic() - saved > _SECONDS:
                note()
                saved = time.monotonic()


class _Rows:
    """A `.npy` file whose rows are written in any order, and read through a memory map.

    Args:
        path: of the file.
        dtype, shape: of the array.
    """

    def __init__(self, path: str, dtype: Any, shape: Tuple[int, ...]):
        self.path = path
        self.shape = shape
        self._dtype = np.dtype(dtype)
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._header = header.getvalue()
        self._row = self._dtype.itemsize * int(np.prod(shape[1:]))
        self.bytes = len(self._header) + self._row * shape[0]

    def exist(self) -> bool:
        """Whether the file is there, with such rows."""
        try:
            with open(self.path, "rb") as file:
                whole = os.fstat(file.fileno()).st_size == self.bytes
                return whole and file.read(len(self._header)) == self._header
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Makes the file anew, with all of its space reserved. Raises OSError."""
        with open(self.path, "wb") as file:
            file.write(self._header)
            file.flush()
            _reserve(file, self.bytes)

    def remove(self) -> None:
        """Removes the file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)

    def __enter__(self) -> "_Rows":
        self._file = open(self.path, "r+b", buffering=0)
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, first: int, rows: np.ndarray) -> None:
        """Writes rows from the first one on. Raises OSError."""
        data = memoryview(np.asarray(rows, self._dtype).tobytes())
        offset = len(self._header) + first * self._row
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def read(self) -> np.ndarray:
        """A read-only memory map of all rows."""
        return np.memmap(self.path, self._dtype, "r", len(self._header), self.shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Makes sure that the disk has the room for a new file of so many bytes. Raises OSError."""
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
        loader: in file order and without random draws, of `extract`'s batch size.
        compute: from a batch's images to float32 [images, size].
    """

    def parts(ranges: List[Range]) -> Iterator[Part]:
        for first, last in ranges:
            loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": first})
            for number, batch in zip(range(first, last), loader):
                labels = np.where(replaced(loader, batch), LEFT_OUT, batch.label)
                yield number, compute(batch.image), labels

    return parts


def _joined(ranges: List[Range]) -> List[Range]:
    """The same numbers in as few ranges as can be, in order."""
    joined: List[Range] = []
    for begin, end in sorted(ranges):
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _without(done: List[Range], records: Sequence[int], batch_size: int) -> List[Range]:
    """The ranges without the batches of some records."""
    left = list(done)
    for batch in sorted({int(record) // batch_size for record in records}):
        first, last = batch * batch_size, (batch + 1) * batch_size
        left = [
            (max(begin, low), min(end, high))
            for begin, end in left
            for low, high in ((begin, first), (last, end))
            if max(begin, low) < min(end, high)
        ]
    return left


def _missing(done: List[Range], count: int, batch_size: int) -> List[Range]:
    """The ranges of batches that are not done."""
    ends = [0, *(end for _, end in done)]
    begins = [*(begin for begin, _ in done), count]
    return [
        (end // batch_size, -(-begin // batch_size))
        for end, begin in zip(ends, begins)
        if begin > end
    ]


def _read_state(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, _STATE), "rb") as file:
            return parse_object(file.read(), _STATE)
    except (FileNotFoundError, ValueError):
        return {}


def _write_state(folder: str, state: Mapping[str, Any]) -> None:
    write_text(os.path.join(folder, _STATE), json.dumps(state))


class FeatureLoader:
    """Batches of features in the manner of a `Loader`.

    Args:
        features: [records, size].
        labels: int32 [records]; records whose label is `LEFT_OUT` do not exist.
        batch_size: images a batch.
        training: shuffle, anew each epoch, and leave an incomplete last batch out.
        seed: of the order.
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
        self._features = features
        self._labels = labels
        self._training = training
        self._seed = seed
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        count = self.num_records
        return count // self.batch_size if self._training else -(-count // self.batch_size)

    @property
    def element_spec(self) -> Batch:
        """A `Batch` of `ArraySpec`."""
        count = self.batch_size if self._training else None
        return Batch(
            ArraySpec((count, self._features.shape[1]), "float32"),  # type: ignore[arg-type]
            ArraySpec((count,), "int32"),  # type: ignore[arg-type]
            ArraySpec((count,), "int64"),  # type: ignore[arg-type]
        )

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch, or where it is over the next one."""
        if self._batch == len(self):
            self._epoch, self._batch = self._epoch + 1, 0
        order = self._records.copy()
        if self._training:
            np.random.RandomState([self._seed, self._epoch]).shuffle(order)
        while self._batch < len(self):
            begin = self._batch * self.batch_size
            index = order[begin : begin + self.batch_size]
            self._batch += 1
            yield Batch(self._features[index], self._labels[index], index)

    def state_dict(self) -> Dict[str, int]:
        """Where it is."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where another one was."""
        self._epoch, self._batch = state["epoch"], state["batch"]

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "FeatureLoader":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
