"""The compiled core. Its functions raise CoreError, with the reason alone, for what is wrong with
data, and CoreUnavailable for what is wrong with the machine: a file that cannot be opened or read.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from .language.check import Plan

MAX_PIXELS: int

_Bytes = Union[bytes, bytearray, memoryview, np.ndarray]

class CoreError(ValueError): ...
class CoreUnavailable(OSError): ...

def crc32c(data: _Bytes) -> int: ...
def crc32c_portable(data: _Bytes) -> int: ...
def masked_crc32c(data: _Bytes) -> int: ...
def philox(key: int, counter: Sequence[int]) -> Tuple[int, int, int, int]: ...
def record_at(
    seed: int, epoch: int, records: int, shuffle: str, block: int, blocks: int, position: int
) -> int:
    """The record at a position of an epoch; shuffle is "none", "global" or "window"."""

def scan_shards(
    paths: Sequence[bytes], threads: int
) -> Tuple[np.ndarray, np.ndarray, np.ndarray, List[Tuple[str, int, str, bool]]]:
    """Offsets (uint64) and data lengths (uint32) of all records, the number of records of each
    shard (uint64), and for each shard whose scan broke off its path, the offset, the reason and
    whether that is a fault of the machine: the file cannot be read, whatever is in it."""

def index_rows(
    records: Dict[str, Any],
    files: Dict[str, Any],
    shard: int,
    threads: int,
    max_pixels: int = MAX_PIXELS,
) -> Tuple[int, int]:
    """Finds where the rows of a shard's JPEGs begin, and writes its file of the row index.

    Returns: the numbers of images with and without known rows.
    """

def scan_tars(
    paths: Sequence[bytes], threads: int
) -> List[Tuple[bytes, List[int], List[int], bytes, List[int], Optional[Tuple[int, str, bool]]]]:
    """For each archive: the names of its files, each with a zero byte at its end; the offsets of
    their headers; their sizes; the contents of those that end with .cls or .json, one after the
    other; where each file's contents begin there, and the end; and if the scan broke off, the
    offset, the reason and whether that is a fault of the machine."""

def read_member(path: Union[str, bytes], offset: int, length: int) -> bytes:
    """Reads a file in a tar archive whose header is at `offset`."""

def close_oldest_file() -> bool:
    """Closes a shard that Loaders keep open, to free its descriptor; False if there is none."""

def read_record(path: Union[str, bytes], offset: int, length: int, verify_crc: bool) -> bytes: ...
def class_label(
    data: _Bytes, image_key: str, label_key: str, label_offset: int, required: bool
) -> int: ...
def feature_names(data: _Bytes) -> str:
    """The names of a record's features, for an error message."""

def parse_example(data: _Bytes, image_key: str, label_key: str) -> Tuple[bytes, Optional[int]]: ...
def decode_jpeg(
    data: _Bytes,
    region: Optional[Tuple[int, int, int, int]] = None,
    plain: bool = False,
    max_pixels: int = MAX_PIXELS,
    fast_dct: bool = False,
) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG or PNG, or the region (top, left, height, width) of it.

    With `plain`, libjpeg-turbo does all of a JPEG; with `fast_dct`, by its fast integer DCT.
    """

def image_size(data: _Bytes, max_pixels: int = MAX_PIXELS) -> Tuple[int, int]:
    """Height and width of a JPEG or PNG, from its header."""

def kernels() -> List[str]:
    """Names of the instruction sets that this build and this processor have, best first."""

class Renderer:
    def __init__(
        self, plan: Plan, *, seed: int, dtype: str, layout: str, kernels: str = ""
    ) -> None: ...
    def views(
        self, encoded: _Bytes, class_label: int, record: int, epoch: int
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The views and the label of one record, without the batch dimension."""

class Batcher:
    """Threads that fill batches.

    `records` is what `Records.core_arguments` gives. `records["open"]` is None, or a function that
    opens a shard, given its number, and returns a file descriptor that the Batcher then owns.
    Several threads call it at once. If it raises, that is an error even with `skip_errors`.
    """

    def __init__(self, plan: Plan, records: Dict[str, Any], config: Dict[str, Any]) -> None: ...
    def seek(self, epoch: int, batch: int) -> None: ...
    def next(
        self,
    ) -> Tuple[
        Optional[np.ndarray],
        Optional[np.ndarray],
        Optional[np.ndarray],
        Optional[Tuple[str, Optional[int], int, str]],
    ]:
        """Image, label, index, None; or three times None and (path, offset, record, reason)."""

    def stats(self) -> Dict[str, Any]: ...
    def take_skipped(self) -> List[Tuple[str, Optional[int], int, str]]: ...
    def take_row_fault(self) -> str:
        """What went wrong with the row index since the last call; "" if nothing did."""

    def forget(self, shard: int) -> None:
        """Closes the file of a shard."""

    def close(self) -> None: ...
