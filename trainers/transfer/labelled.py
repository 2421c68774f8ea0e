"""The features of a split's images, batch by batch in file order, with their class labels."""

import contextlib
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

import numpy as np
from pretexture.loader import Loader, Records, imagenet
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage

from ..recipes import Recipe
from .features import LEFT_OUT, in_order
from .representation import FrozenFeatures


class Vectors(NamedTuple):
    """The features of some images.

    Attributes:
        record: int64 [N], record numbers.
        label: int32 [N], classes counted from 0; -1 for a record that has none.
        end_points: float32 [N, size] by end point.
    """

    record: np.ndarray
    label: np.ndarray
    end_points: Dict[str, np.ndarray]


class LabelledSplit:
    """A split of the data, whose images become features. Iterating over it gives `Vectors`.

    A record that cannot be used is left out if `reading` says so.

    Args:
        data: folder of shards; a path or a URL.
        split: name of the split.
        recipe: its `pipeline`, `dct` and `eval_batch_size` say how images are shown.
        storage: how URLs are reached and where copies are kept.
        reading: how records are read.
        threads: number of the loader's threads; None for one per core.

    Attributes:
        name: name of the split, with its folder, for messages.
        records: its records.
        skipped: number of records left out so far.
    """

    def __init__(
        self,
        data: str,
        split: str,
        recipe: Recipe,
        storage: Storage = DEFAULT_STORAGE,
        reading: RecordOptions = DEFAULT_RECORDS,
        threads: Optional[int] = None,
    ):
        self.name = f"split {split} of {redacted(data)}"
        self.records: Records = imagenet(data, split, **vars(storage), **reading.features)
        self.skipped = 0
        self._index = self.records.shard_index(reading.on_error)
        self._batch_size = recipe.eval_batch_size
        self._how: Dict[str, Any] = dict(
            training=False, threads=threads, dct=recipe.dct, **reading.loading
        )
        self._pipeline = recipe.pipeline

    def __len__(self) -> int:
        """Number of records, without those of a broken shard that are left out."""
        return len(self._index.offsets)

    def check_labelled(self) -> None:
        """Raises ValueError if the first or the last record has no class label."""
        with contextlib.closing(self.records.open_shards()) as shards:
            for number in {0, len(self) - 1} if len(self) else ():
                try:
                    label = self.records.read(number, self._index, shards).label()
                except (ValueError, OSError):  # reading all of them says what is wrong
                    continue
                if label < 0:
                    raise self._without_label(number)

    def vectors(
        self,
        frozen: FrozenFeatures,
        labelled: bool,
        show: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Vectors]:
        """The features of all images.

        Args:
            frozen: the network.
            labelled: whether a record without a class label is an error.
            show: is called after each batch with the number of records so far and of all.

        Raises: ValueError, RecordError, OSError.
        """
        ends = np.cumsum(list(frozen.sizes.values()))[:-1]
        self.skipped = 0
        with Loader(self.records, self._pipeline, self._batch_size, **self._how) as loader:
            for number, values, labels in in_order(loader, frozen.compute)([(0, len(loader))]):
                first = number * self._batch_size
                kept = labels != LEFT_OUT
                record = first + np.flatnonzero(kept)
                if labelled and (labels[kept] < 0).any():
                    raise self._without_label(int(record[labels[kept] < 0][0]))
                self.skipped += int((~kept).sum())
                points = np.split(values[kept], ends, axis=1)
                yield Vectors(record, labels[kept], dict(zip(frozen.sizes, points)))
                show(first + len(labels), loader.num_records)

    def _without_label(self, number: int) -> ValueError:
        return ValueError(
            f"nearest neighbours need class labels, and record {number} of {self.name} has none: "
            "give data with labels, or --label-key, the feature that holds them"
        )
