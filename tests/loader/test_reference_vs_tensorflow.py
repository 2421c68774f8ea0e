"""The reference backend against TensorFlow's own ops."""

import fractions

import numpy as np
import pytest
from jpegs import KINDS, cmyk_jpeg, jpeg, photograph, sample_images
from pretexture.loader.backends.reference import (
    ops as reference_ops,
)
from pretexture.loader.backends.reference import (
    records as reference_records,
)
from pretexture.loader.backends.reference import (
    renderer as reference,
)
from pretexture.loader.epoch.draws import Draws, below, inception_crop, uniform
from pretexture.loader.language import ops
from pretexture.loader.language.pipeline import Pipeline

tf = pytest.importorskip("tensorflow")
if not hasattr(tf, "compat") or not tf.executing_eagerly():
    pytest.skip("compares with tf.image as it is in TensorFlow 2", allow_module_level=True)

# TensorFlow computes sample positions in float32. Near index 300 they are off by some 3e-5 of a
# pixel, and a step from black to white next to one makes that 0.01 grey levels.
TOLERANCE = 0.02


def tf_decode(data):
    # TensorFlow's default, IFAST, is the less accurate DCT; the published code has it.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 65), (120, 157)])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_bit_identical(kind, size):
    data = jpeg(*size, kind=kind)
    np.testing.assert_array_equal(reference_records.decode_image(data), tf_decode(data))


@pytest.mark.parametrize("ycck", [False, True])
def test_decoding_four_channels_is_bit_identical(ycck):
    data = cmyk_jpeg(41, 67, ycck)
    np.testing.assert_array_equal(reference_records.decode_image(data), tf_decode(data))


def test_decoding_photographs_is_bit_identical():
    for example in sample_images(every=20):
        data, _ = reference.parse_example(example, "image/encoded", "image/class/label")
        np.testing.assert_array_equal(reference_records.decode_image(data), tf_decode(data))


def test_an_orientation_tag_changes_nothing():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = jpeg(20, 30)
    data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    np.testing.assert_array_equal(reference_records.decode_image(data), tf_decode(data))


@pytest.mark.parametrize("lost", [1, 2, 3, 100])
def test_data_that_end_early_are_an_error_in_both(lost):
    data = jpeg(50, 50)[:-lost]
    with pytest.raises(ValueError, match="the data end early"):
        reference_records.decode_image(data)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf_decode(data)


