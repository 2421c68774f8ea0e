"""Shards of small images that show how they are rotated, and a network that trains quickly."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from pretexture.loader.shards.writer import TFRecordWriter, example


def _image(random: np.random.RandomState) -> bytes:
    """A JPEG of 36 x 36 pixels, bright above and dark below."""
    import trained  # imports TensorFlow, so not at the top

    slope = np.linspace(200, 50, 36)[:, np.newaxis, np.newaxis]
    return trained.jpeg(slope + random.uniform(-50, 50, (36, 36, 3)))


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    """A folder of 4 training shards, 48 records in all, and one validation shard of 13."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.RandomState(0)
    counts = {f"train-{i:05}-of-00004": 12 for i in range(4)}
    for name, count in {**counts, "validation-00000-of-00001": 13}.items():
        with TFRecordWriter(folder / name) as writer:
            for number in range(count):
                features = {"image/encoded": _image(random), "image/class/label": number % 3 + 1}
                writer.write(example(features))
    return str(folder)


@pytest.fixture(scope="session")
def bfloat16() -> None:
    """Skips a test if TensorFlow has no convolutions of bfloat16."""
    import tensorflow as tf

    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 12):
        pytest.skip("convolutions of bfloat16 need TensorFlow 2.12")
    ones, kernel = tf.ones([1, 4, 4, 8], tf.bfloat16), tf.ones([3, 3, 8, 8], tf.bfloat16)
    try:
        tf.nn.conv2d(ones, kernel, 1, "SAME")
    except tf.errors.OpError as error:
        pytest.skip(f"no convolutions of bfloat16: {error}")


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """Keeps the loader's indexes out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def own_graph():
    """On TensorFlow 1, gives each test its own graph, in which no name of a variable is taken."""
    import tensorflow as tf

    if tf.executing_eagerly():
        yield
    else:
        with tf.Graph().as_default():
            yield


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    """Lets recipes say architecture="tiny"."""
    import tiny  # imports TensorFlow, so not at the top

    tiny.register(monkeypatch.setitem)
