"""A Loader as a tf.data.Dataset."""

import contextlib
import sys

import numpy as np
import pytest
from pretexture.loader import Batch, Loader, TFRecords
from pretexture.loader import tensorflow as adapter

pytestmark = pytest.mark.usefixtures("no_hang")


def make(shards, pipeline="inception(24)|rotate", **kwargs):
    return Loader(TFRecords(shards), pipeline, 5, threads=2, **kwargs)


def elements(tf, make_dataset):
    """The elements of a dataset as arrays, eagerly or, on TensorFlow 1, from a session."""
    if tf.executing_eagerly():
        return [Batch(*(t.numpy() for t in element)) for element in make_dataset()]
    found = []
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        element = v1.data.make_one_shot_iterator(make_dataset()).get_next()
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                found.append(session.run(element))
    return found


def assert_same(elements, batches):
    assert len(elements) == len(batches)
    for element, batch in zip(elements, batches):
        assert isinstance(element, Batch)
        for found, array in zip(element, batch):
            np.testing.assert_array_equal(found, array)


def test_a_dataset_gives_what_its_loader_gives(tf, shards):
    with make(shards) as loader:
        expected = [list(loader) for _ in range(3)]
    with make(shards) as loader:
        for epoch in expected:
            assert_same(elements(tf, lambda: adapter.dataset(loader)), epoch)


def test_elements_have_static_shapes(tf, shards):
    with make(shards) as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader))
        assert isinstance(spec, Batch)
        assert spec.image.shape == (5, 4, 24, 24, 3)
        assert spec.label.shape == (5, 4)
        assert spec.index.shape == (5,)
        assert [s.dtype for s in spec] == [tf.float32, tf.int32, tf.int64]
    with make(shards, training=False, dtype="uint8", layout="NCHW") as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader))
        assert spec.image.shape.as_list() == [None, 4, 3, 24, 24]
        assert spec.image.dtype == tf.uint8
        found = elements(tf, lambda: adapter.dataset(loader))
        assert [len(batch.index) for batch in found] == [5] * 7 + [2]


def test_a_dataset_runs_in_a_function(tf, shards):
    if not tf.executing_eagerly():
        pytest.skip("TensorFlow 1 iterates in sessions alone")
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
        found = elements(
            tf, lambda: adapter.dataset(loader).repeat().prefetch(1).take(len(expected))
        )
        assert_same(found, expected)


def test_errors_reach_the_consumer_with_what_the_loader_says(tf, write_shards, images, tmp_path):
    paths = write_shards(tmp_path, [*images[:6], b"GIF89a and more"])
    reason = r"\(record 6\): the image is neither a JPEG"
    with make(paths, training=False) as loader, pytest.raises(tf.errors.OpError, match=reason) as e:
        elements(tf, lambda: adapter.dataset(loader))
    assert paths[0] in str(e.value)


def test_without_tensorflow_one_line_says_what_to_install(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with make(shards) as loader, pytest.raises(ImportError, match=r"pretexture\[tensorflow\]"):
        adapter.dataset(loader)
