"""Records as the page reads them: without writing a file, and as far as a broken shard is sound."""

from typing import Any, Dict, Optional, Tuple

from ..errors import RecordError
from ..shards.access import Opener, Shards
from ..shards.index import Index
from ..shards.source import Encoded, ExampleReader, Records


class ReadOnly(Records):
    """The records of a source, for which no row index is kept.

    The records before the damage in a broken shard are there.

    Args:
        source: the records.

    Attributes:
        faults: the errors of broken shards.
    """

    def __init__(self, source: Records):
        self._source = source
        index = source.shard_index("skip")
        self.faults: Tuple[RecordError, ...] = index.faults
        self._index = index._replace(faults=())
        self.paths, self.remote, self.classes = source.paths, source.remote, source.classes

    def __len__(self) -> int:
        return len(self._index.offsets)

    def __repr__(self) -> str:
        return repr(self._source)

    def shard_index(self, on_error: str = "raise") -> Index:
        """Where the records are that can be found."""
        return self._index

    def open_shards(self) -> Shards:
        """The shards, opened for one reader, which closes them."""
        return self._source.open_shards()

    def read(
        self,
        number: int,
        index: Index,
        shards: Shards,
        read_example: Optional[ExampleReader] = None,
    ) -> Encoded:
        """Reads a record for a backend in Python; see `Records`."""
        return self._source.read(number, index, shards, read_example)

    def where(self, number: int, index: Index) -> Tuple[str, Optional[int]]:
        """The file that a record is in, and its offset there; see `Records`."""
        return self._source.where(number, index)

    def core_arguments(self, index: Index, opener: Optional[Opener] = None) -> Dict[str, Any]:
        """What the compiled core needs to know of the records; see `Records`."""
        return self._source.core_arguments(index, opener)
