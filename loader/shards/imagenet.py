"""The splits of ImageNet, found by the names of their shards or folders."""

import dataclasses
import inspect
import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ..console import paths
from ..console.json_text import parse_object
from ..console.paths import Path
from ..console.redaction import redacted
from .image_folder import ImageFolder, class_folders
from .record_options import FEATURES
from .records import TFRecords
from .remote import DEFAULT_STORAGE, MissingError, Remote, Storage, is_safe_name, is_url, join
from .source import Records
from .webdataset import WebDataset

# The file in which `pretexture prepare` describes the shards that it has written beside it.
DATASET = "dataset.json"

SPLITS = ("train", "val", "trainval", "test")

# Names of the folders for a split. If there are several, the first is used.
TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test", "testing")
# Those at a URL, where a look at each costs a request.
_AT_URLS = {"train": ("train",), "validation": ("validation", "val")}


def imagenet(root: Path, split: str, **kwargs) -> Records:
    """A split of ImageNet, or of any data set that is laid out like one of these:

    - TFRecord shards with names of TF-Slim (`train-00000-of-01024`, `validation-00000-of-00128`) or
      of TensorFlow Datasets (`imagenet2012-train.tfrecord-00000-of-01024`);
    - WebDataset shards (`train-000000.tar` and `val-000000.tar` or `validation-000000.tar`, with or
      without a name such as `imagenet1k-` before it);
    - class folders of JPEG and PNG files in `train` and in `val` or `validation`.

    Shards may also lie in folders `train` and `validation` (or `val`) inside, as those of the Cloud
    TPU script do.

    Args:
        root: the folder, a path or a URL. On a web server, `dataset.json`, which
            `pretexture prepare` writes beside the shards, must name them. Class folders are read
            from a disk of this machine only.
        split: "train" (all but the last 40/1024 of the training shards; the number is rounded, but
            at least one), "val" (those last shards), "trainval" (all training shards) or "test"
            (the validation shards). Of class folders, "train" and "val" are the parts of an
            `ImageFolder`, and the labels of "test" are those of the training classes.
        **kwargs: arguments of `TFRecords`, `WebDataset` or `ImageFolder`. Options about URLs do not
            matter to an `ImageFolder`.

    Raises: ValueError for another split, if a single training shard is to be split, or for an
        option that the records do not have; FileNotFoundError if shards are missing.
    """
    check_split(split)
    root = os.fsdecode(root) if is_url(os.fsdecode(root)) else paths.expand(root)
    name = "validation" if split == "test" else "train"
    inner = HELD_OUT if split == "test" else TRAIN
    listings = [_listing(root, kwargs)]
    folders: Tuple[str, ...]
    if is_url(root):
        folders = () if _is_web(root) else _AT_URLS[name]
    else:
        folders = tuple(key for key in inner if os.path.isdir(os.path.join(root, key)))
    if not any(_shards_in(listing, name) for listing in listings):
        listings += [_listing(join(root, folder), kwargs) for folder in folders]
    for listing in listings:
        entries = _shards_in(listing, name)
        if entries:
            shards = [listing[entry] for entry in _in_order(root, name, entries, listing)]
            kind = WebDataset if entries[0].endswith(".tar") else TFRecords
            return kind(_of_split(root, split, shards, kwargs), **options_for(kind, kwargs))
    if folders and not is_url(root):
        return _image_folder(root, split, kwargs)
    raise FileNotFoundError(
        f"{redacted(root)} has no shards {name}-*-of-*, *-{name}.tfrecord-*-of-* or {name}-*.tar, "
        f"and no folder {inner[0]} of class folders; `pretexture prepare` writes shards from images"
    )


def check_split(split: str) -> str:
    """The name of a split. Raises: ValueError, saying which splits there are."""
    if split not in SPLITS:
        hint = ""
        if split in ("valid", "validation", "testing", "dev"):
            hint = (
                ": your own validation images (validation-*-of-*, or the folder val) are the split "
                "test; val is the part of the training images that train leaves out"
            )
        raise ValueError(f"split must be train, val, trainval or test, not {split!r}{hint}")
    return split


def open_records(data: str, split: str, **kwargs) -> Records:
    """The records that text names, as `--data` takes it.

    Args:
        data: a folder, a path or URL, for `imagenet`; or a path, URL or pattern of shards.
        split: split of a folder.
        **kwargs: see `imagenet`.
    """
    if is_folder(data):
        return imagenet(data, split, **kwargs)
    kind = WebDataset if data.partition("?")[0].endswith((".tar", ".tar.gz", ".tgz")) else TFRecords
    return kind(data, **options_for(kind, kwargs))


def is_folder(data: str) -> bool:
    """Whether text names a folder of shards, a path or a URL, and not shards or a pattern."""
    return os.path.isdir(data) or (is_url(data) and not set("*[") & set(data))


def description(folder: str, storage: Storage = DEFAULT_STORAGE) -> Dict[str, Any]:
    """What dataset.json says of the shards in a folder; {} if there is none.

    Args:
        folder: the folder, a path or a URL.
        storage: how a URL is reached.

    Raises: ValueError if the file is malformed; OSError.
    """
    path = join(folder, DATASET)
    try:
        if is_url(folder):
            text = Remote(folder, storage).read(path)
        else:
            with open(path, "rb") as file:
                text = file.read()
        return parse_object(text, path)
    except (FileNotFoundError, NotADirectoryError):
        return {}


