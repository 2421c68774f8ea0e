"""JPEG and PNG files in class folders, as a random-access sequence of encoded images and labels."""

import concurrent.futures
import contextlib
import hashlib
import logging
import os
import stat
import struct
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from .. import _core
from ..console import paths
from ..console.arguments import choice
from ..console.paths import Path
from ..console.redaction import redacted
from ..errors import RecordError
from .access import Opener, Shards
from .index import Index, contents, replace
from .remote import is_url
from .source import Encoded, ExampleReader, Records

_log = logging.getLogger("pretexture.loader")

SUFFIXES = (".jpg", ".jpeg", ".png")
# Images that other loaders read and this one does not; the user is told of them.
_OTHERS = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".jfif")

PARTS = ("all", "train", "val")
_HELD_OUT = 40 / 1024  # as imagenet() holds out 40 of 1,024 shards

_MOST_BYTES = 1 << 30  # of an image, as in shards
_THREADS = 16  # that list folders at once; on a network disk most of their time is waiting
_SECONDS = 10.0  # between two lines about a scan's progress
# A folder that changed so short before its listing may change again without a new time.
_SETTLED = 2_000_000_000  # ns

# A listing in the cache: this header, then the arrays and texts of `_Listing` in order.
_MAGIC = b"PTXFILE1"
_HEADER = struct.Struct("<8s6QI4x")  # magic, the size of each in bytes, CRC-32C of what follows
_CHANGED = (
    "the file has changed since its folder was indexed; pretexture index, or "
    "ImageFolder(…, refresh=True), indexes the folder again"
)


class _Listing(NamedTuple):
    """What the folders hold.

    Attributes:
        folders: names of all folders relative to the root, each with a zero byte at its end; first
            the root, whose name is empty.
        stamps: int64 [folders, 2], time of the last change in ns, and inode.
        classes: names of the class folders, likewise.
        begin: uint64 [classes + 1], the number of the first file of each class.
        names: names of the files relative to their class folder, likewise.
        files: int64 [files, 2], size in bytes, and time of the last change in ns.
    """

    folders: bytes
    stamps: np.ndarray
    classes: bytes
    begin: np.ndarray
    names: bytes
    files: np.ndarray


