"""The compiled core against the reference, view by view: the same draws, the same pixels."""

import functools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import KINDS, cmyk_jpeg, jpeg, sample_images
from pretexture.loader import Loader, TFRecords, _core, presets
from pretexture.loader.backends.reference import records as reference_records
from pretexture.loader.backends.reference import renderer as reference
from pretexture.loader.epoch.draws import philox
from pretexture.loader.epoch.order import WindowShuffle, record_at
from pretexture.loader.errors import PipelineError, RecordError
from pretexture.loader.language import ops
from pretexture.loader.language.pipeline import Pipeline
from pretexture.loader.shards.example_proto import Example

KEYS = ("image/encoded", "image/class/label")

# Every step with every kind of argument.
PIPELINES = [
    *[str(preset) for preset in presets.ALL.values()],
    *[f"resize(37, 61, '{method}', '{coords}')" for method in ops.METHODS for coords in ops.COORDS],
    "resize(37, 61, antialias=True)",
    "resize(200, 230, antialias=True)",
    "resize(200, 230, 'bicubic')",
    "resize(40, randomize=True)|flip",
    "resize(40, randomize=True, coords='tf1')|rotate",
    "resize_small(50)|crop(40, 44)|flip",
    "resize_small(50)|center_crop(50)",
    "crop(20)|resize(33, method='bicubic')",
    "crop(30, 20)|resize_small(25)|crop(25)",
    "center_crop(24)|rotate|resize(31, 17)|flip",
    "inception_crop|resize(40, method='area')|flip",
    "inception_crop(area=(0.3, 0.6), aspect=(0.5, 2))|flip|resize(40, coords='tf1')|rotate",
    "inception_crop(aspect=(0.75, 1.33), last_position=False)|resize(40)",
    "gray(0.5, wrap=True)|inception(32, views=3, last_position=False)",
    "flip|crop(30)|gray(wrap=True)|resize(20)|gray",
    "inception(40, 30, fast=False)",
    "inception(40, views=3, coords='tf1')|rotate|standardize",
    "gray(0.5)|crop(30)|distort",
    "resize(40)|distort(fast=False)|flip|gray(0.5)",
    "resize(64)|patches(3, jitter=3)|distort(fast=False)|standardize",
    "resize(61, 50)|patches(2)|flip",
    "resize(60)|patches(3, jitter=2)|jigsaw",
    "resize(60)|patches(3)|jigsaw('maximal-7')",
    "inception(63, views=2)|patches(3)|jigsaw|flip|standardize",
    "resize(60)|patches(3, jitter=4)|pair|gray(0.5)|flip",
    "resize(60)|patches(5)|pair",
    "crop(30)|patches(3)|resize(17, 19)",
    "crop(30)|patches(3)|rotate|crop(8)",
    "crop(30)|normalize",
    "crop(30)|normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))|rotate",
    "range(0, 1)|resize(30)|standardize",
    "inception(20)|standardize",
    "gray(0.7)|inception(50, views=8)|standardize",
    "gray(0.7, weights='luma')|inception(60, views=6)|standardize",
    "resize(200, 230, 'bicubic', antialias=True)|gray(0.5, weights='luma')",
    "resize(21, 17, 'bicubic', antialias=True)|gray(weights='luma')|normalize",
    "gray(0.5)|random_resized_crop(40)|gray(0.5, weights='luma')|color_jitter(0.4, 0.4, 0.4, 0.1)",
    "random_resized_crop(30, area=(0.3, 0.6), aspect=(0.5, 2), method='bicubic')|flip|rotate",
    "random_resized_crop(40, 30, antialias=False)|solarize(p=0.5)|flip",
    "random_resized_crop(47)|flip|color_jitter(0.8, 0.8, 0.8, 0.2, p=0.8)"
    "|gray(0.2, weights='luma')|blur(p=0.5)|range(0, 1)",
    "random_resized_crop(64)|color_jitter((0.2, 3), (0, 2), (0, 4), (-0.5, 0.5))",
    "crop(30)|color_jitter(contrast=0.5)|gray(0.5)|color_jitter(contrast=0.5)|standardize",
    "resize(52, 41)|blur(sigma=2, kernel_size=23)|color_jitter(0, 1)|blur(0.7)|flip",
    "resize(52, 41)|gray(0.5)|blur(kernel_size=39)|standardize",
    "resize(31)|blur(1, kernel_size=5)|blur(2, p=0.5, kernel_size=7)|rotate",
    "resize(40)|gray(0.5)|erase(p=0.8)|normalize",
    "gray(0.5)|resize(40)|rotate|erase(p=0.8, value=(255, 0, 9))|blur(1, kernel_size=3)",
    "resize(33, 44)|flip|erase(1, (0.1, 0.9), (0.1, 10), 'imagenet')|standardize",
]

