"""Cached lists of image folders and indexes of tar archives: what is believed fits together.

The last byte of the input says which of the two it is. Before it an index has the sizes of the
shards as two bytes each, and their number; a size of 0xffff is one that is not known.
"""

import struct
import sys

import atheris
import files
from pretexture.loader import _core
from pretexture.loader.shards import image_folder, webdataset

files.instrument(image_folder)
files.instrument(webdataset)
FILE = files.scratch("lists")
LIST = struct.Struct("<8s6QI4x")
INDEX = struct.Struct("<8sQQI4x")


def split(data):
    """The index, and the shards' sizes."""
    shards = data[-1] % 5 if data else 0
    end = len(data) - 1 - 2 * shards
    if end < 0:
        return data, []
    sizes = struct.unpack_from(f"<{shards}H", data, end)
    return data[:end], [None if size == 0xFFFF else size for size in sizes]


def check_list(listing):
    """Every class has its files, and every file its name, size and time."""
    begin = listing.begin.tolist()
    names = listing.names.split(b"\0")[:-1]
    assert len(listing.classes.split(b"\0")) - 1 == len(begin) - 1 >= 1
    assert len(listing.folders.split(b"\0")) - 1 == len(listing.stamps) >= 1
    assert begin[0] == 0
    assert begin == sorted(begin)
    assert begin[-1] == len(names) == len(listing.files) >= 1
    assert all(0 <= size <= 1 << 30 for size in listing.files[:, 0].tolist())
    image_folder._found("root", listing, [], "all", None)


def check_index(found, sizes):
    """The records of each shard lie in it, one after the other."""
    begins = found.shard_begin.tolist()
    records = list(zip(found.offsets.tolist(), found.lengths.tolist()))
    assert len(begins) == len(sizes) + 1
    assert begins[0] == 0
    assert begins[-1] == len(records) == len(found.labels)
    assert all(label >= -1 for label in found.labels.tolist())
    for begin, end, size in zip(begins, begins[1:], sizes):
        assert begin < end <= len(records)
        at = 0
        for offset, length in records[begin:end]:
            assert offset >= at
            assert offset % 512 == 0
            at = offset + 512 + length
        assert size is None or at <= size


def test_one_input(data):
    if not data:
        return
    if data[-1] % 2:
        files.write(FILE, data[:-1])
        try:
            listing = image_folder.read_listing(FILE)
        except ValueError as error:
            assert str(error)
        else:
            check_list(listing)
        return
    body, sizes = split(data[:-1])
    files.write(FILE, body)
    try:
        found = webdataset.read_index(FILE, sizes)
    except ValueError as error:
        assert str(error)
    else:
        check_index(found, sizes)


def sound_list(seed):
    """A list of two classes and some files."""
    names = b"".join(b"%d.jpg\0" % i for i in range(seed % 4 + 1))
    count = names.count(b"\0")
    parts = [
        b"\0a\0b\0",
        struct.pack("<6q", *range(6)),
        b"a\0b\0",
        struct.pack("<3Q", 0, count // 2, count),
        names,
        struct.pack(f"<{2 * count}q", *range(2 * count)),
    ]
    body = b"".join(parts)
    header = LIST.pack(b"PTXFILE1", *map(len, parts), _core.masked_crc32c(body))
    return header + body + b"\1"


def mutate(data, max_size, seed):
    """A mutation, and most of the time a header that fits: no mutation would ever find one."""
    if seed % 32 == 0 or not data:
        return sound_list(seed // 32)
    data = atheris.Mutate(data, max_size)
    if seed % 8 == 0 or not data:
        return data
    kind, data = data[-1:], data[:-1]
    if kind[0] % 2:
        if len(data) < LIST.size:
            return data + kind
        _, *sizes, _ = LIST.unpack_from(data)
        content = data[LIST.size :]
        if sum(sizes) != len(content) and sum(sizes[:5]) <= len(content):
            sizes[5] = len(content) - sum(sizes[:5])
        return LIST.pack(b"PTXFILE1", *sizes, _core.masked_crc32c(content)) + content + kind
    body, sizes = split(data)
    if len(body) < INDEX.size:
        return data + kind
    content = body[INDEX.size :]
    records = (len(content) - 8 * (len(sizes) + 1)) // 16
    if seed % 8 > 1 and records >= 0:
        content = content[: 8 * (len(sizes) + 1) + 16 * records]
    fields = b"PTXTARS1", len(sizes), max(0, records), _core.masked_crc32c(content)
    return INDEX.pack(*fields) + content + data[len(body) :] + kind


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
