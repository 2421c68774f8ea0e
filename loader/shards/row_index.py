"""The row index: where the rows of the JPEGs begin in their coded data.

The compiled core uses it, and completes it while it decodes (see `csrc/row_index.h`). Here are the
names of its files, and `index_rows`, which makes it whole at once.
"""

import contextlib
import hashlib
import os
from typing import Any, Callable, Dict, NamedTuple, Optional

from .. import _core
from ..console import processors
from ..console.paths import make_private
from .limits import MAX_PIXELS
from .source import Records


class RowCounts(NamedTuple):
    """Numbers of images.

    Attributes:
        known: images whose rows are known.
        without: images that have no row index, because they are small or damaged, or because they
            are not sequential JPEGs.
    """

    known: int
    without: int


def row_files(records: Records) -> Optional[Dict[str, Any]]:
    """The files of the row index, as the core takes them; None if it is off.

    Each shard has a file in the cache folder, which is made if possible.
    """
    if not records.has_row_index:
        return None
    folder = records.cache_folder
    with contextlib.suppress(OSError):  # the core will say so
        make_private(folder)
    paths = []
    for path in records.row_names:
        # A file says which records it is about, and the points of each image come with a checksum
        # of its record. So the key need not change with the contents of the shard.
        name = path if records.remote else os.path.abspath(path)
        key = hashlib.sha256(f"pretexture rows 1\0{name}".encode("utf-8", "surrogateescape"))
        paths.append(os.fsencode(os.path.join(folder, f"rows-{key.hexdigest()[:32]}.bin")))
    return {"paths": paths, "folder": os.fsencode(folder)}


def index_rows(
    records: Records,
    threads: Optional[int] = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, RowCounts], None] = lambda shards, counts: None,
) -> RowCounts:
    """Finds the rows of all images, which a Loader otherwise finds in the first epochs.

    Args:
        records: the data set; remote shards are fetched one after the other.
        threads: number of threads; None for the processors that this process may use.
        max_pixels: size of the largest image that is decoded, in pixels.
        progress: function that is called after each shard, with the number of shards done and the
            counts so far.

    Returns: the counts of all images.

    Raises: ValueError if there is no row index; OSError if a shard cannot be read or a file cannot
        be written.
    """
    files = row_files(records)
    if files is None:
        raise ValueError(
            "the row index needs row_index='auto', and TFRecords need verify_crc=True for it"
        )
    index = records.shard_index("skip")
    arguments = records.core_arguments(index)
    counts = RowCounts(0, 0)
    with contextlib.closing(records.open_shards()) as shards:
        for shard in range(len(records.paths)):
            shards.expect([shard], range(shard + 1, len(records.paths)))
            with shards.use(shard) as path:
                arguments["paths"][shard] = os.fsencode(path)
                known, without = _core.index_rows(
                    arguments,
                    files,
                    shard,
                    processors.available() if threads is None else threads,
                    max_pixels,
                )
            counts = RowCounts(counts.known + known, counts.without + without)
            progress(shard + 1, counts)
    return counts