# Pipelines of several branches, with the class label or that of one branch.
BRANCHES = [
    "2*(random_resized_crop(48, area=(0.4, 1))|flip|color_jitter(0.8, 0.8, 0.8, 0.2)) "
    "+ 6*(random_resized_crop(20, area=(0.05, 0.4))|blur(kernel_size=5))",
    "(inception(32)|standardize) + (inception(32)|standardize)",
    "(resize(40)|normalize) + 3*(crop(30)|rotate|range(-1, 1)) + 1*(gray|resize(24, 31))",
    "2*(inception(40, views=3)) + (resize(60)|patches(3)|jigsaw)",
]


@functools.lru_cache(maxsize=None)
def images():
    """JPEGs of every kind, wide, tall, tiny and larger than any region that is needed of them."""
    sizes = [(90, 120), (131, 77), (64, 64), (33, 200), (300, 250), (47, 31), (160, 161), (40, 300)]
    found = [jpeg(*size, kind=kind, seed=i) for i, (size, kind) in enumerate(zip(sizes, KINDS))]
    return [*found, jpeg(8, 5), jpeg(1, 1)]


def tolerance(plan, dtype, views):
    """A thousandth of a grey level, or one level of uint8; of float16, its rounding besides."""
    if dtype == "uint8":
        return {"rtol": 0, "atol": 1}
    atol = 1e-3
    for op in plan.ops:
        if isinstance(op, ops.Normalize):
            atol = 1e-3 * max(map(abs, op.scale))
        if isinstance(op, ops.Standardize):
            # Rounding is all that there is in a flat view, and it is enlarged by sqrt(n).
            flat = views.reshape(-1, plan.height * plan.width * 3).std(1).min() < 0.9
            atol = 1e-3 * np.sqrt(plan.height * plan.width * 3) if flat else 1e-3
    return {"rtol": 2**-10 if dtype == "float16" else 0, "atol": atol}


def rendered(renderer, *arguments):
    """Views and labels, or the reason why there are none."""
    try:
        return renderer.views(*arguments)
    except ValueError as error:
        return str(error)


def assert_parity(plan, encoded, seed=0, record=0, epoch=0, dtype="float32", layout="NHWC", **core):
    options = {"seed": seed, "dtype": dtype, "layout": layout}
    expected = rendered(reference.Renderer(plan, **options), encoded, 7, record, epoch)
    found = rendered(_core.Renderer(plan, **options, **core), encoded, 7, record, epoch)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return False
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[1].dtype == expected[1].dtype
    views, others = (
        image if isinstance(image, tuple) else (image,) for image in (found[0], expected[0])
    )
    assert len(views) == len(others) == len(plan.branches)
    for branch, view, other in zip(plan.branches, views, others):
        assert (view.shape, view.dtype) == (other.shape, other.dtype)
        limits = tolerance(branch, dtype, other.astype(np.float64))
        np.testing.assert_allclose(view.astype(np.float64), other.astype(np.float64), **limits)
    return True


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", PIPELINES)
def test_every_step_gives_the_same_views(text, training):
    plan = Pipeline(text).compile(training)
    done = [
        assert_parity(plan, encoded, seed=2**40 + 1, record=number, epoch=3)
        for number, encoded in enumerate(images())
    ]
    assert sum(done) >= 6


