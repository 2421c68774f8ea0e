"""WebDataset shards, which are tar archives, as a sequence of encoded images and labels."""

import json
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .. import _core
from ..console.arguments import whole
from ..console.paths import Path, expand, matches
from ..console.redaction import redacted
from .access import Opener, Shards
from .index import Format, Index, Scan, load_columns, save_columns
from .remote import is_url
from .sharded import ShardedRecords
from .source import Encoded, ExampleReader

IMAGES = ("jpg", "jpeg", "png")
LABELS = ("cls", "json")

_MOST_BYTES = 1 << 30  # of an image, as in TFRecords
_BLOCK = 512  # bytes of a header
_MOST_NAMES = 1_000_000  # that braces in a pattern may stand for

# An index in the cache: this header, then shard_begin, offsets, lengths, labels, little-endian.
_MAGIC = b"PTXTARS1"

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class WebDataset(ShardedRecords):
    """The records of WebDataset shards, in the order of the shards.

    A shard is a tar archive. Files that follow each other and have the same name up to the first
    dot are a record: an image (`.jpg`, `.jpeg` or `.png`) and its label, which is a number in a
    `.cls` file or in a `.json` file. Other files are left out, and so are records without an image.
    If a shard has no labels at all, they are -1.

    The shards are scanned on first use; the index is kept in `cache_dir` and read from there until
    a shard changes. Shards may be at URLs, as with `TFRecords`.

    Args:
        pattern_or_paths: paths or URLs, in which `{000000..000999}` stands for a range of numbers
            and `{a,b}` for several texts, or a glob pattern; or several of these.
        label_key: name of the label in `.json` files. Default: "label", which may be missing; a
            record without a label that is named here is an error.
        label_offset: number that is subtracted from labels; 1 if they count from 1. A stored label
            of -1 means "no label" and stays -1.
        row_index, cache_dir, cache_size, endpoint_url, storage_options: see `TFRecords`.

    Raises: FileNotFoundError if a shard is missing; ImportError for URLs without fsspec; on first
        use RecordError for a shard that is broken, or whose labels are, and OSError for a shard
        that cannot be fetched.
    """

    def __init__(
        self,
        pattern_or_paths: Union[Path, Sequence[Path]],
        label_key: Optional[str] = None,
        label_offset: int = 0,
        row_index: str = "auto",
        cache_dir: Optional[Path] = None,
        cache_size: Optional[int] = None,
        endpoint_url: Optional[str] = None,
        storage_options: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(
            _expanded(pattern_or_paths),
            row_index,
            cache_dir,
            cache_size,
            endpoint_url,
            storage_options,
        )
        self.label_key = label_key
        self.label_offset = whole("label_offset", label_offset, -(2**31), 2**31 - 1)

    @property
    def features(self) -> Dict[str, Any]:
        """The options that say which values of a record are its image and its label."""
        return {"label_key": self.label_key, "label_offset": self.label_offset}

    @property
    def format(self) -> Format:
        """How the shards are scanned, and their index kept."""
        rule = _Rule(self.label_key, self.label_offset)
        key = f"pretexture tar index 1\0{self.label_key!r}\0{self.label_offset}\n"
        return Format(key.encode(), rule.scan, read_index, _save)

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records; see `Records`."""
        return {
            **self._places("tar", index, opener),
            "labels": index.labels,
        }

    def read(
        self,
        number: int,
        index: Index,
        shards: Shards,
        read_example: Optional[ExampleReader] = None,
    ) -> Encoded:
        """Reads a record for a backend in Python; see `Records`."""
        assert index.labels is not None
        label = int(index.labels[number])
        shard, offset, length = index.locate(number)
        with shards.use(shard) as path:
            data = _core.read_member(os.fsencode(path), offset, length)
        return Encoded(data, length, lambda: label)


def expand_braces(text: str) -> List[str]:
    """The texts that `{000..009}` and `{a,b}` in a pattern stand for, in order, as in a shell.

    Raises: ValueError if they are too many.
    """
    match = _RANGE.search(text)
    if not match:
        return [text]
    first, last, several = match.groups()
    if several is not None:
        middles: Sequence[str] = several.split(",")
    else:
        begin, end = int(first), int(last)
        if abs(end - begin) >= _MOST_NAMES:
            raise ValueError(f"{redacted(text)} stands for more than {_MOST_NAMES} shards")
        padded = first.startswith("0") or last.startswith("0")
        width = max(len(first), len(last)) if padded else 0
        step = 1 if end >= begin else -1
        middles = [f"{number:0{width}d}" for number in range(begin, end + step, step)]
    rests = expand_braces(text[match.end() :])
    if len(middles) * len(rests) > _MOST_NAMES:
        raise ValueError(f"{redacted(text)} stands for more than {_MOST_NAMES} shards")
    return [text[: match.start()] + middle + rest for middle in middles for rest in rests]


def _expanded(pattern_or_paths: Union[Path, Sequence[Any]]) -> Any:
    """Paths and patterns without braces; a single pattern without braces stays as it is."""
    if isinstance(pattern_or_paths, (str, bytes, os.PathLike)):
        text = os.fsdecode(pattern_or_paths)
        if text.startswith("pipe:"):
            raise ValueError(f"{text}: shards are read at any place, which a pipe does not allow")
        if os.path.exists(text) or not _RANGE.search(text):
            return pattern_or_paths
        texts = [text]
    else:
        texts = list(map(os.fsdecode, pattern_or_paths))
    found: List[str] = []
    for text in texts:
        for name in expand_braces(text):
            if is_url(name):
                found.append(name)
                continue
            several = matches(expand(name))
            if not several:
                raise FileNotFoundError(f"no such file: {name}")
            found += several
    return found


class _BrokenError(Exception):
    """What is wrong with an archive, and where."""

    def __init__(self, offset: int, reason: str):
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


class _Sample(NamedTuple):
    """An image of an archive: offset of its header, size in bytes, label (None: it has none)."""

    offset: int
    size: int
    label: Optional[int]
    key: str


class _Rule(NamedTuple):
    """How labels are read; see `WebDataset`."""

    label_key: Optional[str]
    label_offset: int

    def scan(self, paths: Sequence[str], threads: int) -> Scan:
        """Scans shards, some at a time, because what is found first needs memory."""
        samples: List[_Sample] = []
        counts: List[int] = []
        faults: List[Tuple[str, int, str, bool]] = []
        some = 4 * threads
        for first in range(0, len(paths), some):
            part = paths[first : first + some]
            for path, found in zip(part, _core.scan_tars(list(map(os.fsencode, part)), threads)):
                before = len(samples)
                fault = self._add(found, samples)
                counts.append(len(samples) - before)
                if fault is not None:
                    faults.append((path, *fault))
        return Scan(
            np.array([sample.offset for sample in samples], np.uint64),
            np.array([sample.size for sample in samples], np.uint32),
            np.array([-1 if s.label is None else s.label for s in samples], np.int32),
            np.array(counts, np.uint64),
            faults,
        )

    def _add(self, found: Any, samples: List[_Sample]) -> Optional[Tuple[int, str, bool]]:
        """Adds the records of an archive; returns where and why it is broken, if it is."""
        names, offsets, sizes, text, text_begin, fault = found
        before = len(samples)
        try:
            self._group(names, offsets, sizes, text, text_begin, fault is not None, samples)
            added = samples[before:]
            labelled = [sample for sample in added if sample.label is not None]
            if len(labelled) not in (0, len(added)):
                some = next(sample for sample in added if sample.label is None)
                raise _BrokenError(
                    some.offset,
                    f"the image {some.key} has no label, though others in the shard have one",
                )
            if not added and fault is None:
                kinds = ", ".join(f".{kind}" for kind in IMAGES)
                raise _BrokenError(0, f"the archive has no images ({kinds})")
        except _BrokenError as error:
            kept = [sample for sample in samples[before:] if sample.offset < error.offset]
            samples[before:] = kept
            return error.offset, error.reason, False
        return fault

    def _group(
        self,
        names: bytes,
        offsets: Sequence[int],
        sizes: Sequence[int],
        text: bytes,
        text_begin: Sequence[int],
        broken: bool,
        samples: List[_Sample],
    ) -> None:
        """Adds the records of an archive. Raises: _BrokenError."""
        seen = set()
        now: Optional[str] = None
        parts: Dict[str, int] = {}
        for i, name in enumerate(map(os.fsdecode, names.split(b"\0")[:-1])):
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            if not stem:  # hidden, or without a name
                continue
            key = f"{folder}/{stem}" if folder else stem
            if key != now:
                if now is not None:
                    self._finish(now, parts, offsets, sizes, text, text_begin, samples)
                if key in seen:
                    raise _BrokenError(
                        offsets[i],
                        f"the files of {key} do not follow one another; pack the archive in the "
                        "order of names (tar --sort=name)",
                    )
                seen.add(key)
                now, parts = key, {}
            suffix = suffix.lower()
            kind = "image" if suffix in IMAGES else suffix if suffix in LABELS else None
            if kind is not None:
                if kind in parts:
                    what = "images" if kind == "image" else f".{kind} files"
                    raise _BrokenError(offsets[i], f"{key} has two {what}")
                parts[kind] = i
        # The last record of a truncated archive may lack its label.
        if now is not None and (not broken or any(kind in parts for kind in LABELS)):
            self._finish(now, parts, offsets, sizes, text, text_begin, samples)

    def _finish(
        self,
        key: str,
        parts: Mapping[str, int],
        offsets: Sequence[int],
        sizes: Sequence[int],
        text: bytes,
        text_begin: Sequence[int],
        samples: List[_Sample],
    ) -> None:
        """Adds a record, if it has an image. Raises: _BrokenError."""
        image = parts.get("image")
        if image is None:
            return
        label = None
        for kind in LABELS:
            at = parts.get(kind)
            if at is not None and label is None:
                data = text[text_begin[at] : text_begin[at + 1]]
                try:
                    label = self._of_text(data) if kind == "cls" else self._of_json(data)
                except ValueError as error:
                    raise _BrokenError(offsets[at], f"the label of {key}: {error}") from None
        if label is None and self.label_key is not None:
            raise _BrokenError(offsets[image], f"the image {key} has no label {self.label_key!r}")
        if sizes[image] > _MOST_BYTES:
            raise _BrokenError(
                offsets[image],
                f"the image {key} has {sizes[image]} bytes, more than the {_MOST_BYTES} that are "
                "read",
            )
        samples.append(_Sample(offsets[image], sizes[image], label, key))

    def _of_text(self, data: bytes) -> int:
        words = data.strip()
        if not re.fullmatch(rb"[+-]?[0-9]{1,18}", words):
            raise ValueError(f"{_shown(words)} is not a whole number")
        return self._checked(int(words))

    def _of_json(self, data: bytes) -> Optional[int]:
        try:
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError("the JSON text is not an object")
        value = value.get(self.label_key or "label")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{_shown(json.dumps(value).encode())} is not a whole number")
        return self._checked(value)

    def _checked(self, stored: int) -> int:
        if stored == -1:
            return -1
        label = stored - self.label_offset
        if 0 <= label < 2**31:
            return label
        if stored < self.label_offset or stored < 0:
            raise ValueError(f"{stored} less label_offset={self.label_offset} is below 0")
        raise ValueError(f"{stored} less label_offset={self.label_offset} does not fit in 32 bits")


def _shown(text: bytes) -> str:
    """A text from a file in quotes, for a message: the beginning, if it is long."""
    shown = ascii(text[:40].decode("utf-8", "replace"))
    return shown if len(text) <= 40 else f"{shown[:-1]}…'"


def read_index(path: str, sizes: Sequence[Optional[int]]) -> Index:
    """Reads a cached index, which may hold anything, and checks it against the shards.

    Args:
        path: path of the file.
        sizes: size of each shard in bytes; None if it is not known.

    Raises: ValueError with what is wrong; OSError.
    """
    begin, (offsets, lengths, labels) = load_columns(
        path, sizes, _MAGIC, "an index of tar archives", ("<u8", "<u4", "<i4"), _BLOCK
    )
    if (offsets % _BLOCK).any() or (offsets >= 2**62).any() or (labels < -1).any():
        raise ValueError("its records are not those of tar archives")
    ends = offsets + lengths + np.uint64(_BLOCK)
    inner = np.ones(len(offsets), bool)
    inner[begin[:-1].astype(np.int64)] = False  # the first record of each shard
    if (offsets[1:] < ends[:-1])[inner[1:]].any():
        raise ValueError("its records do not follow one another")
    for end, size in zip(ends[begin[1:].astype(np.int64) - 1], sizes):
        if size is not None and int(end) > size:
            raise ValueError("its records do not end where the shard does")
    return Index(offsets, lengths, begin, (), labels)


def _save(index: Index, path: str) -> None:
    """Writes an index, if it can."""
    assert index.labels is not None
    columns = [(index.offsets, "<u8"), (index.lengths, "<u4"), (index.labels, "<i4")]
    save_columns(path, _MAGIC, index.shard_begin, columns)
