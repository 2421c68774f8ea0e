"""Writes TFRecord shards, without TensorFlow.

with TFRecordWriter("data/train-00000-of-00001") as writer:
    writer.write(example({"image/encoded": jpeg, "image/class/label": 1}))
"""

import os
import struct
from typing import BinaryIO, Optional, Union

from .._core import masked_crc32c
from .example_proto import example, parse_example

__all__ = ["TFRecordWriter", "example", "parse_example"]


class TFRecordWriter:
    """Writes one shard, which appears under its name complete or not at all.

    Records go to a hidden file in the same folder. `close`, or the end of a `with` block, renames
    that file; `discard`, or an exception in the block, removes it.

    Args:
        path: path of the shard. `close` replaces a file of that name.

    Attributes:
        path: path of the shard.
        records: number of records written so far.
        bytes: size of the shard so far.

    Raises: OSError.
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"]):
        self.path = os.fspath(path)
        self.records = 0
        self.bytes = 0
        folder, name = os.path.split(self.path)
        # The file is hidden so that a pattern such as train-* does not match what a killed process
        # has left.
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
        self._file: Optional[BinaryIO] = open(self._temporary, "wb")  # noqa: SIM115

    def write(self, record: Union[bytes, bytearray, memoryview]) -> None:
        """Appends a record: length, checksum of the length, data, checksum of the data."""
        if self._file is None:
            raise ValueError(f"the writer of {self.path} is closed")
        data = bytes(record)
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", masked_crc32c(length)))
        self._file.write(data)
        self._file.write(struct.pack("<I", masked_crc32c(data)))
        self.records += 1
        self.bytes += len(data) + 16

    def close(self) -> None:
        """Completes the shard and gives it its name. A second call does nothing."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise
        self._file = None

    def discard(self) -> None:
        """Removes what was written. A file that already had the shard's name stays as it was."""
        file = self._file
        if file is None:
            return
        self._file = None
        try:
            file.close()
        finally:
            os.unlink(self._temporary)

    def __enter__(self) -> "TFRecordWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