@pytest.mark.parametrize("text", BRANCHES)
def test_branches_give_the_same_views(text):
    plan = Pipeline(text).compile(True)
    done = [
        assert_parity(plan, encoded, seed=9, record=number, epoch=1)
        for number, encoded in enumerate(images())
    ]
    assert sum(done) >= 6


def test_a_first_branch_draws_as_a_pipeline_of_its_own_and_others_differ():
    both = Pipeline("(inception(24)) + (inception(24))").compile(True)
    alone = Pipeline("inception(24)").compile(True)
    for number, encoded in enumerate(images()):
        options = {"seed": 3, "dtype": "float32", "layout": "NHWC"}
        (first, second), _ = _core.Renderer(both, **options).views(encoded, 0, number, 0)
        expected, _ = _core.Renderer(alone, **options).views(encoded, 0, number, 0)
        np.testing.assert_array_equal(first, expected)
        if expected.std() > 0.01:
            assert not np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "text",
    [
        BRANCHES[0],
        "resize(52, 41)|color_jitter(0.4, 0.4, 0.4, 0.1)|blur(2, kernel_size=23)|normalize",
        "inception(32, 24, views=2)",
        "resize(60)|patches(3, jitter=2)|jigsaw|standardize",
        "resize(32, method='bicubic')|rotate",
        "resize(32)|normalize|rotate",
    ],
)
def test_every_dtype_and_layout_gives_the_same_views(text, layout, dtype):
    for training in (True, False):
        plan = Pipeline(text).compile(training)
        for number, encoded in enumerate(images()):
            assert_parity(plan, encoded, record=number, dtype=dtype, layout=layout)


@pytest.mark.parametrize("kernels", _core.kernels())
@pytest.mark.parametrize("text", PIPELINES[::3])
def test_every_instruction_set_gives_the_same_views(text, kernels):
    for number, encoded in enumerate(images()):
        plan = Pipeline(text).compile(True)
        assert_parity(plan, encoded, record=number, kernels=kernels)


step_texts = st.sampled_from(
    [
        "resize(24)",
        "resize(30, 17, 'area')",
        "resize(15, 40, 'bicubic')",
        "resize(33, 33, 'nearest', 'tf1')",
        "resize(20, antialias=True)",
        "resize(26, randomize=True)",
        "resize_small(31)",
        "crop(19)",
        "crop(28, 9)",
        "center_crop(17)",
        "inception_crop",
        "inception_crop((0.2, 0.9), (0.5, 3), last_position=False)",
        "flip",
        "gray(0.5)",
        "distort",
        "distort(fast=False)",
        "inception(27, views=2, fast=False)",
        "patches(2, 1)",
        "patches(3)",
        "jigsaw",
        "pair",
        "rotate",
        "range(-1, 1)",
        "normalize",
        "standardize",
    ]
)


def fitting(texts):
    """A pipeline of those of the steps that can follow the ones before."""
    kept, end = [], "crop(9)"
    for text in texts:
        for ending in ("", "|crop(9)"):
            try:
                Pipeline("|".join([*kept, text]) + ending)
            except PipelineError:
                continue
            kept, end = [*kept, text], ending
            break
    return "|".join(kept) + end


