"""JPEG decoding: a full decode is TensorFlow's, a region is a part of a full decode."""

import functools
import io
import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretexture.loader import Loader, TFRecords, _core
from pretexture.loader.shards import writer as writing

pytest.importorskip("cv2")
pytest.importorskip("PIL")
from jpegs import KINDS, cmyk_jpeg, jpeg, sample_images

FOUR_CHANNELS = {"CMYK": False, "YCCK": True}
EVERY_KIND = [*KINDS, *FOUR_CHANNELS]
SIZES = [(1, 1), (1, 40), (7, 5), (16, 16), (17, 33), (48, 65)]


@functools.lru_cache(maxsize=None)
def made(kind, height, width):
    if kind in FOUR_CHANNELS:
        return cmyk_jpeg(height, width, ycck=FOUR_CHANNELS[kind])
    return jpeg(height, width, kind)


@pytest.fixture(scope="session")
def tf_decode(tf):
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.string, [])
        # TensorFlow's default is the fast DCT, which is off by up to 15 grey levels.
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    session = tf.compat.v1.Session(graph=graph)
    return lambda encoded: session.run(pixels, {data: encoded})


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("size", [(7, 5), (48, 65)])
def test_the_fast_dct_is_that_of_tensorflow_by_default(kind, size, tf):
    data = made(kind, *size)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        expected = session.run(tf.io.decode_jpeg(data, channels=3))
    for plain in (True, False):
        found = _core.decode_jpeg(data, plain=plain, fast_dct=True)
        np.testing.assert_array_equal(found, expected)


def test_photographs_decode_fast_as_in_tensorflow(tf, tmp_path):
    examples = list(itertools.islice(sample_images(every=40), 12))
    names = ("image/encoded", "image/class/label")
    images = [_core.parse_example(e, *names)[0] for e in examples]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        expected = [session.run(tf.io.decode_jpeg(image, channels=3)) for image in images]
    for image, whole in zip(images, expected):
        found = _core.decode_jpeg(image, fast_dct=True)
        np.testing.assert_array_equal(found, whole)
        assert not np.array_equal(found, _core.decode_jpeg(image))
        height, width = (side // 3 for side in whole.shape[:2])
        region = _core.decode_jpeg(image, (height, width, height, width), fast_dct=True)
        np.testing.assert_array_equal(region, whole[height : 2 * height, width : 2 * width])
    # Through a Loader, by each backend.
    with writing.TFRecordWriter(tmp_path / "shard") as writer:
        for image in images:
            writer.write(writing.example({"image/encoded": image, "image/class/label": 1}))
    for backend in ("native", "reference"):
        how = {"dtype": "uint8", "training": False, "backend": backend, "dct": "fast"}
        with Loader(TFRecords(tmp_path / "shard"), "crop(64)", len(images), **how) as loader:
            (batch,) = loader
        for found, whole in zip(batch.image, expected):
            top, left = (side // 2 - 32 for side in whole.shape[:2])
            np.testing.assert_array_equal(found, whole[top : top + 64, left : left + 64])
    with pytest.raises(ValueError, match="dct must be one of accurate, fast, not 'slow'"):
        Loader(TFRecords(tmp_path / "shard"), "crop(64)", 1, dct="slow")


def skip_where_smoothing_differs(tf):
    """If scans are missing, libjpeg-turbo 2.1 and later smooths in another way than before."""
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("this TensorFlow has libjpeg-turbo 2.0")


def outcome(function, *args):
    """The pixels, or None if the data is refused."""
    try:
        return function(*args)
    except Exception as error:
        if function is _core.decode_jpeg:
            assert type(error) is _core.CoreError, error
        return None


def same(a, b):
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def segments(data, *kinds):
    """The offsets of the marker segments of these kinds."""
    return [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] in kinds]


DHT, SOI, EOI, SOS, DQT = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB
END = bytes([0xFF, EOI])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_full_decode_is_tensorflows_bit_for_bit(kind, size, tf_decode):
    data = made(kind, *size)
    np.testing.assert_array_equal(_core.decode_jpeg(data), tf_decode(data))


def test_photographs_decode_as_in_tensorflow(tf_decode, tf):
    for example in sample_images(every=60):
        image, _ = _core.parse_example(example, "image/encoded", "image/class/label")
        whole = _core.decode_jpeg(image)
        np.testing.assert_array_equal(whole, tf_decode(image))
        height, width, _ = whole.shape
        for _ in range(3):
            check_region(image, whole, *drawn_region(random.Random(height), height, width))


def check_region(data, whole, top, left, height, width):
    region = _core.decode_jpeg(data, (top, left, height, width))
    expected = whole[top : top + height, left : left + width]
    assert np.array_equal(region, expected), (top, left, height, width, whole.shape)


def drawn_region(rng, height, width):
    top, left = rng.randrange(height), rng.randrange(width)
    return top, left, rng.randint(1, height - top), rng.randint(1, width - left)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_region_of_a_small_image_is_a_part_of_it(kind):
    data = made(kind, 7, 18)
    whole = _core.decode_jpeg(data)
    for top, bottom in itertools.combinations(range(8), 2):
        for left, right in itertools.combinations(range(19), 2):
            check_region(data, whole, top, left, bottom - top, right - left)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_regions_along_every_edge_are_parts_of_the_image(kind):
    height, width = 50, 83
    data = made(kind, height, width)
    whole = _core.decode_jpeg(data)
    for x in range(width):
        check_region(data, whole, 0, x, height, 1)
        check_region(data, whole, 0, x, 3, width - x)
        check_region(data, whole, height - 2, 0, 2, x + 1)
    for y in range(height):
        check_region(data, whole, y, 0, 1, width)
        check_region(data, whole, y, 0, height - y, 3)
        check_region(data, whole, 0, width - 2, y + 1, 2)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(EVERY_KIND),
    st.sampled_from([*SIZES, (130, 97)]),
    st.integers(0, 2**32),
)
def test_any_region_is_a_part_of_the_image(kind, size, seed):
    data = made(kind, *size)
    check_region(data, _core.decode_jpeg(data), *drawn_region(random.Random(seed), *size))


