"""A Loader in a tf.train.Checkpoint, and beside Keras's BackupAndRestore."""

import json
import os
import signal
import subprocess
import sys

import pytest
from pretexture.loader import Loader, TFRecords
from pretexture.loader import tensorflow as adapter

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture
def eager(tf):
    if not tf.executing_eagerly():
        pytest.skip("TensorFlow 1 iterates in sessions alone")
    return tf


def make(shards, **options):
    return Loader(TFRecords(shards), "resize(8)|range(0, 1)", 5, threads=2, seed=3, **options)


def numbers(shards, epochs):
    with make(shards) as loader:
        return [batch.index.tolist() for _ in range(epochs) for batch in loader]


def test_a_checkpoint_holds_the_state_after_the_batches_that_were_counted(eager, shards, tmp_path):
    tf, expected = eager, numbers(shards, 3)
    for trained in (0, 3, 7, 10):
        with make(shards) as loader:
            place = adapter.position(loader)
            elements = iter(adapter.dataset(loader, index=True, repeat=True).prefetch(3))
            for index in range(trained):
                assert next(elements)["index"].numpy().tolist() == expected[index]
                place.advance()
            saved = tf.train.Checkpoint(loader=place).save(str(tmp_path / "checkpoint"))
            del elements
        with make(shards) as loader:
            tf.train.Checkpoint(loader=adapter.position(loader)).restore(saved)
            rest = [batch.index.tolist() for _ in range(2) for batch in loader]
            assert rest == expected[trained : trained + len(rest)]


def test_a_checkpoint_of_tensorflow_1_holds_the_state_too(tf, shards, tmp_path):
    if tf.executing_eagerly():
        pytest.skip("for TensorFlow 1")
    expected = numbers(shards, 2)
    with tf.Graph().as_default(), tf.Session() as session, make(shards) as loader:
        place = adapter.position(loader)
        checkpoint = tf.train.Checkpoint(loader=place)
        place.advance(3)
        session.run(tf.global_variables_initializer())
        saved = checkpoint.save(str(tmp_path / "checkpoint"), session=session)
    with tf.Graph().as_default(), tf.Session() as session, make(shards) as loader:
        status = tf.train.Checkpoint(loader=adapter.position(loader)).restore(saved)
        status.initialize_or_restore(session)
        rest = [batch.index.tolist() for _ in range(2) for batch in loader]
        assert rest == expected[3:] + numbers(shards, 3)[14:][: len(rest) - len(expected[3:])]


def test_a_repeated_dataset_takes_a_state_that_is_loaded_later(eager, shards):
    expected = numbers(shards, 2)
    with make(shards) as loader:
        dataset = adapter.dataset(loader, index=True, repeat=True)
        assert dataset.cardinality() == eager.data.UNKNOWN_CARDINALITY
        loader.load_state_dict({**loader.state_dict(), "batch": 4})
        found = [element["index"].numpy().tolist() for _, element in zip(range(10), dataset)]
        assert found == expected[4:14]


# Prints the sum of the images of each batch that was trained on, and kills itself after as many
# batches as it is told.
FIT = r"""
import os, signal, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
from pretexture.loader import Loader, TFRecords
from pretexture.loader.tensorflow import dataset, keras_backup

folder, frequency, kill, precede, shards = *sys.argv[1:5], sys.argv[5:]
loader = Loader(TFRecords(shards), "resize(8)|range(0, 1)", 5, threads=2, seed=3)


class Log(tf.keras.layers.Layer):
    # A weight that remembers the sum of the last images.
    def build(self, shape):
        self.last = self.add_weight(name="last", shape=(), initializer="zeros", trainable=False)

    def call(self, images):
        self.last.assign(tf.reduce_sum(images))
        return tf.reshape(images, (-1, 192))


images = tf.keras.Input((8, 8, 3), batch_size=5)
log = Log()
model = tf.keras.Model(images, tf.keras.layers.Dense(40)(log(images)))
model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
trained = 0


class Print(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        global trained
        trained += 1
        value = log.last.numpy()
        print("%.4f" % value, flush=True)
        if trained == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)


Backup = getattr(tf.keras.callbacks, "BackupAndRestore", None)
Backup = Backup or tf.keras.callbacks.experimental.BackupAndRestore
if frequency == "epoch":
    callbacks, data, options = [Backup(folder)], dataset(loader), {}
else:
    callbacks = [Backup(folder, save_freq=int(frequency))]
    data, options = dataset(loader, repeat=True), {"steps_per_epoch": len(loader)}
mine = keras_backup(loader, os.path.join(folder + "-states", "loader.json"))
callbacks.insert(0 if precede == "True" else 1, mine)
model.fit(data, epochs=3, verbose=0, callbacks=[*callbacks, Print()], **options)
"""


