"""Features on disk: what a frozen network says of each record, computed once.

A folder holds `features.npy` (float32 [records, features], those of all end points side by side),
`labels.npy` (int32 [records]) and `features.json`, which says what they are and which are there, so
that a stopped extraction goes on where it was.
"""

import json
import os
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np
from pretexture.loader import ArraySpec, Batch, Loader
from pretexture.loader.json_text import parse_object

from .files import write_text
from .progress import Bar

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

    Args:
        folder: to keep them in; made where it is not there.
        count: records.
        batch_size: records a batch, but for the last one, in file order.
        size: features of an image.
        compute: from ranges of batches to parts that make them up, in whatever order; it is asked
            for what is missing.
        key: says what decides the features; where the folder's differs, it is done anew.

    Returns: memory maps, float32 [records, size] and int32 [records].
    """
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, name) for name in (_FEATURES, _LABELS)]
    shapes = [(count, size), (count,)]
    state = _read_state(folder)
    done: List[Range] = []  # records
    if state.get("key") == key and all(map(os.path.exists, paths)):
        done = [(begin, end) for begin, end in state.get("ranges", [])]
    if done != [(0, count)] and state.get("batch_size") != batch_size:
        done = []
    if not done:
        _write_state(folder, {})  # what it says is about to go
    mode = "r+" if done else "w+"
    features, labels = (
        np.lib.format.open_memmap(path, mode, dtype, shape)
        for path, dtype, shape in zip(paths, (np.float32, np.int32), shapes)
    )
    if done == [(0, count)]:
        return features, labels

    def note() -> None:
        features.flush()
        labels.flush()
        _write_state(folder, {"key": dict(key), "batch_size": batch_size, "ranges": done})

    saved = time.monotonic()
    bar = Bar(count)
    try:
        for first, values, marks in compute(_missing(done, count, batch_size)):
            begin = first * batch_size
            end = begin + len(marks)
            features[begin:end] = values
            labels[begin:end] = marks
            done = _joined([*done, (begin, end)])
            bar.update(sum(end - begin for begin, end in done), "features")
            if time.monotonic() - saved > _SECONDS:
                note()
                saved = time.monotonic()
    finally:
        note()
        bar.close()
    return features, labels


def in_order(
    loader: Loader, compute: Callable[[np.ndarray], np.ndarray]
) -> Callable[[List[Range]], Iterator[Part]]:
    """Computes features in this process, batch by batch; for `extract`.

    Args:
        loader: in file order and without random draws, of `extract`'s batch size.
        compute: from a batch's images to float32 [images, size].
    """

    def parts(ranges: List[Range]) -> Iterator[Part]:
        for first, last in ranges:
            loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": first})
            for number, batch in zip(range(first, last), loader):
                yield number, compute(batch.image), batch.label

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
        labels: int32 [records].
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
        if training and len(labels) < batch_size:
            raise ValueError(
                f"the training split has {len(labels)} records, fewer than batch_size {batch_size}"
            )
        self.batch_size = batch_size
        self._features = features
        self._labels = labels
        self._training = training
        self._seed = seed
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        count = len(self._labels)
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
        order = np.arange(len(self._labels))
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

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues where another one was."""
        self._epoch, self._batch = state["epoch"], state["batch"]

    def __enter__(self) -> "FeatureLoader":
        return self

    def __exit__(self, *error: Any) -> None:
        pass