class ImageFolder(Records):
    """JPEG and PNG files in class folders: `root/CLASS/NAME.jpg`.

    The classes are the folders in `root`, sorted by name, and labels count from 0, as in
    torchvision's `ImageFolder`; so is the order of the files. Class folders are searched to any
    depth, and links are followed. Names may have any encoding, and suffixes any case. Hidden files
    and folders are left out. A class without images keeps its label.

    The folders are listed once, and the list is kept in `cache_dir`. It is used until a folder
    changes, which takes a look at each folder and not at each file. If a file itself changes, a
    RecordError names it when it is read; `refresh=True` looks at all files again.

    Args:
        root: path of the folder.
        part: "all" records; or "val", 40 of each 1,024 of them, spread evenly; or "train", the
            others. Which ones these are depends on the number of files.
        classes: names of the classes in the order of their labels, for a folder that may lack some
            of them, such as one for validation. Default: the folders there are.
        row_index: "auto" keeps where the rows of each JPEG begin, see `TFRecords`; "off" does
            without.
        cache_dir: folder for these indexes. Default: `$XDG_CACHE_HOME/pretexture` or
            `~/.cache/pretexture`.
        refresh: whether to list the folders again even if they have not changed.

    Raises: FileNotFoundError if there is no folder or no image; ValueError for a URL; on first use
        RecordError for a file that cannot be used, and OSError for a folder that cannot be listed.
    """

    leaves_out = "a file"

    def __init__(
        self,
        root: Path,
        part: str = "all",
        classes: Optional[Sequence[str]] = None,
        row_index: str = "auto",
        cache_dir: Optional[Path] = None,
        refresh: bool = False,
    ):
        text = os.fsdecode(root)
        if is_url(text):
            raise ValueError(
                f"an ImageFolder is on a disk of this machine, and {redacted(text)} is at a URL; "
                "copy it here, or make shards of it with pretexture prepare and upload those"
            )
        self.root = paths.expand(root)
        if not os.path.isdir(self.root):
            raise FileNotFoundError(f"there is no folder {self.root}")
        self.part = choice("part", part, PARTS)
        self.row_index = choice("row_index", row_index, ("auto", "off"))
        self._classes = None if classes is None else tuple(classes)
        self._cache = None if cache_dir is None else paths.expand(cache_dir)
        self._refresh = refresh
        self._found: Optional[_Found] = None

    @property
    def classes(self) -> Tuple[str, ...]:  # type: ignore[override]  # not writable here
        """Names of the classes, in the order of their labels."""
        return self._files.folders if self._classes is None else self._classes

    @property
    def paths(self) -> Tuple[str, ...]:  # type: ignore[override]  # not writable here
        """Paths of the class folders."""
        return tuple(os.path.join(self.root, name) for name in self._files.folders)

    @property
    def has_row_index(self) -> bool:
        """Whether Loaders keep where the rows of each JPEG begin."""
        return self.row_index == "auto"

    @property
    def row_names(self) -> Sequence[str]:
        """Names of what the row index has a file for: the class folders, by part."""
        return [f"{os.path.abspath(path)}\0{self.part}" for path in self.paths]

    @property
    def parts(self) -> Sequence[str]:
        """Names of the parts that the records come from."""
        parts = PARTS[1:] if self.part == "all" else (self.part,)
        return [os.path.join(path, f"({part})") for path in self.paths for part in parts]

    @property
    def version(self) -> str:  # type: ignore[override]  # not writable here
        """Digest of the files' names, sizes, times of modification and labels."""
        files, index = self._files, self._files.shard_index
        digest = hashlib.sha256(repr((files.folders, index.shard_begin.tolist())).encode())
        for part in (files.names, files.name_begin, files.modified, index.lengths, index.labels):
            digest.update(part)  # type: ignore[arg-type]
        return digest.hexdigest()

    @property
    def cache_folder(self) -> str:
        """The folder for indexes."""
        return paths.cache_folder() if self._cache is None else self._cache

    def shard_index(self, on_error: str = "raise") -> Index:
        """The files, each as a record of its class folder; see `Records`."""
        index = self._files.shard_index
        if index.faults and on_error == "raise":
            raise index.faults[0]
        return index

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records; see `Records`."""
        return {
            **self._places("file", index, opener),
            "labels": index.labels,
            "names": self._files.names,
            "name_begin": self._files.name_begin,
            "modified": self._files.modified,
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
        path = self.where(number, index)[0]
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read() if stat.S_ISREG(status.st_mode) else b""
        if (len(data), status.st_mtime_ns) != (
            int(index.lengths[number]),
            int(self._files.modified[number]),
        ):
            raise OSError(_CHANGED)
        if not data:
            raise ValueError("the file is empty")
        return Encoded(data, len(data), lambda: label)

    def where(self, number: int, index: Index) -> Tuple[str, Optional[int]]:
        """The path of a record's file."""
        shard, _, _ = index.locate(number)
        begin = int(self._files.name_begin[number])
        name = self._files.names[begin : self._files.names.index(b"\0", begin)]
        return os.path.join(self.root, self._files.folders[shard], os.fsdecode(name)), None

    def __len__(self) -> int:
        return len(self.shard_index().offsets)

    def __repr__(self) -> str:
        part = "" if self.part == "all" else f", part={self.part!r}"
        return f"ImageFolder({self.root!r}{part})"

    @property
    def _files(self) -> "_Found":
        if self._found is None:
            listing, faults = _listing(self.root, self.cache_folder, self._refresh)
            self._found = _found(self.root, listing, faults, self.part, self._classes)
        return self._found


