"""A Loader as a tf.data.Dataset."""

import contextlib
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from pretexture.loader import Batch, Loader, TFRecords
from pretexture.loader import tensorflow as adapter

pytestmark = pytest.mark.usefixtures("no_hang")


def make(shards, pipeline="inception(24)|rotate", **kwargs):
    return Loader(TFRecords(shards), pipeline, 5, threads=2, **kwargs)


def eager(tf):
    if not tf.executing_eagerly():
        pytest.skip("TensorFlow 1 iterates in sessions alone")


def elements(tf, make_dataset):
    """The elements of a dataset as arrays, eagerly or, on TensorFlow 1, from a session."""
    if tf.executing_eagerly():
        return [{k: t.numpy() for k, t in element.items()} for element in make_dataset()]
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
        assert set(element) == set(Batch._fields)
        for name, array in zip(Batch._fields, batch):
            np.testing.assert_array_equal(element[name], array)


def test_a_dataset_gives_what_its_loader_gives(tf, shards):
    with make(shards) as loader:
        expected = [list(loader) for _ in range(3)]
    with make(shards) as loader:
        for epoch in expected:
            assert_same(elements(tf, lambda: adapter.dataset(loader, index=True)), epoch)


def test_elements_have_static_shapes(tf, shards):
    with make(shards) as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader, index=True))
        assert spec["image"].shape == (5, 4, 24, 24, 3)
        assert spec["label"].shape == (5, 4)
        assert spec["index"].shape == (5,)
        assert [spec[name].dtype for name in Batch._fields] == [tf.float32, tf.int32, tf.int64]
    with make(shards, training=False, dtype="uint8", layout="NCHW") as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader, index=True))
        assert spec["image"].shape.as_list() == [None, 4, 3, 24, 24]
        assert spec["image"].dtype == tf.uint8
        found = elements(tf, lambda: adapter.dataset(loader, index=True))
        assert [len(batch["index"]) for batch in found] == [5] * 7 + [2]


def test_a_dataset_runs_in_a_function(tf, shards):
    eager(tf)
    with make(shards) as loader:
        expected = sum(int(batch.index.sum()) for batch in loader)
    with make(shards) as loader:
        dataset = adapter.dataset(loader, index=True)

        @tf.function
        def total():
            result = tf.constant(0, tf.int64)
            for batch in dataset:
                result += tf.reduce_sum(batch["index"])
            return result

        assert total().numpy() == expected


def test_epochs_follow_one_another_in_a_repeated_dataset(tf, shards):
    with make(shards) as loader:
        expected = [batch for _ in range(2) for batch in loader]
    with make(shards) as loader:
        found = elements(
            tf, lambda: adapter.dataset(loader, index=True).repeat().prefetch(1).take(len(expected))
        )
        assert_same(found, expected)


def test_errors_reach_the_consumer_with_what_the_loader_says(tf, write_shards, images, tmp_path):
    paths = write_shards(tmp_path, [*images[:6], b"GIF89a and more"])
    reason = r"\(record 6\): the image is neither a JPEG"
    with make(paths, training=False) as loader, pytest.raises(tf.errors.OpError, match=reason) as e:
        elements(tf, lambda: adapter.dataset(loader, index=True))
    assert paths[0] in str(e.value)


def test_elements_are_pairs_that_keras_cannot_mistake(tf, shards):
    with make(shards, "resize(8)") as loader:
        spec = tf.data.experimental.get_structure(adapter.dataset(loader))
        assert isinstance(spec, tuple)
        assert len(spec) == 2
        assert spec.image.shape.as_list() == [5, 8, 8, 3]
        assert spec.label.shape.as_list() == [5]


