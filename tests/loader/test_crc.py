"""CRC-32C, with the processor's instruction and from tables."""

import random
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretexture.loader import _core

# RFC 3720, appendix B.4, and the check value of the catalogue of parametrised CRC algorithms.
VECTORS = [
    (b"", 0),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
]


@pytest.mark.parametrize("function", [_core.crc32c, _core.crc32c_portable])
def test_the_published_vectors(function):
    for data, expected in VECTORS:
        assert function(data) == expected


def bitwise(data):
    """The definition: division by the reversed polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_both_follow_the_definition(data):
    assert _core.crc32c(data) == _core.crc32c_portable(data) == bitwise(data)


def test_both_agree_at_every_size_and_alignment():
    data = np.random.RandomState(0).bytes(3 * 12288 + 100)
    rng = random.Random(0)
    sizes = [*range(70), 4095, 4096, 12287, 12288, 12289, 24576, 36864]
    for size in sizes + [rng.randrange(len(data) - 16) for _ in range(30)]:
        for align in range(16):
            part = memoryview(data)[align : align + size]
            assert _core.crc32c(part) == _core.crc32c_portable(part)


def test_masking_is_that_of_tensorflow(tf, tmp_path):
    path = str(tmp_path / "shard")
    record = b"a record" * 1000
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record)
    with open(path, "rb") as file:
        data = file.read()
    assert struct.unpack("<I", data[8:12])[0] == _core.masked_crc32c(data[:8])
    assert struct.unpack("<I", data[-4:])[0] == _core.masked_crc32c(record)


def test_any_contiguous_bytes_are_taken():
    array = np.frombuffer(b"123456789", np.uint8)
    for data in (bytearray(b"123456789"), memoryview(b"123456789"), array, array.reshape(9)):
        assert _core.crc32c(data) == 0xE3069283
    assert _core.crc32c(np.zeros(8, np.float32)) == 0x8A9136AA
    with pytest.raises(ValueError, match="contiguous"):
        _core.crc32c(array[::2])