class _Found(NamedTuple):
    """The files of a part, as the Loader needs them.

    Attributes:
        folders: names of the class folders.
        shard_index: where each file would begin if those of its class were joined.
        names: names of the files, each with a zero byte at its end.
        name_begin: uint64 [files], where each name begins.
        modified: int64 [files], time of the last change in ns.
    """

    folders: Tuple[str, ...]
    shard_index: Index
    names: bytes
    name_begin: np.ndarray
    modified: np.ndarray


def _found(
    root: str,
    listing: _Listing,
    faults: Sequence[RecordError],
    part: str,
    classes: Optional[Sequence[str]],
) -> _Found:
    folders = _names(listing.classes)
    sizes, modified = listing.files[:, 0], listing.files[:, 1]
    count, begin = len(sizes), listing.begin.astype(np.int64)
    labels = np.repeat(np.arange(len(begin) - 1, dtype=np.int32), np.diff(begin))
    ends = np.cumsum(sizes)
    # In a class of its own, a file begins where the ones before it end.
    before = np.concatenate([np.zeros(1, np.int64), ends])
    offsets = before[:-1] - before[begin[:-1]][labels]
    zeros = np.flatnonzero(np.frombuffer(listing.names, np.uint8) == 0)
    name_begin = np.concatenate([np.zeros(1, np.int64), zeros[:-1] + 1])
    if part != "all":
        held_out = max(1, round(count * _HELD_OUT))
        if held_out >= count:
            raise ValueError(f"{root} has a single image, which cannot be split into train and val")
        steps = np.arange(count + 1) * held_out // count
        chosen = (np.diff(steps) > 0) == (part == "val")
        begin = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen)])[begin]
        offsets, sizes, labels = offsets[chosen], sizes[chosen], labels[chosen]
        name_begin, modified = name_begin[chosen], modified[chosen]
    if classes is not None:
        numbers = {name: number for number, name in enumerate(classes)}
        for name, first, last in zip(folders, begin, begin[1:]):
            if name not in numbers and last > first:
                raise ValueError(
                    f"{root} has images in the folder {name}, which is not one of the "
                    f"{len(classes)} classes"
                )
        labels = np.array([numbers.get(name, -1) for name in folders], np.int32)[labels]
    index = Index(
        offsets.astype(np.uint64),
        sizes.astype(np.uint32),
        begin.astype(np.uint64),
        tuple(faults),
        labels,
    )
    return _Found(
        tuple(folders),
        index,
        listing.names,
        name_begin.astype(np.uint64),
        np.ascontiguousarray(modified),
    )


def _names(text: bytes) -> List[str]:
    return [os.fsdecode(name) for name in text.split(b"\0")[:-1]]