def test_a_region_beyond_the_image_is_refused():
    data = made("4:2:0", 20, 30)
    most = 2**31 - 1
    for region in [
        (0, 0, 21, 30),
        (0, 0, 20, 31),
        (-1, 0, 5, 5),
        (0, -1, 5, 5),
        (20, 0, 1, 1),
        (0, 30, 1, 1),
        (0, 0, 0, 5),
        (0, 0, 5, 0),
        (0, 0, -1, 5),
        (most, 0, 1, 1),
        (0, most, 1, most),
        (5, 5, most, most),
    ]:
        with pytest.raises(ValueError, match="the region is not within the image"):
            _core.decode_jpeg(data, region)


def without_last_scans(data):
    """A progressive JPEG cut before each of its scans but the first, and properly ended."""
    scans = segments(data, SOS)
    for before, scan in zip(scans, scans[1:]):
        # The scan's Huffman tables stand before it.
        tables = [place for place in segments(data, DHT) if before < place < scan]
        yield data[: min(tables, default=scan)] + END


@pytest.mark.parametrize("height", [9, 50])
def test_progressive_files_that_lack_scans_decode_as_in_tensorflow(height, tf, tf_decode):
    skip_where_smoothing_differs(tf)
    data = made("progressive", height, 70)
    cuts = list(without_last_scans(data))
    assert len(cuts) >= 8
    rng = random.Random(0)
    for cut in cuts:
        whole = _core.decode_jpeg(cut)
        np.testing.assert_array_equal(whole, tf_decode(cut))
        for _ in range(20):
            check_region(cut, whole, *drawn_region(rng, height, 70))


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_data_that_end_early_are_an_error_where_tensorflow_says_so(kind, tf_decode):
    data = made(kind, 17, 33)
    for size in {*range(0, len(data), 37), *range(len(data) - 9, len(data))}:
        assert same(outcome(_core.decode_jpeg, data[:size]), outcome(tf_decode, data[:size])), size
    assert outcome(_core.decode_jpeg, data[: len(data) // 2]) is None


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_end_marker_amid_the_data_leaves_the_rest_grey_as_in_tensorflow(kind, tf, tf_decode):
    if kind == "progressive":
        skip_where_smoothing_differs(tf)
    data = made(kind, 17, 33)
    decoded = 0
    for size in range(2, len(data), 41):
        cut = data[:size] + END
        pixels = outcome(_core.decode_jpeg, cut)
        assert same(pixels, outcome(tf_decode, cut)), size
        decoded += pixels is not None
    assert decoded >= 5


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_stray_bytes_before_a_marker_do_no_harm_as_in_tensorflow(kind, tf_decode):
    data = made(kind, 17, 33)
    whole = _core.decode_jpeg(data)
    for place in segments(data, DHT, DQT, SOS):
        stray = data[:place] + b"\x12\x34\x56" + data[place:]
        np.testing.assert_array_equal(_core.decode_jpeg(stray), whole)
        np.testing.assert_array_equal(tf_decode(stray), whole)


def damage(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(2, len(data))
        change = rng.randrange(4)
        if change == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif change == 1:
            del data[place : place + rng.randint(1, 20)]
        elif change == 2:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        else:
            data[place] = rng.randrange(256)
    return bytes(data)


def claimed_pixels(data):
    """Height x width of the largest frame header; other bytes may look like one."""
    frames = [i for i in segments(data, 0xC0, 0xC1, 0xC2) if i + 9 <= len(data)]
    return max(
        (
            int.from_bytes(data[i + 5 : i + 7], "big") * int.from_bytes(data[i + 7 : i + 9], "big")
            for i in frames
        ),
        default=0,
    )


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_damaged_files_decode_as_in_tensorflow_and_so_do_their_regions(kind, tf, tf_decode):
    if kind == "progressive":
        skip_where_smoothing_differs(tf)
    rng = random.Random(kind)
    intact = made(kind, 40, 56)
    decoded = 0
    for _ in range(60):
        data = damage(rng, intact)
        if claimed_pixels(data) > 1_000_000:
            continue
        whole, expected = outcome(_core.decode_jpeg, data), outcome(tf_decode, data)
        if whole is None:
            assert expected is None
            continue
        decoded += 1
        # TensorFlow reads on behind the last row of pixels, and may find a fault there.
        if expected is not None:
            np.testing.assert_array_equal(whole, expected)
        for _ in range(3):
            check_region(data, whole, *drawn_region(rng, *whole.shape[:2]))
    assert decoded > 20


def test_an_orientation_tag_changes_nothing():
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3)).save(file, "JPEG", exif=exif)
    assert _core.decode_jpeg(file.getvalue()).shape == (10, 20, 3)


def frame_header(data, marker=0xC0, precision=8, height=16, width=16):
    """The JPEG with another frame header."""
    (place,) = segments(data, 0xC0)
    header = bytes([precision]) + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return (
        data[: place + 1]
        + bytes([marker])
        + data[place + 2 : place + 4]
        + header
        + data[place + 9 :]
    )


REFUSED = {
    "empty": (b"", "neither a JPEG nor a PNG but unknown bytes"),
    "text": (b"<html>not found</html>", "neither a JPEG nor a PNG but unknown bytes"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "the PNG cannot be decoded"),
    "GIF": (b"GIF89a" + bytes(50), "neither a JPEG nor a PNG but a GIF"),
    "WebP": (b"RIFF\x32\0\0\0WEBPVP8 " + bytes(50), "neither a JPEG nor a PNG but a WebP"),
    "BMP": (b"BM" + bytes(50), "neither a JPEG nor a PNG but a BMP"),
    "two bytes": (b"\xff\xd8", "neither a JPEG nor a PNG but unknown bytes"),
    "no image": (b"\xff\xd8" + END, "no image"),
}
FRAMES = {
    "huge": ({"height": 65500, "width": 65500}, "65500x65500 pixels, more than max_pixels"),
    "too wide": ({"width": 65535}, "65500 pixels"),
    "no height": ({"height": 0}, "cannot be decoded"),
    "12 bits": ({"marker": 0xC1, "precision": 12}, "precision 12"),
    "lossless": ({"marker": 0xC3}, "SOF type 0xc3"),
    "lossless, arithmetic": ({"marker": 0xCB}, "SOF type 0xcb"),
    "hierarchical": ({"marker": 0xC5}, "SOF type 0xc5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_jpeg_is_named(case):
    data, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        _core.decode_jpeg(data)


@pytest.mark.parametrize("case", FRAMES)
def test_what_no_decoder_takes_is_refused(case, tf_decode):
    fields, reason = FRAMES[case]
    data = frame_header(made("4:2:0", 16, 16), **fields)
    with pytest.raises(ValueError, match=reason):
        _core.decode_jpeg(data)
    assert outcome(tf_decode, data) is None