def class_names(records: Records, data: str, storage: Storage = DEFAULT_STORAGE) -> Sequence[str]:
    """The names of the classes of records, in the order of their labels; empty if not known.

    Args:
        records: the records, which know their classes if they are files in class folders.
        data: what `open_records` took; its folder's `dataset.json` may name them.
        storage: how a URL is reached.

    Raises: ValueError if that file is malformed; OSError.
    """
    if records.classes:
        return records.classes
    folder = data if is_folder(data) else os.path.dirname(records.paths[0])
    classes = description(folder, storage).get("classes", [])
    if not isinstance(classes, list):
        raise ValueError(f"{join(folder, DATASET)}: its classes are not a list")
    return list(map(str, classes))


def _listing(folder: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of a folder by name: paths, or files at URLs."""
    if is_url(folder):
        names = [field.name for field in dataclasses.fields(Storage)]
        return _remote_listing(folder, Storage(**{n: options[n] for n in names if n in options}))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}")
    return {entry: os.path.join(folder, entry) for entry in os.listdir(folder)}


def _shard_name(name: str) -> "re.Pattern[str]":
    """Matches the names of a split's shards: the stem, the shard's number, the number of shards."""
    return re.compile(rf"({name}|[\w-]+-{name}\.tfrecord)-([0-9]{{5}})-of-([0-9]{{5}})")


def _tar_name(name: str) -> "re.Pattern[str]":
    """Matches the names of a split's WebDataset shards: the stem, the shard's number."""
    names = "validation|val" if name == "validation" else name
    return re.compile(rf"((?:[\w.-]+[-_])?(?:{names}))[-_]?([0-9]+)\.tar")


def _shards_in(entries: Iterable[str], name: str) -> List[str]:
    """The entries of a folder that are shards of that name; TFRecords, or else WebDataset's."""
    names = list(entries)
    for pattern in (_shard_name(name), _tar_name(name)):
        found = [entry for entry in names if pattern.fullmatch(entry)]
        if found:
            return found
    return []


def _of_split(root: str, split: str, shards: List[Any], options: Mapping[str, Any]) -> List[Any]:
    """The shards of a split among the training or validation shards."""
    if split not in ("train", "val"):
        return shards
    held_out = max(1, round(len(shards) * 40 / 1024))
    if held_out == len(shards):
        url = getattr(shards[0], "url", shards[0])
        kind = "WebDataset" if url.endswith(".tar") else "TFRecords"
        given = "".join(f", {key}={options[key]!r}" for key in FEATURES if key in options)
        raise ValueError(
            f"{redacted(root)} has a single training shard, which cannot be split into train and "
            f"val; use trainval and test, or {kind}({redacted(url)!r}{given})"
        )
    return shards[-held_out:] if split == "val" else shards[:-held_out]


def options_for(kind: Any, options: Mapping[str, Any]) -> Dict[str, Any]:
    """The options that a source of this kind takes.

    An option that is about a cache or about URLs, and that it has no use for, is left out. Another
    one that it does not take is an error.

    Raises: ValueError.
    """
    known = inspect.signature(kind).parameters
    aside = {field.name for field in dataclasses.fields(Storage)} | {"refresh"}
    taken = {name: value for name, value in options.items() if name in known}
    for name in options:
        if name not in known and name not in aside:
            raise ValueError(f"{kind.__name__} has no {name}; leave it out")
    return taken


def _image_folder(root: str, split: str, options: Mapping[str, Any]) -> ImageFolder:
    """A split of class folders in `train` and, say, `val`."""
    options = options_for(ImageFolder, options)
    train = _first_folder(root, TRAIN)
    if split != "test":
        part = {"trainval": "all"}.get(split, split)
        return ImageFolder(_needed(root, train, TRAIN), part=part, **options)
    held_out = _needed(root, _first_folder(root, HELD_OUT), HELD_OUT)
    if train is not None:
        options["classes"] = class_folders(train)
    return ImageFolder(held_out, **options)


def _first_folder(root: str, names: Sequence[str]) -> Optional[str]:
    folders = (os.path.join(root, name) for name in names)
    return next((folder for folder in folders if os.path.isdir(folder)), None)


def _needed(root: str, folder: Optional[str], names: Sequence[str]) -> str:
    if folder is None:
        raise FileNotFoundError(f"{root} has none of the folders {', '.join(names)}")
    return folder


def _in_order(root: str, name: str, shards: Sequence[str], entries: Iterable[str]) -> List[str]:
    """The shards of that name in order. Raises: FileNotFoundError if they are not one whole set."""
    if not shards[0].endswith(".tar"):
        return _numbered(root, name, entries)
    pattern = _tar_name(name)
    found: Dict[str, Dict[int, str]] = {}
    for entry in shards:
        match = pattern.fullmatch(entry)
        assert match is not None
        found.setdefault(match.group(1), {})[int(match.group(2))] = entry
    if len(found) > 1:
        raise FileNotFoundError(
            f"{redacted(root)} mixes {name} shards named {' and '.join(sorted(found))}; keep one "
            "set of them"
        )
    (numbered,) = found.values()
    return [numbered[number] for number in sorted(numbered)]


def _numbered(root: str, name: str, entries: Iterable[str]) -> List[str]:
    """The entries of a folder that are shards of that name, in order."""
    root = redacted(root)
    found: Dict[Tuple[int, str], Dict[int, str]] = {}
    for entry in entries:
        match = _shard_name(name).fullmatch(entry)
        if match:
            stem, number, count = match.groups()
            found.setdefault((int(count), stem), {})[int(number)] = entry
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


def _is_web(root: str) -> bool:
    """Whether a folder is on a web server, which does not list it."""
    return root.startswith(("http://", "https://"))


def _remote_listing(root: str, storage: Storage) -> Mapping[str, Any]:
    """The shards in a folder at a URL, by name: files if a listing describes them, or URLs."""
    remote = Remote(root, storage)
    if not _is_web(root):
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