@settings(max_examples=150, deadline=None)
@given(
    st.lists(step_texts, max_size=9).map(fitting),
    st.booleans(),
    st.sampled_from(["float32", "float16", "uint8"]),
    st.sampled_from(["NHWC", "NCHW"]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_any_pipeline_gives_the_same_views(text, training, dtype, layout, seed, record, epoch):
    plan = Pipeline(text).compile(training)
    encoded = images()[record % len(images())]
    assert_parity(plan, encoded, seed, record, epoch, dtype, layout)


@pytest.mark.parametrize("name", presets.ALL)
def test_photographs_give_the_same_views(name):
    for training in (True, False):
        plan = presets.ALL[name].compile(training)
        for number, example in enumerate(sample_images(every=100)):
            encoded, _ = reference.parse_example(example, *KEYS)
            assert assert_parity(plan, encoded, record=number)


@pytest.mark.parametrize("ycck", [False, True])
def test_four_channel_jpegs_give_the_same_views(ycck):
    assert assert_parity(Pipeline("inception(32)").compile(True), cmyk_jpeg(60, 70, ycck))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(range(len(KINDS))), st.data())
def test_a_decoded_region_is_that_region_of_the_whole(kind, data):
    encoded = images()[kind]
    whole = reference_records.decode_image(encoded)
    top, left = (data.draw(st.integers(0, side - 1)) for side in whole.shape[:2])
    height = data.draw(st.integers(1, whole.shape[0] - top))
    width = data.draw(st.integers(1, whole.shape[1] - left))
    np.testing.assert_array_equal(
        _core.decode_jpeg(encoded, (top, left, height, width)),
        whole[top : top + height, left : left + width],
    )


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (b"", "the image is neither a JPEG nor a PNG but unknown bytes"),
        (b"\x89PNG\r\n\x1a\n....", "the PNG cannot be decoded"),
        (jpeg(40, 40)[:-300], "the JPEG cannot be decoded: the data end early"),
        (jpeg(40, 40)[:90], "the JPEG cannot be decoded: the data end early"),
        (jpeg(40, 40)[:2] + b"\xff\xd9", "the JPEG cannot be decoded"),
        (jpeg(10, 40), "a crop of 20x20 does not fit in 10x40 pixels"),
    ],
)
def test_images_that_both_refuse(encoded, expected):
    plan = Pipeline("crop(20)").compile(False)
    for backend in (reference, _core):
        renderer = backend.Renderer(plan, seed=0, dtype="float32", layout="NHWC")
        assert rendered(renderer, encoded, 7, 0, 0).startswith(expected)


