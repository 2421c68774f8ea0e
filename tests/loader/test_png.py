"""PNG records: ImageNet has one, and TensorFlow's decode_jpeg takes it."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from pretexture.loader import Loader, RecordError, TFRecords, _core

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
# All that the PNG specification (ISO/IEC 15948, 11.2.2) allows.
DEPTHS = {GRAY: [1, 2, 4, 8, 16], RGB: [8, 16], PALETTE: [1, 2, 4, 8]}
KINDS = [(color, depth) for color in CHANNELS for depth in DEPTHS.get(color, [8, 16])]
ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(row, before, step, kind):
    """One row by one of the five filters (ISO/IEC 15948, 9.2)."""
    row, before = (
        np.frombuffer(row, np.uint8).astype(int),
        np.frombuffer(before, np.uint8).astype(int),
    )
    left = np.concatenate([np.zeros(step, int), row])[: len(row)]
    corner = np.concatenate([np.zeros(step, int), before])[: len(row)]
    guess = left + before - corner
    near = np.stack([abs(guess - left), abs(guess - before), abs(guess - corner)])
    paeth = np.choose(near.argmin(0), [left, before, corner])
    by = [0, left, before, (left + before) // 2, paeth][kind]
    return bytes([kind]) + ((row - by) % 256).astype(np.uint8).tobytes()


def packed(samples, depth):
    """Rows of samples [H, N] as bytes."""
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in samples]
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in samples]
    bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return list(map(bytes, np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)))


def png(height, width, color, depth, *, interlaced=False, transparent=False, seed=0, chunks=()):
    """A PNG of random samples, by the letter of the specification; no library is asked."""
    rng = np.random.default_rng((seed, height, width, color, depth))
    samples = rng.integers(0, 2**depth, (height, width, CHANNELS[color]))
    step = max(1, CHANNELS[color] * depth // 8)
    raw = b""
    for y, x, down, across in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = samples[y::down, x::across]
        if part.size:
            rows = packed(part.reshape(len(part), -1), depth)
            befores = [bytes(len(rows[0])), *rows]
            raw += b"".join(
                filtered(row, before, step, n % 5)
                for n, (row, before) in enumerate(zip(rows, befores))
            )
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)
    if color == PALETTE:
        data += chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth).astype(np.uint8).tobytes())
    if transparent:
        value = {GRAY: 2, RGB: 6, PALETTE: 2}[color]
        data += chunk(b"tRNS", bytes(value))
    compressed = zlib.compress(raw)
    half = len(compressed) // 2  # in two chunks, as encoders cut long data
    return (
        data
        + chunk(b"IDAT", compressed[:half])
        + chunk(b"IDAT", compressed[half:])
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def tf_decode(tf):
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.string, [])
        pixels = tf.io.decode_jpeg(data, channels=3)
    session = tf.compat.v1.Session(graph=graph)
    return lambda encoded: session.run(pixels, {data: encoded})


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_pixels_are_those_of_tensorflows_decode_jpeg(kind, interlaced, tf_decode):
    for height, width in [(1, 1), (1, 9), (5, 1), (7, 13), (33, 20)]:
        data = png(height, width, *kind, interlaced=interlaced)
        np.testing.assert_array_equal(_core.decode_jpeg(data), tf_decode(data))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k[0] in (GRAY, RGB, PALETTE)], ids=str)
def test_a_transparent_colour_changes_no_pixel(kind, interlaced, tf_decode):
    data = png(9, 14, *kind, interlaced=interlaced, transparent=True)
    np.testing.assert_array_equal(_core.decode_jpeg(data), tf_decode(data))


def test_a_gamma_or_a_background_changes_no_pixel(tf_decode):
    gamma, background = chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"bKGD", bytes([0, 9] * 3))
    data = png(9, 14, RGBA, 8, chunks=[gamma])
    np.testing.assert_array_equal(_core.decode_jpeg(data), tf_decode(data))
    data = png(9, 14, RGB, 8, chunks=[background, chunk(b"tEXt", b"Comment\0none")])
    np.testing.assert_array_equal(_core.decode_jpeg(data), tf_decode(data))


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_region_is_a_part_of_the_whole(interlaced):
    data = png(21, 30, RGB, 8, interlaced=interlaced)
    whole = _core.decode_jpeg(data)
    for top, left in itertools.product((0, 5, 20), (0, 11, 29)):
        height, width = min(6, 21 - top), min(8, 30 - left)
        region = _core.decode_jpeg(data, (top, left, height, width))
        np.testing.assert_array_equal(region, whole[top : top + height, left : left + width])


def test_what_tensorflow_refuses_is_refused(tf_decode):
    data = png(20, 20, RGB, 8)
    refused = 0
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        try:
            expected = tf_decode(damaged)
        except Exception:
            refused += 1
            with pytest.raises(ValueError):
                _core.decode_jpeg(damaged)
        else:
            np.testing.assert_array_equal(_core.decode_jpeg(damaged), expected)
    assert refused > 100
    for size in range(8, len(data), 7):
        with pytest.raises(ValueError, match="the PNG cannot be decoded"):
            _core.decode_jpeg(data[:size])


def test_a_png_larger_than_the_limit_is_refused():
    data = png(20, 30, GRAY, 1)
    with pytest.raises(ValueError, match="the PNG claims 30x20 pixels, more than max_pixels=599"):
        _core.decode_jpeg(data, max_pixels=599)
    assert _core.decode_jpeg(data, max_pixels=600).shape == (20, 30, 3)


@pytest.mark.parametrize("backend", ["native", "reference", "dali"])
def test_a_png_among_jpegs_is_a_record_like_any_other(
    backend, write_shards, images, tmp_path, tf_decode
):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    else:
        pytest.importorskip("cv2")
    encoded = png(64, 64, RGB, 8)
    paths = write_shards(tmp_path, [images[0], encoded, images[1]])
    with Loader(
        TFRecords(paths), "crop(64)", 3, training=False, dtype="uint8", backend=backend
    ) as loader:
        (batch,) = loader
    np.testing.assert_array_equal(batch.image[1], tf_decode(encoded))
    assert batch.label.tolist() == [0, 1, 2]


def test_a_broken_png_is_skipped_like_a_broken_jpeg(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, [images[0], png(64, 64, RGB, 8)[:-60], images[1]])
    with Loader(TFRecords(paths), "crop(64)", 3, training=False) as loader, pytest.raises(
        RecordError, match=r"\(record 1\): the PNG cannot be decoded: the data end early"
    ):
        list(loader)
    with Loader(TFRecords(paths), "crop(64)", 3, training=False, on_error="skip") as loader:
        (batch,) = loader
        assert 1 not in batch.index
        assert loader.stats.skipped == 1
