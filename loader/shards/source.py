"""What a Loader reads from: a sequence of records, wherever their bytes are.

`TFRecords`, `WebDataset` and `ImageFolder` are such sources. A subclass of `Records` makes another
one from anything that Python can read.
"""

import abc
import collections.abc
import operator
import os
import threading
import weakref
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, overload

import numpy as np

from ..console.paths import cache_folder
from ..errors import RecordError
from .access import LocalShards, Opener, Shards
from .index import Index
from .remote import FetchError


class Record(NamedTuple):
    """One record.

    Attributes:
        image: the encoded image.
        label: the class label, counted from 0; -1 if the record has none.
        path: path or URL of the shard, or of the image's own file.
        offset: bytes from the start of that file to the start of the record.
    """

    image: bytes
    label: int
    path: str
    offset: int

    def __repr__(self) -> str:
        """All but the bytes of the image."""
        return (
            f"Record(image=<{len(self.image):,} bytes>, label={self.label}, path={self.path!r}, "
            f"offset={self.offset})"
        )


class Encoded(NamedTuple):
    """What a backend needs of a record.

    Attributes:
        image: the encoded image.
        size: bytes that were read for it.
        label: function that returns the class label. Raises: ValueError with the reason.
    """

    image: bytes
    size: int
    label: Callable[[], int]


# Reads the tf.train.Example in a TFRecord file, given (records, path, offset, length).
ExampleReader = Callable[[Any, str, int, int], Encoded]

# Users' code is not called by two threads at once: most of it is not made for that.
_ONE_AT_A_TIME = threading.RLock()


