"""Cached indexes: what `read_index` believes must fit the shards, record by record.

The input is an index, the sizes of the shards as two bytes each, and their number. A size of 0xffff
is one that is not known.
"""

import struct
import sys

import atheris
import files
from pretexture.loader import _core
from pretexture.loader.shards import index

files.instrument(index)
FILE = files.scratch("index")
HEADER = struct.Struct("<8sQQI4x")


def split(data):
    """The index, and the shards' sizes."""
    shards = data[-1] % 5 if data else 0
    end = len(data) - 1 - 2 * shards
    if end < 0:
        return data, []
    sizes = struct.unpack_from(f"<{shards}H", data, end)
    return data[:end], [None if size == 0xFFFF else size for size in sizes]


def check(found, sizes):
    """Records follow one another from the first byte of each shard to the last."""
    begins = found.shard_begin.tolist()
    records = list(zip(found.offsets.tolist(), found.lengths.tolist()))
    assert len(begins) == len(sizes) + 1
    assert begins[0] == 0
    assert begins[-1] == len(found.offsets) == len(found.lengths)
    for begin, end, size in zip(begins, begins[1:], sizes):
        assert begin < end <= len(records)
        at = 0
        for offset, length in records[begin:end]:
            assert offset == at
            at += length + 16
        assert size in (None, at)


def test_one_input(data):
    body, sizes = split(data)
    files.write(FILE, body)
    try:
        found = index.read_index(FILE, sizes)
    except ValueError as error:
        assert str(error)
    else:
        check(found, sizes)


def mutate(data, max_size, seed):
    """A mutation, and most of the time a header that fits: no mutation would ever find one."""
    data = atheris.Mutate(data, max_size)
    body, sizes = split(data)
    if seed % 8 == 0 or len(body) < HEADER.size:
        return data
    content = body[HEADER.size :]
    records = (len(content) - 8 * (len(sizes) + 1)) // 12
    if seed % 8 > 1 and records >= 0:
        content = content[: 8 * (len(sizes) + 1) + 12 * records]
    fields = b"PTXINDX2", len(sizes), max(0, records), _core.masked_crc32c(content)
    return HEADER.pack(*fields) + content + data[len(body) :]


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
