"""A Loader as a tf.data.Dataset."""

import numpy as np
import pytest
from pretexture.loader import Loader, TFRecords

tf = pytest.importorskip("tensorflow")
if not tf.executing_eagerly():
    pytest.skip("needs eager TensorFlow", allow_module_level=True)

from pretexture.loader.tensorflow import dataset  # noqa: E402


def test_a_dataset_gives_the_loader_s_batches_epoch_by_epoch(shards):
    options = {"seed": 4, "threads": 2}
    pipeline = "inception(32)|rotate"
    with Loader(TFRecords(shards), pipeline, 8, **options) as expected, Loader(
        TFRecords(shards), pipeline, 8, **options
    ) as loader:
        data = dataset(loader)
        for _ in range(2):
            batches = list(data)
            assert len(batches) == len(loader) == 4
            for got, want in zip(batches, expected):
                for field in ("image", "label", "index"):
                    assert np.array_equal(getattr(got, field).numpy(), getattr(want, field))


def test_shapes_are_static(shards):
    with Loader(TFRecords(shards), "inception(32)|rotate", 8, dtype="float16") as loader:
        spec = dataset(loader).element_spec
        assert (spec.image.shape, spec.image.dtype) == ((8, 4, 32, 32, 3), tf.float16)
        assert (spec.label.shape, spec.label.dtype) == ((8, 4), tf.int32)
        assert (spec.index.shape, spec.index.dtype) == ((8,), tf.int64)


def test_an_incomplete_last_batch_has_its_own_size(shards):
    with Loader(TFRecords(shards), "inception(32)", 8, training=False) as loader:
        assert dataset(loader).element_spec.image.shape.as_list() == [None, 32, 32, 3]
        assert [int(b.index.shape[0]) for b in dataset(loader)] == [8, 8, 8, 8, 5]


def test_an_error_reaches_the_consumer(write_shards, images, tmp_path):
    path = write_shards(tmp_path, [images[0], b"\x89PNG"])[0]
    with Loader(TFRecords(path), "resize(8)", 1, training=False) as loader, pytest.raises(
        tf.errors.OpError, match="not a JPEG but a PNG"
    ):
        list(dataset(loader))