class Records(collections.abc.Sequence):
    """A source of records: a sequence of encoded images with labels.

    A source of your own needs two methods, `__len__` and `record`:

    ```python
    class Rows(Records):
        def __init__(self, file):
            self.file = h5py.File(file)

        def __len__(self):
            return len(self.file["jpeg"])

        def record(self, number):
            row = self.file["jpeg"][number]
            return row.tobytes(), self.file["label"][number], f"row {number}"

    Loader(Rows("photographs.h5"), "inception(224)", batch_size=64)
    ```

    Order, workers, resuming, errors and `on_error="skip"` are those of every source. It is slower:
    the Loader's threads decode and render at the same time, but they call `record` one after the
    other, and Python's lock is held meanwhile. For a data set that is used more than a few times,
    write TFRecords (`pretexture.loader.shards.writer`).

    The other members are what the package's own sources tell the Loader beyond that.

    Attributes:
        paths: paths or URLs of the shards; of an image folder, those of the class folders.
        remote: whether the shards are at URLs.
        classes: names of the classes in the order of their labels, if they are known.
        version: digest that changes if a file of the data changes; empty if that is not known.
        leaves_out: what on_error="skip" leaves out for each of the index's faults, for a message.
    """

    paths: Tuple[str, ...] = ()
    remote = False
    leaves_out = "the rest of a broken shard"
    classes: Tuple[str, ...] = ()
    version = ""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    def record(self, number: int) -> Tuple[bytes, int, str]:
        """Reads a record.

        It is called in any order and from several threads, one at a time.

        Args:
            number: record number, from 0.

        Returns: the bytes of a JPEG or PNG file; the class label, counted from 0, or -1 for none;
            and a name for messages, such as the path of the image.

        Raises: OSError if the record cannot be read now but may be sound, which always ends the
            epoch; any other exception if there is something wrong with this record. Either becomes
            a RecordError.
        """
        raise NotImplementedError(f"{type(self).__name__} must define record(number)")

    @overload
    def __getitem__(self, i: int) -> Record: ...
    @overload
    def __getitem__(self, i: slice) -> List[Record]: ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        number = operator.index(i) + (len(self) if i < 0 else 0)
        if not 0 <= number < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        index = self.shard_index()
        try:
            encoded = self.read(number, index, self._opened())
            path, offset = self.where(number, index)
            return Record(encoded.image, encoded.label(), path, offset or 0)
        except FetchError as error:
            raise RecordError(*self.where(number, index), number, error.reason) from error
        except (ValueError, OSError) as error:
            raise RecordError(*self.where(number, index), number, str(error)) from None

    def shard_index(self, on_error: str = "raise") -> Index:
        """Where the records are.

        Args:
            on_error: "raise" the RecordError of the first broken shard, or "skip" the part of each
                broken shard that follows the damage.
        """
        count = len(self)
        ends = np.array([0, count], np.uint64)
        return Index(np.zeros(count, np.uint64), np.zeros(count, np.uint32), ends, ())

    def open_shards(self) -> Shards:
        """The shards, opened for one reader, which closes them."""
        return LocalShards(self.paths)

    def read(
        self,
        number: int,
        index: Index,
        shards: Shards,
        read_example: Optional[ExampleReader] = None,
    ) -> Encoded:
        """Reads a record for a backend in Python.

        Args:
            number: record number.
            index: index of the shards.
            shards: the shards, opened.
            read_example: function that reads a `tf.train.Example`; None for the compiled core's.

        Raises: ValueError with the reason; OSError if a file cannot be read or has changed.
        """
        image, label, _ = self._record(number)
        return Encoded(image, len(image), lambda: label)

    def where(self, number: int, index: Index) -> Tuple[str, Optional[int]]:
        """The file that a record is in, and its offset there; None if the file is the record."""
        try:
            return self._record(number)[2], None
        except (ValueError, OSError, MemoryError):
            return type(self).__name__, None

    def _places(self, layout: str, index: Index, opener: Optional[Opener]) -> Dict[str, Any]:
        """The part of `core_arguments` that says where in the shards the records are."""
        return {
            "layout": layout,
            "paths": list(map(os.fsencode, self.paths)),
            "open": opener,
            "shard_begin": [int(x) for x in index.shard_begin],
            "offsets": index.offsets,
            "lengths": index.lengths,
        }

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records.

        Args:
            index: index of the shards.
            opener: function that opens a shard; None if the core opens the paths.
        """

        def function(number: int) -> Tuple[bytes, int, bytes]:
            image, label, name = self._record(number)
            return image, label, os.fsencode(name)

        return {
            "layout": "function",
            "paths": [type(self).__name__.encode()],
            "shard_begin": [int(x) for x in index.shard_begin],
            "function": function,
        }

    @property
    def has_row_index(self) -> bool:
        """Whether Loaders keep where the rows of each JPEG begin."""
        return False

    @property
    def row_names(self) -> Sequence[str]:
        """Names of what the row index has a file for: the shards."""
        return self.paths

    @property
    def cache_folder(self) -> str:
        """The folder for indexes and for copies of remote shards."""
        return cache_folder()

    @property
    def features(self) -> Dict[str, Any]:
        """The options that say which values of a record are its image and its label."""
        return {}

    @property
    def parts(self) -> Sequence[str]:
        """Names of the parts that the records come from.

        Two sources have records in common if they have a part in common.
        """
        return self.paths

    def _record(self, number: int) -> Tuple[bytes, int, str]:
        """What `record` returns, checked. Raises: OSError, MemoryError, ValueError."""
        try:
            with _ONE_AT_A_TIME:
                image, label, name = self.record(number)
            if not isinstance(image, (bytes, bytearray, memoryview)):
                raise TypeError(f"record() must return bytes first, not {type(image).__name__}")
            label = operator.index(label)
            if not -1 <= label < 2**31:
                raise ValueError(f"the label {label} is not from -1 to {2**31 - 1}")
            return bytes(image), label, os.fsdecode(name)
        except MemoryError:
            raise
        except OSError as error:
            raise OSError(str(error)) from error
        except Exception as error:  # whatever a user's code raises
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{kind}{error}") from error

    def _opened(self) -> Shards:
        """The shards, opened once for `__getitem__`, and closed with this object."""
        opened = self.__dict__.get("_shards")
        if opened is None:
            opened = self._shards = self.open_shards()
            weakref.finalize(self, opened.close)
        return opened

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_shards": None}