def test_damage_that_libjpeg_only_warns_of_is_tolerated_by_both():
    data = jpeg(50, 50)
    for damaged in (data[: len(data) * 2 // 3] + b"\xff\xd9", data[:-2] + b"junk" + data[-2:]):
        np.testing.assert_array_equal(reference_records.decode_image(damaged), tf_decode(damaged))


SIZES = [
    ((100, 120), (50, 60)),
    ((100, 120), (224, 224)),
    ((97, 113), (64, 31)),
    ((300, 211), (37, 97)),
    ((5, 3), (16, 16)),
    ((1, 1), (4, 4)),
    ((7, 300), (7, 1)),
    ((64, 64), (64, 64)),
]


def noise(size, seed=0):
    return np.random.RandomState(seed).uniform(0, 255, (*size, 3)).astype(np.float32)


def ours(image, target, method, coords="half_pixel", antialias=False):
    return reference_ops.resize(image, *target, method, coords, antialias)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("antialias", [False, True])
def test_bilinear(source, target, antialias):
    image = noise(source)
    np.testing.assert_allclose(
        ours(image, target, "bilinear", antialias=antialias),
        tf.image.resize(image, target, "bilinear", antialias=antialias),
        rtol=0,
        atol=TOLERANCE,
    )


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bilinear_of_tensorflow_1(source, target):
    image = noise(source)
    expected = tf.compat.v1.image.resize_bilinear(image[None], target)[0]
    result = ours(image, target, "bilinear", "tf1")
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("coords", ["half_pixel", "tf1"])
def test_nearest(source, target, coords):
    image = noise(source)
    if coords == "tf1":
        expected = tf.compat.v1.image.resize_nearest_neighbor(image[None], target)[0].numpy()
    else:
        expected = tf.image.resize(image, target, "nearest").numpy()
    result = ours(image, target, "nearest", coords)
    # Between two pixels the rounding of a position decides, which differs.
    rows, columns = (on_an_edge(s, t, coords) for s, t in zip(source, target))
    np.testing.assert_array_equal(result[~rows][:, ~columns], expected[~rows][:, ~columns])
    assert rows.mean() < 0.3 or source[0] <= target[0]


def on_an_edge(source, target, coords):
    """Whether each position is on the border of two pixels and subject to rounding errors."""
    if (source / target * 4) % 1 == 0:
        return np.zeros(target, bool)
    twice = 2 * np.arange(target) + (0 if coords == "tf1" else 1)
    return (twice * source) % (2 * target) == 0


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("coords", ["half_pixel", "tf1"])
def test_bicubic(source, target, coords):
    image = noise(source)
    if coords == "tf1":
        expected = tf.compat.v1.image.resize_bicubic(image[None], target)[0]
    else:
        expected = tf.image.resize(image, target, "bicubic")
    difference = np.abs(ours(image, target, "bicubic", coords) - expected)
    # Fractions are rounded to 1/1024. If TensorFlow's float32 fraction rounds the other way, a
    # kernel as steep as 1.5 a pixel changes by 0.0015 an axis of up to 255 grey levels.
    assert np.quantile(difference, 0.9) < TOLERANCE
    assert difference.max() < 1


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_area(source, target):
    image = noise(source)
    expected = tf.compat.v1.image.resize_area(image[None], target)[0]
    np.testing.assert_allclose(ours(image, target, "area"), expected, rtol=0, atol=TOLERANCE)


def test_resize_small_rounds_as_the_published_code_but_for_its_float_errors():
    for side in range(1, 1500, 7):
        for smaller in (1, 3, 100, 333, 375, 500):
            if smaller <= side:
                exact = fractions.Fraction(side * 256, smaller)
                result = reference._round_ratio(side * 256, smaller)
                ratio = tf.cast(256, tf.float32) / tf.cast(smaller, tf.float32)
                published = int(tf.round(tf.cast(side, tf.float32) * ratio))
                assert result == round(exact)
                assert result == published or exact.denominator == 2


def test_central_fraction():
    for height, width in [(1, 2), (7, 8), (15, 16), (17, 100), (333, 500), (500, 375)]:
        image = noise((height, width))
        result = reference._central_fraction(
            ops.CentralFraction(0, 0.875), image, 0, Draws(0, 0, 0)
        )
        np.testing.assert_array_equal(result, tf.image.central_crop(image, 0.875))


COLOURS = {
    "noise": noise((40, 50)),
    "beyond the range": noise((40, 50)) * 1.25 - 32,
    "grey": np.repeat(noise((8, 9))[..., :1], 3, 2),
    "photograph": photograph(60, 50).astype(np.float32),
    "black": np.zeros((4, 5, 3), np.float32),
}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.5])
def test_saturation_in_and_beyond_the_range(name, factor):
    image = COLOURS[name]
    expected = tf.image.adjust_saturation(image / 255, factor).numpy() * 255
    result = reference_ops._saturate(image, factor)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("turn", [-0.2, -0.03, 0.0, 0.11, 0.2])
