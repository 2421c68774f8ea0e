"""The DALI backend on a CPU, held to the native one: the same batches, order, state and errors."""

import gc
import itertools
import os
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("cv2", reason="OpenCV, which makes the JPEGs, is not installed")

import cv2
from jpegs import KINDS, SAMPLE, cmyk_jpeg, jpeg
from pretexture.loader import (
    Loader,
    Pipeline,
    PipelineError,
    RecordError,
    TFRecords,
    WindowShuffle,
    presets,
)
from pretexture.loader.language import ops

try:
    import nvidia.dali as dali
except ImportError:
    dali = None

pytestmark = pytest.mark.usefixtures("no_hang")
needs_dali = pytest.mark.skipif(dali is None, reason="NVIDIA DALI is not installed")

PIPELINES = [
    "resize(37, 61)|flip",
    "resize(37, 61, coords='tf1')|flip",
    "crop(30, 20)|flip|resize(40, coords='tf1')",
    "resize(40, method='nearest', coords='tf1')",
    "resize(37, 61, 'bicubic')",
    "resize(20, antialias=True)",
    "resize(40, randomize=True)|flip",
    "resize_small(50)|crop(40, 44)|flip",
    "inception_crop(area=(0.3, 0.6), aspect=(0.5, 2))|flip|resize(40, coords='tf1')|rotate",
    "center_crop(24)|rotate|resize(31, 17)|flip",
    "inception(40, 30, fast=False)",
    "inception(40, views=3, coords='tf1')|rotate|standardize",
    "gray(0.5)|crop(30)|distort",
    "resize(64)|patches(3, jitter=3)|distort(fast=False)|standardize",
    "resize(60)|patches(3, jitter=2)|jigsaw",
    "inception(63, views=2)|patches(3)|jigsaw('maximal-7')|flip|standardize",
    "resize(60)|patches(3, jitter=4)|pair|gray(0.5)|flip",
    "crop(30)|patches(3)|rotate|crop(8)",
    "crop(30)|normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))|rotate",
]


@pytest.fixture(scope="module")
def kinds(write_shards, tmp_path_factory):
    """Two shards with JPEGs of every kind."""
    sizes = [(90, 120), (131, 77), (64, 64), (33, 200), (300, 250), (47, 60), (160, 161), (40, 300)]
    images = [jpeg(*size, kind=kind, seed=i) for i, (size, kind) in enumerate(zip(sizes, KINDS))]
    # Turned by its orientation tag, which changes nothing here.
    tag = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (8 + len(tag)).to_bytes(2, "big") + b"Exif\0\0" + tag
    images += [images[0][:2] + exif + images[0][2:], cmyk_jpeg(60, 70), images[1] + b"trailing"]
    return write_shards(tmp_path_factory.mktemp("kinds"), images, 2)


@pytest.fixture(scope="module")
def damaged(images, write_shards, tmp_path_factory):
    """A shard in which records 4, 9, 13, 17 and 21 cannot be used, each in its own way."""
    images = images[:24]
    images[4] = b"damaged"
    images[9] = jpeg(90, 70)[:1500]
    images[13] = jpeg(19, 70)
    images[17] = None
    (path,) = write_shards(tmp_path_factory.mktemp("damaged"), images)
    offset = TFRecords(path).shard_index().locate(21)[1]
    with open(path, "r+b") as file:
        file.seek(offset + 100)
        file.write(b"?")
    return path


def pair(records, pipeline, *arguments, **options):
    """A Loader on each backend."""
    native = Loader(records, pipeline, *arguments, threads=1, **options)
    return native, Loader(records, pipeline, *arguments, threads=2, backend="dali", **options)


def grey_levels(pipeline, training, dtype):
    """How many grey levels a difference of 1 is; for standardised views of an ordinary contrast."""
    levels = 1.0
    for op in Pipeline(str(pipeline)).compile(training).ops if dtype != "uint8" else ():
        if isinstance(op, ops.Normalize):
            levels = 1 / max(map(abs, op.scale))
        if isinstance(op, ops.Standardize):
            levels = 60.0
    return levels


def same_but_for_pixels(batch, other):
    np.testing.assert_array_equal(batch.index, other.index)
    np.testing.assert_array_equal(batch.label, other.label)
    for array, expected in zip(other, batch):
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)


def difference(batch, other):
    return np.abs(batch.image.astype(np.float64) - other.image.astype(np.float64))


