"""A Loader as a tf.data.Dataset."""

import sys

import numpy as np
import pytest
from pretexture.loader import Batch, Loader, TFRecords
from pretexture.loader import tensorflow as adapter

pytestmark = pytest.mark.usefixtures("no_hang")


def make(shards, pipeline="inception(24)|rotate", **kwargs):
    return Loader(TFRecords(shards), pipeline, 5, threads=2, **kwargs)


def assert_same(elements, batches):
    assert len(elements) == len(batches)
    for element, batch in zip(elements, batches):
        assert isinstance(element, Batch)
        for tensor, array in zip(element, batch):
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_dataset_gives_what_its_loader_gives(tf, shards):
    with make(shards) as loader:
        expected = [list(loader) for _ in range(3)]
    with make(shards) as loader:
        dataset = adapter.dataset(loader)
        for epoch in expected:
            assert_same(list(dataset), epoch)


def test_elements_have_static_shapes(tf, shards):
    with make(shards) as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader))
        assert isinstance(spec, Batch)
        assert spec.image.shape == (5, 4, 24, 24, 3)
        assert spec.label.shape == (5, 4)
        assert spec.index.shape == (5,)
        assert [s.dtype for s in spec] == [tf.float32, tf.int32, tf.int64]
    with make(shards, training=False, dtype="uint8", layout="NCHW") as loader:
        dataset = adapter.dataset(loader)
        spec = tf.data.experimental.get_structure(dataset)
        assert spec.image.shape.as_list() == [None, 4, 3, 24, 24]
        assert spec.image.dtype == tf.uint8
        assert [len(batch.index) for batch in dataset] == [5] * 7 + [2]


def test_a_dataset_runs_in_a_graph(tf, shards):
    with make(shards) as loader:
        expected = sum(int(batch.index.sum()) for batch in loader)
    with make(shards) as loader:
        dataset = adapter.dataset(loader)

        @tf.function
        def total():
            result = tf.constant(0, tf.int64)
            for batch in dataset:
                result += tf.reduce_sum(batch.index)
            return result

        assert total().numpy() == expected


def test_epochs_follow_one_another_in_a_repeated_dataset(tf, shards):
    with make(shards) as loader:
        expected = [batch for _ in range(2) for batch in loader]
    with make(shards) as loader:
        dataset = adapter.dataset(loader).repeat().prefetch(1)
        assert_same([element for _, element in zip(range(len(expected)), dataset)], expected)


def test_errors_reach_the_consumer_with_what_the_loader_says(tf, write_shards, images, tmp_path):
    paths = write_shards(tmp_path, [*images[:6], b"GIF89a and more"])
    with make(paths, training=False) as loader:
        dataset = adapter.dataset(loader)
        with pytest.raises(tf.errors.OpError, match=r"\(record 6\): the image is not a JPEG") as e:
            list(dataset)
    assert paths[0] in str(e.value)


def test_without_tensorflow_one_line_says_what_to_install(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with make(shards) as loader, pytest.raises(ImportError, match=r"pretexture\[tensorflow\]"):
        adapter.dataset(loader)
