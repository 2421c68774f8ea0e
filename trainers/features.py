"""Features on disk: what a frozen network says of each record, computed once.

A folder holds `features.npy` (float32 [records, features], those of all end points side by side),
`labels.npy` (int32 [records]) and `features.json`, which says what they are and how many are there,
so that a stopped extraction goes on where it was.
"""

import json
import os
import time
from typing import Any, Callable, Dict, Iterator, Mapping, Tuple

import numpy as np
from pretexture.loader import ArraySpec, Batch, Loader

from .files import write_text
from .progress import Bar

_FEATURES, _LABELS, _STATE = "features.npy", "labels.npy", "features.json"
_SECONDS = 30.0


def extract(
    folder: str,
    loader: Loader,
    compute: Callable[[Any], np.ndarray],
    size: int,
    key: Mapping[str, Any],
) -> Tuple[np.ndarray, np.ndarray]:
    """The features and labels of a loader's epoch, from disk as far as they are there.

    Args:
        folder: to keep them in; made where it is not there.
        loader: in file order and without random draws.
        compute: from a batch to float32 [images, size].
        size: features of an image.
        key: says what decides the features; where the folder's differs, it is done anew.

    Returns: memory maps, float32 [records, size] and int32 [records].
    """
    os.makedirs(folder, exist_ok=True)
    count = len(loader.records)
    paths = [os.path.join(folder, name) for name in (_FEATURES, _LABELS)]
    shapes = [(count, size), (count,)]
    state = _read_state(folder)
    if state.get("key") != key or not all(map(os.path.exists, paths)):
        state = {"key": dict(key), "done": 0}
    done = state["done"]
    if 0 < done < count:
        try:
            loader.load_state_dict(state["loader"])
        except ValueError:  # of another batch size, for one
            done = 0
    if not done:
        _write_state(folder, {})  # what it says is about to go
    mode = "r+" if done else "w+"
    features, labels = (
        np.lib.format.open_memmap(path, mode, dtype, shape)
        for path, dtype, shape in zip(paths, (np.float32, np.int32), shapes)
    )
    if done == count:
        return features, labels
    saved = time.monotonic()
    bar = Bar(count)
    for batch in loader:
        images = len(batch.index)
        features[done : done + images] = compute(batch)
        labels[done : done + images] = batch.label
        done += images
        bar.update(done, "features")
        if done == count or time.monotonic() - saved > _SECONDS:
            features.flush()
            labels.flush()
            _write_state(folder, {"key": dict(key), "done": done, "loader": loader.state_dict()})
            saved = time.monotonic()
    bar.close()
    return features, labels


def _read_state(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, _STATE), encoding="utf-8") as file:
            return json.load(file)
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