@needs_dali
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", presets.PAPER)
def test_presets_give_the_native_views(name, training, kinds):
    """Random views, too, because the draws are the same. Only area averaging differs."""
    preset = presets.PAPER[name]
    native, dali_ = pair(TFRecords(kinds), preset, 11, training=training, seed=5)
    with native, dali_, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dali_.element_spec == native.element_spec
        assert len(dali_) == len(native) == 1
        batch, other = next(iter(native)), next(iter(dali_))
    same_but_for_pixels(batch, other)
    levels = difference(batch, other) * grey_levels(preset, training, "float32")
    if "resize_small" in str(preset):
        assert levels.mean() < 2
    else:
        assert levels.mean() < 0.01
        assert levels.max() < 0.5


@needs_dali
@pytest.mark.parametrize("name", ["EVAL", "EVAL_PATCHES", "SUPERVISED", "PATCHES"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_evaluation_views_of_photographs_are_within_two_grey_levels(name, dtype):
    if not SAMPLE.is_dir():
        pytest.skip(f"no {SAMPLE.name} beside the checkout")
    records = TFRecords(str(SAMPLE / "validation-*"))
    native, dali_ = pair(records, presets.PAPER[name], 40, training=False, dtype=dtype)
    with native, dali_:
        batch, other = next(iter(native)), next(iter(dali_))
    same_but_for_pixels(batch, other)
    levels = grey_levels(presets.PAPER[name], False, dtype)
    if levels == 60:
        # What the contrast of each view is, its own pixels say.
        with Loader(records, presets.PAPER[name], 40, training=False, dtype="uint8") as loader:
            pixels = next(iter(loader)).image
        levels = pixels.reshape(*pixels.shape[:2], -1).std(2)[..., None, None, None]
    assert (difference(batch, other) * levels).mean() < (1.2 if name.startswith("EVAL") else 0.1)


@needs_dali
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", PIPELINES)
def test_every_step_gives_the_native_views(text, training, kinds):
    native, dali_ = pair(TFRecords(kinds), text, 11, training=training, seed=7)
    with native, dali_:
        batch, other = next(iter(native)), next(iter(dali_))
    same_but_for_pixels(batch, other)
    levels = difference(batch, other) * grey_levels(text, training, "float32")
    # Of the smallest views, a good part lies at the edge.
    inexact = any(word in text for word in ("small", "randomize", "antialias"))
    assert levels.mean() < (1 if inexact else 0.05)


@needs_dali
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("text", ["inception(32, 24)", "resize(50)|normalize|rotate"])
def test_every_dtype_and_layout(text, layout, dtype, kinds):
    native, dali_ = pair(TFRecords(kinds), text, 4, seed=3, layout=layout, dtype=dtype)
    with native, dali_:
        batch, other = next(iter(native)), next(iter(dali_))
        assert other.image.shape == dali_.element_spec.image.shape
    same_but_for_pixels(batch, other)
    assert (difference(batch, other) * grey_levels(text, True, dtype)).mean() < 0.1


@needs_dali
@pytest.mark.parametrize("shuffle", [True, False, WindowShuffle(3, 2)])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_an_epoch_has_the_same_records_and_labels(shards, shuffle, drop_remainder):
    seen = []
    for worker in (0, 1):
        options = {"shuffle": shuffle, "drop_remainder": drop_remainder, "shard": (worker, 2)}
        native, dali_ = pair(TFRecords(shards), "inception(8)", 5, seed=9, **options)
        with native, dali_:
            assert len(dali_) == len(native)
            for _ in range(2):
                batches, others = list(native), list(dali_)
                assert len(others) == len(dali_)
                for batch, other in zip(batches, others):
                    same_but_for_pixels(batch, other)
                    assert difference(batch, other).mean() < 1e-3
            seen += [number for other in others for number in other.index]
    assert len(set(seen)) == len(seen) == (30 if drop_remainder else 37)


@needs_dali
@pytest.mark.parametrize("training", [True, False])
def test_a_state_continues_on_either_backend(training, shards):
    options = {"training": training, "seed": 4, "drop_remainder": False}
    native, dali_ = pair(TFRecords(shards), "resize(9)|flip", 8, **options)
    with native, dali_:
        expected = [batch for _ in range(3) for batch in native]
        for taken in (0, 2, 5, 7):
            for source, target in ((native, dali_), (dali_, dali_)):
                source.load_state_dict({**source.state_dict(), "epoch": 0, "batch": 0})
                for _ in zip(range(taken), itertools.chain(source, source)):
                    pass
                target.load_state_dict(source.state_dict())
                rest = [batch for _ in range(2) for batch in target]
                assert len(rest) == 10 - taken % 5
                for batch, other in zip(expected[taken:], rest):
                    same_but_for_pixels(batch, other)
                    assert difference(batch, other).max() < 0.1


@needs_dali
def test_threads_and_prefetch_change_nothing(shards):
    epochs = []
    for threads, prefetch in ((1, 1), (3, 2), (2, 9)):
        with Loader(
            TFRecords(shards),
            "inception(16)",
            7,
            backend="dali",
            threads=threads,
            prefetch=prefetch,
        ) as loader:
            epochs.append([batch for _ in range(2) for batch in loader])
    for batches in zip(*epochs):
        for batch in batches[1:]:
            for array, expected in zip(batch, batches[0]):
                np.testing.assert_array_equal(array, expected)


@needs_dali
def test_batches_are_the_users_to_keep_and_to_change(shards):
    with Loader(TFRecords(shards), "resize(40)", 4, backend="dali", prefetch=2) as loader:
        kept, copies = [], []
        for batch in itertools.chain(loader, loader):
            kept.append(batch)
            copies.append(batch.image.copy())
            assert np.from_dlpack(batch.image).shape == batch.image.shape
        batch.image[:] = 0
        copies[-1][:] = 0
    del loader
    gc.collect()
    for batch, copy in zip(kept, copies):
        np.testing.assert_array_equal(batch.image, copy)


@needs_dali
def test_a_record_that_cannot_be_used_is_named_as_on_the_native_backend(damaged):
    faults = []
    for loader in pair(TFRecords(damaged), "crop(20)", 4, training=False):
        with loader:
            found = []
            for batch in range(6):
                loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": batch})
                epoch = iter(loader)
                try:
                    assert next(epoch).index.tolist() == list(range(4 * batch, 4 * batch + 4))
                except RecordError as error:
                    found.append((error.path, error.offset, error.record, error.reason))
                    with pytest.raises(StopIteration):
                        next(epoch)
            faults.append(found)
    assert faults[0] == faults[1]
    assert [fault[2] for fault in faults[0]] == [4, 9, 13, 17, 21]


@needs_dali
def test_batches_before_a_broken_record_are_handed_over_first(damaged):
    with Loader(TFRecords(damaged), "crop(20)", 3, training=False, backend="dali") as loader:
        epoch = iter(loader)
        assert next(epoch).index.tolist() == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(RecordError, match=r"record 4\): the image is neither a JPEG"):
                list(epoch)
            assert loader.state_dict()["batch"] == 1
            epoch = iter(loader)


@needs_dali
@pytest.mark.parametrize("shuffle", [True, False])
def test_skipped_records_are_replaced_as_on_the_native_backend(damaged, shuffle, caplog):
    options = {"shuffle": shuffle, "drop_remainder": False, "on_error": "skip"}
    batches, logs, stats = [], [], []
    for loader in pair(TFRecords(damaged), "crop(20)", 5, seed=8, **options):
        caplog.clear()
        with loader:
            batches.append([batch for _ in range(3) for batch in loader])
            stats.append(loader.stats)
        logs.append([record.getMessage() for record in caplog.records])
    assert len(batches[0]) == len(batches[1]) == 15
    for batch, other in zip(*batches):
        same_but_for_pixels(batch, other)
    assert sorted(logs[0]) == sorted(logs[1])
    assert len(logs[1]) == 5
    assert stats[1].records == 3 * 24
    assert 15 <= stats[1].skipped <= stats[0].skipped  # the native one counts what it sees ahead


@needs_dali
def test_where_no_record_can_be_used_skipping_ends(write_shards, tmp_path):
    paths = write_shards(tmp_path, [b"damaged"] * 3)
    messages = []
    for loader in pair(TFRecords(paths), "crop(20)", 3, on_error="skip"):
        with loader, pytest.raises(RecordError, match="last of 100 records tried") as error:
            next(iter(loader))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@needs_dali
def test_an_error_of_the_graph_is_not_blamed_on_a_record(shards, monkeypatch):
    from pretexture.loader.backends.dali.graph import Graph

    with Loader(TFRecords(shards), "resize(8)", 4, backend="dali", on_error="skip") as loader:
        inputs = Graph.inputs
        next(iter(loader))

        def without_size(self, views):
            return {name: array[:, :0] for name, array in inputs(self, views).items()}

        monkeypatch.setattr(Graph, "inputs", without_size)
        with pytest.raises(RuntimeError):
            list(loader)
        monkeypatch.undo()
        assert len(list(loader)) == 9
        assert loader.stats.skipped == 0


@needs_dali
def test_stats_count_what_was_handed_over(shards):
    with Loader(TFRecords(shards), "resize(8)", 4, training=False, backend="dali") as loader:
        for _ in loader:
            pass
        stats = loader.stats
    index = TFRecords(shards).shard_index()
    assert (stats.records, stats.bytes) == (37, index.lengths.sum())
    assert stats.read_seconds > 0
    assert stats.wait_seconds > 0


@needs_dali
def test_a_closed_loader_says_so(shards):
    loader = Loader(TFRecords(shards), "resize(8)", 4, backend="dali")
    epoch = iter(loader)
    next(epoch)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(epoch)


@needs_dali
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loader_made_before_a_fork_begins_anew_in_the_child(shards):
    with Loader(TFRecords(shards), "resize(8)", 4, backend="dali", shuffle=False) as loader:
        child = os.fork()
        if not child:
            try:
                os._exit(7 if next(iter(loader)).index.tolist() == [0, 1, 2, 3] else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] >> 8 == 7
        assert next(iter(loader)).index.tolist() == [0, 1, 2, 3]


# What views look like on average: each backend with a seed of its own, so that the draws differ.


def smirnov(a, b):
    """Kolmogorov and Smirnov's statistic of two samples, over its critical value at 0.1%."""
    at = np.sort(np.concatenate([a, b]))
    cdfs = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return np.abs(cdfs[0] - cdfs[1]).max() / (1.95 * np.sqrt(1 / len(a) + 1 / len(b)))


@pytest.fixture(scope="module")
def ramps(write_shards, tmp_path_factory):
    """600 times the same image, 96 high and 160 wide: red is the column, green the row."""
    image = np.full((96, 160, 3), 128, np.uint8)
    image[..., 1], image[..., 2] = 40 + np.arange(96)[:, None], 40 + np.arange(160)
    options = [cv2.IMWRITE_JPEG_QUALITY, 100]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", image, options)[1].tobytes()
    return write_shards(tmp_path_factory.mktemp("ramps"), [encoded] * 600)


def windows(records, backend, seed, pipeline):
    """Share of the area, aspect, position and flips of crops, read off the views' colours."""
    with Loader(records, pipeline, 100, seed=seed, backend=backend) as loader:
        views = np.concatenate([batch.image for batch in loader])
    side = views.shape[1]
    red = views[..., 0].mean(1) - 40  # [N, columns]
    width = (red[:, -1] - red[:, 0]) * side / (side - 1)
    green = views[..., 1].mean(2) - 40
    height = (green[:, -1] - green[:, 0]) * side / (side - 1)
    return {
        "area": np.abs(width) * height / (96 * 160),
        "aspect": np.abs(width) / height,
        "left": red.mean(1),
        "top": green.mean(1),
        "flip": np.sign(width),
    }


@needs_dali
def test_crops_and_flips_are_distributed_as_on_the_native_backend(ramps):
    records, pipeline = TFRecords(ramps), "inception_crop|resize(32)|flip"
    native = windows(records, "native", 1, pipeline)
    found = windows(records, "dali", 2, pipeline)
    for name, sample in found.items():
        assert smirnov(native[name], sample) < 1, name
    # No less than a tenth, and no more than 128 x 96 pixels have the widest aspect.
    assert 0.09 < found["area"].min() < 0.12
    assert 0.75 < found["area"].max() < 0.81
    assert 0.4 < (found["flip"] > 0).mean() < 0.6
    # The test sees smaller differences than those between recipes.
    other = windows(
        records, "dali", 3, "inception_crop(area=(0.2, 1), aspect=(0.8, 1.25))|resize(32)"
    )
    for name in ("area", "aspect", "flip"):
        assert smirnov(native[name], other[name]) > 1.2, name


@needs_dali
def test_the_fast_dct_is_the_native_backend_s(shards):
    def pixels(**how):
        with Loader(
            TFRecords(shards), "crop(8)", 37, training=False, dtype="uint8", **how
        ) as loader:
            return next(iter(loader)).image.copy()

    native, dali_ = (pixels(dct="fast", backend=name) for name in ("native", "dali"))
    assert np.array_equal(native, dali_)
    assert not np.array_equal(native, pixels())


@needs_dali
def test_what_dali_lacks_is_refused(shards):
    with pytest.raises(PipelineError, match="DALI has no grey that wraps around"):
        Loader(TFRecords(shards), "gray(wrap=True)|crop(8)", 4, backend="dali")
    with pytest.raises(ValueError, match="dct='fast' is libjpeg's"):
        Loader(TFRecords(shards), "crop(8)", 4, backend="dali", device="gpu", dct="fast")


@needs_dali
def test_colours_are_distributed_as_on_the_native_backend(write_shards, tmp_path):
    image = np.full((16, 16, 3), (150, 120, 90), np.uint8)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    records = TFRecords(write_shards(tmp_path, [encoded] * 600))
    for pipeline in ("crop(8)|distort", "crop(8)|distort(fast=False)", "gray(0.66)|crop(8)"):
        samples = []
        for backend, seed in (("native", 1), ("dali", 2)):
            with Loader(records, pipeline, 100, seed=seed, backend=backend) as loader:
                pixel = np.concatenate([batch.image[:, 4, 4] for batch in loader])
            spread = pixel.max(1) - pixel.min(1)
            samples.append((pixel.max(1), spread / pixel.max(1), pixel[:, 0] - pixel[:, 1]))
        for name, a, b in zip(("brightness", "saturation", "hue"), *samples):
            assert smirnov(a, b) < 1, (pipeline, name)
    assert 0.6 < (spread < 1).mean() < 0.72


# Options, and what is not there.


def test_dali_that_is_missing_is_named_with_its_extra(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        ImportError, match=r"^NVIDIA DALI is not installed: .*'pretexture\[dali\]'$"
    ):
        Loader(TFRecords(shards), "resize(8)", 4, backend="dali")


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_only_dali_has_a_gpu(shards, backend):
    with pytest.raises(ValueError, match=r"^device='gpu' needs backend='dali'"):
        Loader(TFRecords(shards), "resize(8)", 4, backend=backend, device="gpu")


@pytest.mark.parametrize("device", ["cuda", "GPU", "gpu:", "cpu:0", "gpu:x", None, 0])
def test_an_unknown_device_is_refused(shards, device):
    with pytest.raises(ValueError, match="device must be cpu, gpu or gpu:N, not"):
        Loader(TFRecords(shards), "resize(8)", 4, backend="dali", device=device)


@needs_dali
def test_a_gpu_that_is_not_there_is_an_error(shards):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"device 'gpu' cannot be used by DALI: .*CUDA"):
        Loader(TFRecords(shards), "resize(8)", 4, backend="dali", device="gpu")


@needs_dali
def test_more_views_than_dali_stacks_are_refused_by_step(shards):
    pipeline = "resize(64)|patches(32)"
    with pytest.raises(PipelineError, match=r"step 2: an image has 1024 views, .* at most 999"):
        Loader(TFRecords(shards), pipeline, 4, backend="dali")


@needs_dali
def test_an_operation_that_is_not_known_is_refused_by_step(shards, monkeypatch):
    from pretexture.loader.backends.dali import batch_views

    monkeypatch.delitem(batch_views._OPERATIONS, ops.Gray)
    with pytest.raises(PipelineError, match="step 2: Gray is not"):
        Loader(TFRecords(shards), "resize(64)|gray", 4, backend="dali")


@needs_dali
@pytest.mark.parametrize("text", [*map(str, presets.PAPER.values()), *PIPELINES])
def test_the_graph_for_a_gpu_ends_there(text):
    """It cannot be run here, so this only builds it: every operator accepts its inputs."""
    from nvidia.dali import fn
    from pretexture.loader.backends import Config
    from pretexture.loader.backends.dali.batch_views import Planner
    from pretexture.loader.backends.dali.graph import Graph

    for dtype, layout in (("float32", "NHWC"), ("float16", "NCHW"), ("uint8", "NCHW")):
        options = dict.fromkeys(("training", "shuffle", "drop_remainder"), True)
        options.update(batch_size=4, seed=0, worker=0, workers=1, threads=1, prefetch=2)
        options.update(label_dtype="int32", dtype=dtype, layout=layout, device="gpu:1")
        options.update(on_error="skip", max_pixels=10**8, dct="accurate")
        config = Config(Pipeline(text), **options)
        graph = Graph(config, Planner(config.plan, 0))
        pipeline = graph._pipeline(4, 2)
        assert pipeline.device_id == 1
        with pipeline:
            nodes = {name: fn.external_source(name=name) for name in graph._inputs}
            result = graph._define(nodes)
        assert result.device == "gpu"
