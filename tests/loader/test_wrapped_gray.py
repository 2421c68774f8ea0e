"""Grey of bytes, as TensorFlow 1 computes their mean."""

import numpy as np
import pytest
from pretexture.loader import Loader, Pipeline, PipelineError, TFRecords
from pretexture.loader.shards.writer import TFRecordWriter, example

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def image():
    values = np.random.RandomState(0).randint(0, 256, (24, 30, 3)).astype(np.uint8)
    values[12, 15] = [200, 201, 202]
    return values


def _mean(image):
    """As published of [200, 201, 202]: 30. In bytes: 603 - 2 * 256 = 91, and 91 // 3 = 30."""
    return np.add.reduce(image, axis=2, keepdims=True, dtype=np.uint8) // 3


def test_the_mean_of_bytes_is_tensorflow_1_s(image, tf):
    assert _mean(image)[12, 15] == 30
    if not tf.__version__.startswith("1."):
        pytest.skip("since TensorFlow 2 the sum is not one of bytes")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        found = session.run(tf.reduce_mean(image, axis=2, keepdims=True))
    np.testing.assert_array_equal(found, _mean(image))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_views_are_of_the_wrapped_mean(image, tmp_path, backend):
    with TFRecordWriter(tmp_path / "shard") as writer:
        encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        writer.write(example({"image/encoded": encoded, "image/class/label": 1}))
    how = {"training": False, "dtype": "uint8", "backend": backend}
    with Loader(TFRecords(tmp_path / "shard"), "gray(wrap=True)|crop(20)", 1, **how) as loader:
        (batch,) = loader
    np.testing.assert_array_equal(batch.image[0], np.repeat(_mean(image)[2:22, 5:25], 3, axis=2))


@pytest.mark.parametrize(
    "text",
    [
        "resize(9)|gray(wrap=True)",
        "gray|gray(wrap=True)|crop(9)",
        "crop(9)|patches(3)|gray(1, True)",
    ],
)
def test_only_bytes_wrap_around(text):
    with pytest.raises(PipelineError, match="wrap=True works on bytes"):
        Pipeline(text).compile(True)