def fit(folder, frequency, kill, precede, shards):
    command = [sys.executable, "-c", FIT, str(folder), frequency, str(kill), str(precede), *shards]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == (-signal.SIGKILL if kill else 0), run.stderr
    return [float(line) for line in run.stdout.split()]


def sums(shards, epochs):
    with make(shards) as loader:
        return [float(batch.image.sum()) for _ in range(epochs) for batch in loader]


@pytest.mark.parametrize("precede", [True, False])
def test_a_killed_fit_resumes_at_the_epoch_that_keras_resumes(eager, precede, shards, tmp_path):
    expected = sums(shards, 3)
    assert len({round(value, 1) for value in expected[:7]}) == 7
    first = fit(tmp_path / "backup", "epoch", 10, precede, shards)
    assert first == pytest.approx(expected[:10], rel=1e-4)
    # Keras has saved the model at the end of the first epoch, after 7 batches.
    rest = fit(tmp_path / "backup", "epoch", 0, precede, shards)
    assert rest == pytest.approx(expected[7:], rel=1e-4)
    # The training has ended and its backup is deleted, so this one begins again.
    if hasattr(eager.keras.callbacks, "BackupAndRestore"):
        assert fit(tmp_path / "backup", "epoch", 0, precede, shards) == pytest.approx(expected)


def test_a_killed_fit_resumes_at_the_batch_that_keras_saved(eager, shards, tmp_path):
    if not hasattr(eager.keras.callbacks, "BackupAndRestore"):
        pytest.skip("this Keras saves at the end of epochs alone")
    expected = sums(shards, 6)
    first = fit(tmp_path / "backup", "4", 11, False, shards)
    assert first == pytest.approx(expected[:11], rel=1e-4)
    # The last backup is that after 8 batches; this run is killed after 8 more, its own are at 12
    # and 16.
    second = fit(tmp_path / "backup", "4", 8, False, shards)
    assert second == pytest.approx(expected[8:16], rel=1e-4)
    rest = fit(tmp_path / "backup", "4", 0, False, shards)
    assert rest[:7] == pytest.approx(expected[16:23], rel=1e-4)


def test_executions_that_run_beyond_the_epoch_are_refused(eager, shards, tmp_path):
    if not hasattr(eager.keras.callbacks, "BackupAndRestore"):
        pytest.skip("this Keras shortens the last execution")
    model = eager.keras.Sequential([eager.keras.layers.Flatten(), eager.keras.layers.Dense(40)])
    loss = eager.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with make(shards) as loader:
        callbacks = [adapter.keras_backup(loader, str(tmp_path / "states.json"))]
        for steps in (7, 2):
            model.compile("sgd", loss, steps_per_execution=steps)
            if steps == 7:
                model.fit(adapter.dataset(loader), verbose=0, callbacks=callbacks)
                assert loader.state_dict() == {**loader.state_dict(), "epoch": 1, "batch": 0}
            else:
                with pytest.raises(ValueError, match="steps_per_execution must divide"):
                    model.fit(adapter.dataset(loader), verbose=0, callbacks=callbacks)


def test_states_of_another_training_are_refused(eager, shards, tmp_path):
    path = tmp_path / "states.json"
    path.write_text(json.dumps([{"steps": 100, "state": {}}]))
    model = eager.keras.Sequential([eager.keras.layers.Flatten(), eager.keras.layers.Dense(40)])
    model.compile("sgd", eager.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with make(shards) as loader:
        model.fit(adapter.dataset(loader), verbose=0)
        callbacks = [adapter.keras_backup(loader, str(path))]
        with pytest.raises(ValueError, match="begins at step 100, and the optimizer has taken 7"):
            model.fit(adapter.dataset(loader), verbose=0, callbacks=callbacks)
    assert os.path.exists(path)