def test_a_jpeg_cut_short_by_a_marker_is_grey_from_there_in_both():
    encoded = jpeg(90, 70)
    plan = Pipeline("inception(32)|flip").compile(True)
    for record in range(4):
        assert assert_parity(plan, encoded[: len(encoded) // 2] + b"\xff\xd9", record=record)


def test_a_jpeg_that_claims_to_be_huge_is_refused_before_memory_is_taken():
    encoded = jpeg(8, 8)
    at = encoded.index(b"\xff\xc0") + 5
    encoded = encoded[:at] + struct.pack(">HH", 20000, 30000) + encoded[at + 4 :]
    for decode in (reference_records.decode_image, _core.decode_jpeg):
        with pytest.raises(ValueError, match=r"^the JPEG claims 30000x20000 pixels, more than"):
            decode(encoded)


words = st.integers(0, 2**32 - 1)


@given(st.integers(0, 2**64 - 1), st.tuples(words, words, words, words))
def test_philox_is_the_same(key, counter):
    assert tuple(_core.philox(key, counter)) == philox(key, counter)


@given(st.integers(0, 2**64 - 1), words, st.integers(1, 2**32 - 1), st.data())
def test_the_order_of_an_epoch_is_the_same(seed, epoch, n, data):
    n = data.draw(st.sampled_from([n, n % 1000 + 1]))
    position = data.draw(st.integers(0, n - 1))
    sizes = st.integers(1, 50) | st.integers(1, 2**32 - 1)
    shuffle = WindowShuffle(data.draw(sizes), data.draw(sizes))
    for kind, name in ((False, "none"), (True, "global"), (shuffle, "window")):
        assert _core.record_at(
            seed, epoch, n, name, shuffle.block, shuffle.blocks, position
        ) == record_at(seed, epoch, n, kind, position)


@pytest.mark.parametrize("position", [0, 1, 2**31, 4009075879])
def test_the_order_of_blocks_as_large_as_the_data_set_is_the_same(position):
    n, shuffle = 4009075880, WindowShuffle(2**31 + 1, 2)
    for epoch in (0, 84017304):
        assert _core.record_at(
            0, epoch, n, "window", shuffle.block, shuffle.blocks, position
        ) == record_at(0, epoch, n, shuffle, position)


@given(st.binary(max_size=300))
def test_checksums_are_the_same(data):
    assert _core.masked_crc32c(data) == reference_records.masked_crc32c(data)


features = st.dictionaries(
    st.sampled_from([*KEYS, "image/height", ""]),
    st.tuples(
        st.sampled_from(["bytes_list", "int64_list", "float_list"]),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    ),
)


@given(features)
def test_examples_are_read_alike(features):
    example = Example()
    for key, (kind, values) in features.items():
        convert = {"bytes_list": lambda x: b"%d" % x, "int64_list": int, "float_list": float}[kind]
        getattr(example.features.feature[key], kind).value.extend(map(convert, values))
    data = example.SerializeToString()
    expected, found = (
        read(reader, data) for reader in (reference.parse_example, _core.parse_example)
    )
    assert found == expected


def read(parse, data):
    try:
        image, label = parse(data, *KEYS)
    except ValueError as error:
        return str(error)
    return bytes(image), label


@given(st.binary(max_size=30), st.integers(0, 40))
def test_a_damaged_example_is_refused_by_both_or_read_alike(noise, place):
    example = Example()
    example.features.feature[KEYS[0]].bytes_list.value.append(b"image")
    example.features.feature[KEYS[1]].int64_list.value.append(300)
    data = example.SerializeToString()
    damaged = data[:place] + noise + data[place + len(noise) :]
    expected, found = (
        read(reader, damaged) for reader in (reference.parse_example, _core.parse_example)
    )
    # The core leaves unread what it does not need, so it may not see some of the damage.
    if not isinstance(expected, str):
        assert found == expected


@pytest.fixture
def shard(tmp_path):
    path = str(tmp_path / "train-00000-of-00001")
    with open(path, "wb") as file:
        for number in range(11):
            example = Example()
            encoded = b"damaged" if number == 4 else images()[number % 6]
            example.features.feature[KEYS[0]].bytes_list.value.append(encoded)
            example.features.feature[KEYS[1]].int64_list.value.append(number + 1)
            data = example.SerializeToString()
            length = struct.pack("<Q", len(data))
            for part in (length, data):
                file.write(part + struct.pack("<I", reference_records.masked_crc32c(part)))
    return path


@pytest.mark.parametrize("shuffle", [True, False, WindowShuffle(3, 2)])
def test_both_backends_give_the_same_epochs(shard, shuffle):
    """Order, skipped records, labels and pixels; two workers, two epochs."""
    for worker in (0, 1):
        epochs = []
        for backend in ("native", "reference"):
            with Loader(
                TFRecords(shard),
                "inception(20)|rotate",
                2,
                seed=9,
                shuffle=shuffle,
                shard=(worker, 2),
                threads=2,
                drop_remainder=False,
                on_error="skip",
                backend=backend,
            ) as loader:
                epochs.append([batch for _ in range(2) for batch in loader])
        assert len(epochs[0]) == len(epochs[1]) == 6
        for batch, other in zip(*epochs):
            np.testing.assert_array_equal(batch.index, other.index)
            np.testing.assert_array_equal(batch.label, other.label)
            np.testing.assert_allclose(batch.image, other.image, rtol=0, atol=1e-3 * 2 / 255)


def test_both_backends_name_the_record_that_is_wrong(shard):
    messages = []
    for backend in ("native", "reference"):
        with Loader(
            TFRecords(shard), "inception(20)", 11, training=False, backend=backend
        ) as loader:
            with pytest.raises(RecordError) as error:
                next(iter(loader))
            messages.append((error.value.path, error.value.offset, error.value.record))
            assert error.value.reason.startswith("the image is neither a JPEG")
    assert messages[0] == messages[1]
    assert messages[0][2] == 4


def test_a_record_is_read_and_checked_alike(shard):
    with open(shard, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    assert reference.read_record(shard, 0, length, True) == data[12 : 12 + length]
    assert _core.read_record(shard, 0, length, True) == data[12 : 12 + length]
    with open(shard, "r+b") as file:
        file.seek(20)
        file.write(b"~")
    for offset, size in ((0, length), (0, length + 1), (len(data) - 9, 1)):
        messages = []
        for read_record in (reference.read_record, _core.read_record):
            with pytest.raises((ValueError, OSError)) as error:
                read_record(shard, offset, size, True)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    assert len(_core.read_record(shard, 0, length, False)) == length
    assert len(reference.read_record(shard, 0, length, False)) == length
