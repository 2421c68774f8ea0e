"""The splits of ImageNet, found by the names of their shards."""

import dataclasses
import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ..console import paths
from ..console.json_text import parse_object
from ..console.paths import Path
from ..console.redaction import redacted
from .record_options import FEATURES
from .records import TFRecords
from .remote import MissingError, Remote, Storage, is_safe_name, is_url, join

# The file in which `pretexture prepare` describes the shards that it has written beside it.
DATASET = "dataset.json"

SPLITS = ("train", "val", "trainval", "test")


def imagenet(root: Path, split: str, **kwargs) -> TFRecords:
    """A split of ImageNet, or of any data set whose shards have names like those of ImageNet.

    The names are those of TF-Slim (`train-00000-of-01024`, `validation-00000-of-00128`) or of
    TensorFlow Datasets (`imagenet2012-train.tfrecord-00000-of-01024`).

    Args:
        root: folder with the shards, a path or a URL. If it is a path, the shards may also lie in
            folders `train` and `validation` inside. If it is on a web server, `dataset.json`, which
            `pretexture prepare` writes beside the shards, must name them.
        split: "train" (all but the last 40/1024 of the training shards; the number is rounded, but
            at least one), "val" (those last shards), "trainval" (all training shards) or "test"
            (the validation shards).
        **kwargs: arguments of `TFRecords`.

    Raises: ValueError for another split, or if a single training shard is to be split;
        FileNotFoundError if shards are missing.
    """
    if split not in SPLITS:
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
    if split in ("train", "val"):
        held_out = max(1, round(len(shards) * 40 / 1024))
        if held_out == len(shards):
            root = redacted(root)
            options = "".join(f", {key}={kwargs[key]!r}" for key in FEATURES if key in kwargs)
            raise ValueError(
                f"{root} has a single training shard, which cannot be split into train and val; "
                f"use trainval and test, or TFRecords({join(root, entries[0])!r}{options})"
            )
        shards = shards[-held_out:] if split == "val" else shards[:-held_out]
    return TFRecords(shards, **kwargs)


def is_folder(data: str) -> bool:
    """Whether text names a folder of shards, a path or a URL, and not shards or a pattern."""
    return os.path.isdir(data) or (is_url(data) and not set("*[") & set(data))


def _entries(folder: str) -> Dict[str, str]:
    """The paths of a folder's entries by name."""
    return {entry: os.path.join(folder, entry) for entry in os.listdir(folder)}


def _shard_name(name: str) -> "re.Pattern[str]":
    """Matches the names of a split's shards: the stem, the shard's number, the number of shards."""
    return re.compile(rf"({name}|[\w-]+-{name}\.tfrecord)-([0-9]{{5}})-of-([0-9]{{5}})")


def _numbered(root: str, name: str, entries: Iterable[str]) -> List[str]:
    """The entries of a folder that are shards of that name, in order."""
    root = redacted(root)
    found: Dict[Tuple[int, str], Dict[int, str]] = {}
    for entry in entries:
        match = _shard_name(name).fullmatch(entry)
        if match:
            stem, number, count = match.groups()
            found.setdefault((int(count), stem), {})[int(number)] = entry
    if not found:
        raise FileNotFoundError(
            f"{root} has no shards {name}-*-of-* or *-{name}.tfrecord-*-of-*; `pretexture prepare` "
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
    """The shards in a folder at a URL, by name: files if a listing describes them, or URLs."""
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
            "`pretexture prepare` writes that file beside them"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{shown} does not name the shards: {type(error).__name__}: {error}"
        ) from error
