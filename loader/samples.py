"""The records that are looked at: those of a folder or a pattern; at a URL, of a few shards."""

import random
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from .shards.imagenet import class_names, open_records, options_for
from .shards.remote import DEFAULT_STORAGE, Storage
from .shards.source import Records

SHARDS = 4  # number of shards that are fetched if the data are at a URL


def open_sample(
    data: str,
    split: str,
    seed: int = 0,
    storage: Storage = DEFAULT_STORAGE,
    features: Optional[Mapping[str, Any]] = None,
) -> Tuple[Records, Sequence[str]]:
    """The records of a split of a folder, or of a pattern, and the names of their classes.

    Args:
        data: folder of shards or of class folders, or a pattern that matches shards; a path or URL.
        split: split of the folder; see `imagenet`.
        seed: random seed for the choice of shards at a URL.
        storage: how URLs are reached and where copies are kept.
        features: arguments of `imagenet` that name the features of records.

    Returns: the records; and the names in the order of the labels, [] if they are not known.
    """
    options: Dict[str, Any] = {**vars(storage), **(features or {})}
    records = open_records(data, split, **options)
    if records.remote and len(records.paths) > SHARDS:
        paths = random.Random(seed).sample(records.paths, SHARDS)
        kind: Any = type(records)
        records = kind(sorted(paths), **options_for(kind, options))
    return records, class_names(records, data, storage)


def class_name(label: int, classes: Sequence[str]) -> str:
    """A class label in words: its number, and its name if it is known."""
    name = f"class {label}"
    return f"{name}, {classes[label]}" if 0 <= label < len(classes) else name