def classifier(tf):
    """A linear model whose loss NumPy can compute, too."""
    model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(40)])
    model.compile(
        tf.keras.optimizers.SGD(0.0),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def expected_loss(model, batches):
    """The mean over all images of the cross-entropy, weighting all alike."""
    losses = []
    for batch in batches:
        logits = batch.image.reshape(len(batch.image), -1) @ model.get_weights()[0]
        logits = (logits + model.get_weights()[1]).astype(np.float64)
        chosen = logits[np.arange(len(logits)), batch.label]
        losses.extend(np.logaddexp.reduce(logits, axis=1) - chosen)
    return np.mean(losses)


def test_keras_takes_a_dataset_as_it_is(tf, shards):
    eager(tf)
    pipeline, options = "resize(8)|range(0, 1)", {"drop_remainder": False, "training": False}
    with make(shards, pipeline, **options) as loader:
        batches = list(loader)
    with make(shards, pipeline, **options) as loader, make(shards, pipeline, **options) as other:
        model = classifier(tf)
        dataset = adapter.dataset(loader)
        model.build((None, 8, 8, 3))
        loss = expected_loss(model, batches)
        found = model.evaluate(dataset, verbose=0)
        assert found == pytest.approx(loss, rel=1e-4)
        history = model.fit(
            dataset, epochs=3, validation_data=adapter.dataset(other), verbose=0
        ).history
        np.testing.assert_allclose(history["loss"], [loss] * 3, rtol=1e-4)
        np.testing.assert_allclose(history["val_loss"], [loss] * 3, rtol=1e-4)
        assert len(model.predict(dataset, verbose=0)) == 37
        history = model.fit(dataset, epochs=2, steps_per_epoch=3, verbose=0).history
        assert len(history["loss"]) == 2


def test_a_dataset_knows_its_length(tf, shards):
    eager(tf)
    with make(shards) as loader:
        assert len(adapter.dataset(loader)) == len(loader) == 7
        assert sum(1 for _ in adapter.dataset(loader)) == 7


def test_a_dataset_of_the_rest_of_an_epoch_has_no_length(tf, shards):
    eager(tf)
    with make(shards) as loader:
        state = [loader.state_dict() for _ in zip(range(3), loader)][-1]
        rest = [batch.index for batch in loader]  # the next epoch
    with make(shards) as loader:
        loader.load_state_dict(state)
        dataset = adapter.dataset(loader, index=True)
        assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
        sizes = [sum(1 for _ in dataset)]
        found = [element["index"].numpy() for element in dataset]
        assert sizes == [7 - state["batch"]]
        np.testing.assert_array_equal(found, rest)
    with make(shards) as loader:
        dataset = adapter.dataset(loader)
        loader.load_state_dict(state)
        with pytest.raises(tf.errors.OpError, match=r"call dataset\(loader\) again"):
            list(dataset)


def test_a_second_iterator_is_refused_while_the_first_is_in_use(tf, shards):
    eager(tf)
    with make(shards) as loader:
        dataset = adapter.dataset(loader, index=True)
        first, second = iter(dataset), iter(dataset)
        next(first)
        with pytest.raises(tf.errors.OpError, match="a Loader runs one epoch at a time"):
            next(second)
        assert len(list(first)) == 6
        assert len(list(dataset)) == 7


def test_an_iteration_left_early_ends_its_epoch(tf, shards):
    eager(tf)
    with make(shards) as loader:
        epochs = [[batch.index for batch in loader] for _ in range(3)]
    with make(shards) as loader:
        dataset = adapter.dataset(loader, index=True)
        for epoch in epochs[:2]:
            found = [element["index"].numpy() for element in dataset.take(2)]
            np.testing.assert_array_equal(found, epoch[:2])
        for element in dataset:
            np.testing.assert_array_equal(element["index"], epochs[2][0])
            break


# TensorFlow's thread waits for the interpreter during the last 0.3 seconds, in about a third of the
# runs also at the very end.
EXIT = """
import atexit, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from pretexture.loader import Loader, TFRecords
from pretexture.loader.tensorflow import dataset

def keep_the_interpreter():
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass

loader = Loader(TFRecords(sys.argv[1:]), "inception(64, views=64)", 16, threads=1, prefetch=1)
atexit.register(keep_the_interpreter)
batches = iter(dataset(loader).prefetch(2))
next(batches)
print("done", flush=True)
sys.setswitchinterval(1000)
"""


def test_a_process_ends_while_a_dataset_is_being_read(tf, shards):
    eager(tf)
    run = subprocess.run(
        [sys.executable, "-c", EXIT, *shards], capture_output=True, text=True, timeout=100
    )
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


def test_before_the_interpreter_ends_no_thread_is_in_an_iteration(monkeypatch):
    in_call, closed = threading.Event(), threading.Event()

    def batches():
        yield 1
        in_call.set()
        assert closed.wait(100)
        raise RuntimeError("the Loader is closed")

    monkeypatch.setattr(adapter._Iteration, "at_exit", False)
    monkeypatch.setattr(adapter._Iteration, "all", weakref.WeakSet())
    iteration = adapter._Iteration(batches(), closed.set)
    idle = adapter._Iteration(iter([1, 2]), lambda: None)
    assert next(idle) == 1
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(iteration))
    thread.start()
    assert in_call.wait(100)
    adapter._end_all()
    assert not iteration.in_call
    thread.join(100)
    assert not thread.is_alive()
    assert seen == [1]
    assert list(idle) == []


def test_without_tensorflow_one_line_says_what_to_install(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with make(shards) as loader, pytest.raises(ImportError, match=r"pretexture\[tensorflow\]"):
        adapter.dataset(loader)