def test_hue(name, turn):
    image = COLOURS[name]
    expected = tf.image.adjust_hue(image / 255, turn).numpy() * 255
    np.testing.assert_allclose(reference_ops._turn_hue(image, turn), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_contrast(name, factor):
    image = COLOURS[name]
    expected = tf.image.adjust_contrast(image / 255, factor).numpy() * 255
    result = reference_ops._contrast(image, factor)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("order", reference_ops.DISTORT_ORDERS + reference_ops.DISTORT_FAST_ORDERS)
def test_distortion_in_every_order(order):
    image = COLOURS["photograph"]
    expected = image / 255
    for change in order:
        expected = {
            "brightness": lambda x: tf.image.adjust_brightness(x, -0.07),
            "saturation": lambda x: tf.image.adjust_saturation(x, 1.4),
            "hue": lambda x: tf.image.adjust_hue(x, 0.13),
            "contrast": lambda x: tf.image.adjust_contrast(x, 0.7),
        }[change](expected)
    expected = tf.clip_by_value(expected, 0, 1).numpy() * 255
    result = reference_ops.distort(image, order, -0.07 * 255, 1.4, 0.13, 0.7)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", COLOURS)
def test_standardization(name):
    image = COLOURS[name]
    expected = tf.image.per_image_standardization(image)
    np.testing.assert_allclose(reference_ops.standardize(image), expected, rtol=0, atol=1e-4)


def test_rotation_turns_as_tensorflow_does():
    renderer = reference.Renderer(
        Pipeline("center_crop(20)|rotate").compile(False),
        seed=0,
        dtype="float32",
        layout="NHWC",
    )
    data = jpeg(24, 31)
    image, label = renderer.views(data, 0, 0, 0)
    upright = tf_decode(data)[2:22, 5:25]
    for k in range(4):
        np.testing.assert_array_equal(image[k], tf.image.rot90(upright, k))
    np.testing.assert_array_equal(label, [0, 1, 2, 3])


@pytest.mark.parametrize("coords", ["half_pixel", "tf1"])
def test_an_inception_view_is_what_tensorflow_makes_of_the_same_draws(coords):
    plan = Pipeline(f"inception(40, 50, coords='{coords}')").compile(True)
    crop, _, flip, distort, _ = plan.ops
    renderer = reference.Renderer(plan, seed=5, dtype="float32", layout="NHWC")
    data = jpeg(90, 120)
    for record in range(20):
        draws = Draws(5, 3, record)
        top, left, height, width = inception_crop(
            draws, crop.stream, 0, 90, 120, (0.05, 1.0), (3 / 4, 4 / 3)
        )
        image = tf.image.convert_image_dtype(tf_decode(data), tf.float32)
        image = tf.slice(image, [top, left, 0], [height, width, 3])
        if coords == "tf1":
            image = tf.compat.v1.image.resize_bilinear(image[None], [40, 50])[0]
        else:
            image = tf.image.resize(image, [40, 50])
        if uniform(draws.block(flip.stream, 0)[0]) < 0.5:
            image = tf.image.flip_left_right(image)
        words = draws.block(distort.stream, 0)
        brightness = (uniform(words[1]) * 2 - 1) * 32 / 255
        if words[0] < 2**30:
            image = tf.image.adjust_brightness(image, brightness)
            image = tf.image.adjust_saturation(image, 0.5 + uniform(words[2]))
        else:
            image = tf.image.adjust_saturation(image, 0.5 + uniform(words[2]))
            image = tf.image.adjust_brightness(image, brightness)
        expected = (tf.clip_by_value(image, 0, 1) - 0.5) * 2
        result, _ = renderer.views(data, 0, record, 3)
        np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE * 2 / 255)