def _text(names: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _listing(root: str, cache_dir: str, refresh: bool) -> Tuple[_Listing, List[RecordError]]:
    """What the folders hold, and the files that cannot be used: from the cache, or listed."""
    key = hashlib.sha256(b"pretexture files 1\0" + os.fsencode(os.path.abspath(root)))
    cached = os.path.join(cache_dir, f"files-{key.hexdigest()[:32]}.bin")
    if not refresh:
        try:
            listing = read_listing(cached)
            if _is_current(root, listing):
                return listing, []
        except FileNotFoundError:
            pass
        except (ValueError, OSError) as error:
            _log.warning("the cached index %s is rebuilt, because it is damaged: %s", cached, error)
    listing, faults = _Lister(root).list()
    latest = int(listing.stamps[:, 0].max())
    if not faults and time.time_ns() - latest > _SETTLED:
        _save(listing, cached)
    return listing, faults


def _is_current(root: str, listing: _Listing) -> bool:
    """Whether no folder has changed since it was listed."""
    try:
        stamps = [_stamp(os.stat(os.path.join(root, name))) for name in _names(listing.folders)]
    except OSError:
        return False
    return np.array_equal(listing.stamps, np.array(stamps, np.int64))


def _stamp(status: os.stat_result) -> Tuple[int, int]:
    """What changes if a folder does; inodes may have 64 bits."""
    return status.st_mtime_ns, status.st_ino & (2**63 - 1)


def read_listing(path: str) -> _Listing:
    """Reads a cached listing, which may hold anything. Raises: ValueError; OSError."""
    data = contents(path, 1 << 40)
    if len(data) < _HEADER.size:
        raise ValueError("it is too short")
    magic, *sizes, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it is not an index of files")
    if sum(sizes) != len(data) - _HEADER.size:
        raise ValueError("its size is not the one that its header says")
    if _core.masked_crc32c(memoryview(data)[_HEADER.size :]) != crc:
        raise ValueError("its checksum is wrong")
    parts, at = [], _HEADER.size
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    if any(len(parts[i]) % 8 for i in (1, 3, 5)) or len(parts[1]) % 16 or len(parts[5]) % 16:
        raise ValueError("it is not an index of files")
    listing = _Listing(
        parts[0],
        np.frombuffer(parts[1], "<i8").reshape(-1, 2),
        parts[2],
        np.frombuffer(parts[3], "<u8"),
        parts[4],
        np.frombuffer(parts[5], "<i8").reshape(-1, 2),
    )
    _check(listing)
    return listing


def _check(listing: _Listing) -> None:
    """Checks that the numbers of a listing fit together."""
    counts = {"folders": len(listing.stamps), "names": len(listing.files)}
    counts["classes"] = len(listing.begin) - 1
    for name, count in counts.items():
        text = getattr(listing, name)
        if text.count(b"\0") != count or (count and not text.endswith(b"\0")) or count < 1:
            raise ValueError(f"it does not name its {name}")
    begin, sizes = listing.begin, listing.files[:, 0]
    if begin[0] != 0 or begin[-1] != len(sizes) or (begin[1:] < begin[:-1]).any():
        raise ValueError("it does not say in which class its files are")
    if (sizes < 0).any() or (sizes > _MOST_BYTES).any():
        raise ValueError("a file has an impossible size")


def _save(listing: _Listing, path: str) -> None:
    parts = [
        listing.folders,
        np.ascontiguousarray(listing.stamps, "<i8").tobytes(),
        listing.classes,
        np.ascontiguousarray(listing.begin, "<u8").tobytes(),
        listing.names,
        np.ascontiguousarray(listing.files, "<i8").tobytes(),
    ]
    body = b"".join(parts)
    replace(path, _HEADER.pack(_MAGIC, *map(len, parts), _core.masked_crc32c(body)), body)


class _Class(NamedTuple):
    """What a class folder holds: files in torchvision's order, and the folders that were listed."""

    names: List[str]
    files: List[Tuple[int, int]]
    folders: List[str]
    stamps: List[Tuple[int, int]]
    faults: List[RecordError]
    others: List[str]


class _Lister:
    """Lists the folders below a root."""

    def __init__(self, root: str):
        self._root = root
        self._stopped = threading.Event()

    def list(self) -> Tuple[_Listing, List[RecordError]]:
        """What the folders hold, and the files that cannot be used.

        Raises: FileNotFoundError if there are no images; OSError for a folder that cannot be
            listed.
        """
        stamp = _stamp(os.stat(self._root))
        classes = class_folders(self._root)
        found = self._list_all(classes)
        names = [name for one in found for name in one.names]
        faults = [fault for one in found for fault in one.faults]
        others = [name for one in found for name in one.others]
        if others:
            _log.warning(
                "%d images in %s are left out, %s for one: an ImageFolder reads JPEG and PNG "
                "files; pretexture prepare reads other formats, too",
                len(others),
                self._root,
                others[0],
            )
        empty = [name for name, one in zip(classes, found) if not one.names]
        if not names:
            raise FileNotFoundError(
                f"{self._root} has no images in class folders, such as CLASS/NAME.jpg; an "
                f"ImageFolder reads {', '.join(SUFFIXES)}; pretexture prepare also reads other "
                "layouts, and labels from a list"
            )
        if empty:
            _log.warning(
                "%d class folders in %s have no images, %s for one; they keep their labels",
                len(empty),
                self._root,
                empty[0],
            )
        listing = _Listing(
            _text(["", *(name for one in found for name in one.folders)]),
            np.array([stamp, *(stamp for one in found for stamp in one.stamps)], np.int64),
            _text(classes),
            np.cumsum([0, *(len(one.names) for one in found)]).astype(np.uint64),
            _text(names),
            np.array([file for one in found for file in one.files], np.int64).reshape(-1, 2),
        )
        return listing, faults

    def _list_all(self, classes: Sequence[str]) -> List[_Class]:
        """The class folders, several at a time."""
        found: List[_Class] = []
        said = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            try:
                for one in pool.map(self._list_class, classes):
                    found.append(one)
                    if time.monotonic() - said > _SECONDS:
                        said = time.monotonic()
                        _log.info(
                            "listing the files in %s: %d of %d class folders",
                            self._root,
                            len(found),
                            len(classes),
                        )
            except BaseException:
                self._stopped.set()  # so that the threads end, even after an interruption
                raise
        return found

    def _list_class(self, name: str) -> _Class:
        result = _Class([], [], [], [], [], [])
        if self._stopped.is_set():
            return result
        top = os.path.join(self._root, name)
        walked: Set[Tuple[int, int]] = set()
        rows: List[Tuple[str, str, Tuple[int, int]]] = []
        waiting = [""]
        while waiting:
            inner = waiting.pop()
            folder = os.path.join(top, inner) if inner else top
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in walked:  # a link back up
                continue
            walked.add((status.st_dev, status.st_ino))
            result.folders.append(os.path.join(name, inner) if inner else name)
            result.stamps.append(_stamp(status))
            with _entries(folder) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        waiting.append(os.path.join(inner, entry.name))
                    elif suffix in SUFFIXES:
                        file = self._file(entry, result.faults)
                        if file is not None:
                            rows.append((inner, entry.name, file))
                    elif suffix in _OTHERS:
                        result.others.append(entry.path)
        rows.sort()
        result.names.extend(os.path.join(inner, name) for inner, name, _ in rows)
        result.files.extend(file for _, _, file in rows)
        result.faults.sort(key=lambda fault: fault.path)
        return result

    @staticmethod
    def _file(entry: "os.DirEntry[str]", faults: List[RecordError]) -> Optional[Tuple[int, int]]:
        """Size and time of a file; None, and a fault, if it is not one that can be read."""
        try:
            status = entry.stat()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError) and entry.is_symlink()
            reason = "the file that it links to does not exist" if missing else str(error.strerror)
            faults.append(RecordError(entry.path, None, None, reason))
            return None
        if not stat.S_ISREG(status.st_mode):
            faults.append(RecordError(entry.path, None, None, "is not a regular file"))
        elif status.st_size > _MOST_BYTES:
            reason = f"has {status.st_size} bytes, more than the {_MOST_BYTES} that are read"
            faults.append(RecordError(entry.path, None, None, reason))
        else:
            return status.st_size, status.st_mtime_ns
        return None


def class_folders(root: str) -> List[str]:
    """Names of the class folders in a folder, sorted. Raises: OSError."""
    with _entries(root) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder, or a link to one, that is not hidden."""
    return not entry.name.startswith(".") and entry.is_dir()


@contextlib.contextmanager
def _entries(folder: str) -> Any:
    """The entries of a folder. Raises: OSError with one line."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{os.fsdecode(error.filename)}: {error.strerror}"
        raise OSError(f"the folder cannot be listed: {reason}") from None