def test_patches_are_those_of_the_published_code():
    """`crop_patches` there: cells by crop_to_bounding_box, then a random crop of each."""
    plan = Pipeline("resize(292)|crop(255)|patches(3, jitter=21)|standardize").compile(True)
    _, crop, patches, _ = plan.ops
    renderer = reference.Renderer(plan, seed=1, dtype="float32", layout="NHWC")
    data = jpeg(100, 130)
    result, _ = renderer.views(data, 0, 9, 0)
    draws = Draws(1, 0, 9)
    image = tf.image.resize(tf_decode(data), [292, 292])
    words = draws.block(crop.stream, 0)
    image = tf.image.crop_to_bounding_box(image, below(words[0], 38), below(words[1], 38), 255, 255)
    for number in range(9):
        row, column = divmod(number, 3)
        cell = tf.image.crop_to_bounding_box(image, row * 85, column * 85, 85, 85)
        words = draws.block(patches.stream, number)
        patch = tf.image.crop_to_bounding_box(
            cell, below(words[0], 22), below(words[1], 22), 64, 64
        )
        expected = tf.image.per_image_standardization(patch)
        np.testing.assert_allclose(result[number], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(120, 160), (300, 60), (40, 40)])
def test_inception_crops_are_distributed_as_tensorflow_draws_them(size):
    height, width = size
    area, aspect = (0.05, 1.0), (3 / 4, 4 / 3)
    draw = tf.function(
        lambda: tf.image.sample_distorted_bounding_box(
            [height, width, 3],
            tf.zeros([1, 0, 4]),
            area_range=area,
            aspect_ratio_range=aspect,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
            min_object_covered=0.1,
        )[:2]
    )
    tf.random.set_seed(0)
    n = 1500
    theirs, mine = [], []
    for record in range(n):
        begin, extent = draw()
        theirs.append([*begin.numpy()[:2], *extent.numpy()[:2]])
        mine.append(inception_crop(Draws(0, 0, record), 0, 0, height, width, area, aspect))
    for values in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0]):
        a, b = values(np.array(theirs)), values(np.array(mine))
        both = np.concatenate([a, b])
        distance = np.abs(
            np.searchsorted(np.sort(a), both, "right") - np.searchsorted(np.sort(b), both, "right")
        ).max()
        # Two samples of one distribution are this far apart once in 10,000 times.
        assert distance / n < 2.2 * np.sqrt(2 / n)


def test_without_the_last_position_crops_lie_where_tensorflow_puts_them():
    height, width, aspect = 5, 6, (0.75, 1.33)

    @tf.function
    def draw(count):
        def one(_):
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                [height, width, 3],
                tf.zeros([1, 0, 4]),
                area_range=(0.05, 1.0),
                aspect_ratio_range=aspect,
                use_image_if_no_bounding_boxes=True,
            )
            return tf.concat([begin[:2], size[:2]], 0)

        return tf.map_fn(one, tf.range(count))

    tf.random.set_seed(0)
    theirs = {tuple(window) for window in draw(20000).numpy().tolist()}
    mine = {
        inception_crop(Draws(0, 0, record), 0, 0, height, width, (0.05, 1.0), aspect, False)
        for record in range(20000)
    }
    assert theirs == mine
    edge = [w for w in theirs if w[0] + w[2] == height > w[2] or w[1] + w[3] == width > w[3]]
    assert len(theirs) > 20 and not edge


def test_records_that_tensorflow_writes(tmp_path):
    path = str(tmp_path / "shard")
    image = jpeg(9, 9)
    bytes_list, int64_list = tf.train.BytesList, tf.train.Int64List
    labelled = {
        "image/encoded": tf.train.Feature(bytes_list=bytes_list(value=[image])),
        "image/class/label": tf.train.Feature(int64_list=int64_list(value=[7])),
    }
    examples = [
        tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
        for feature in (labelled, {"image/encoded": labelled["image/encoded"]}, {})
    ]
    with tf.io.TFRecordWriter(path) as writer:
        for example in examples:
            writer.write(example)
    keys = ("image/encoded", "image/class/label")
    offset = 0
    for example in examples:
        data = reference.read_record(path, offset, len(example), True)
        assert data == example
        offset += len(example) + 16
    assert reference.parse_example(examples[0], *keys) == (image, 7)
    assert reference.parse_example(examples[1], *keys) == (image, None)
    with pytest.raises(ValueError, match="no feature 'image/encoded' with bytes in it"):
        reference.parse_example(examples[2], *keys)
