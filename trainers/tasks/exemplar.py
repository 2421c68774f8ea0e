"""Exemplar (Dosovitskiy et al., 2014) with a triplet loss: views of one image get close embeddings.

The loss is the semi-hard one of FaceNet (Schroff et al., 2015, section 3.2).
"""

from typing import Dict, Optional

import tensorflow as tf
from pretexture.loader import Pipeline

from .task import Batch, Model, Task

_FAR = 1e9  # more than any squared distance of embeddings of length 1


class Exemplar(Task):
    """Are the views of an image closer to one another than to those of other images?

    An image's loss depends on its batch, so evaluation depends on the batch size. Evaluation takes
    random views, because the pipeline's views of evaluation would all be the same.

    Args:
        embed_dim: length of an embedding.
        margin: margin of the triplet loss.
        normalize_axis: axis along which embeddings have length 1: 1 for each embedding, or 0 for
            each channel over the batch, as in the published code.
    """

    name = "exemplar"
    random_evaluation = True

    def __init__(self, embed_dim: int, margin: float, normalize_axis: int):
        self.outputs = embed_dim
        self._margin = margin
        self._normalize_axis = normalize_axis

    def check(self, pipeline: Pipeline) -> None:
        """Raises ValueError if the pipeline makes no second view to compare."""
        views = pipeline.compile(training=True).views
        if len(views) != 1 or views[0] < 2:
            found = " x ".join(map(str, views)) or "one"
            raise ValueError(
                f"exemplar needs two or more views of an image, and the pipeline {pipeline} makes "
                f"{found}: inception(…, views=8) makes eight"
            )

    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """The triplet loss, and as accuracy the share of views nearest to one of their own image.

        Both are means over an image's views; see `Task.loss`.
        """
        count, views = batch.image.shape.as_list()[:2]
        if count < 2:
            raise ValueError("exemplar compares the images of a batch: give it two or more")
        counted = tf.cast(batch.index >= 0, tf.float32)
        embeddings = tf.reshape(model.logits(batch.image, training), [count, views, self.outputs])
        # Padding must not count in a channel's length.
        embeddings *= counted[:, tf.newaxis, tf.newaxis]
        axis = [0, 1] if self._normalize_axis == 0 else [2]
        return triplets(tf.nn.l2_normalize(embeddings, axis), counted, self._margin)


def triplets(embeddings: tf.Tensor, counted: tf.Tensor, margin: float) -> Dict[str, tf.Tensor]:
    """The semi-hard triplet loss, and how often the nearest view is of the same image.

    Each pair consists of an anchor a and a positive p, another view of the same image. Its negative
    n is a view of another image: the nearest of those that are farther from a than p, or if there
    are none, the farthest of all. The pair's loss is max(0, d(a, p) - d(a, n) + margin), where d is
    the squared distance.

    Args:
        embeddings: float32 [N, V, channels].
        counted: float32 [N], 1 or 0; views of an image with 0 are not negatives.
        margin: see above.

    Returns: "loss" and "accuracy", float32 [N], means over an image's pairs and views. If there is
        no other image, the loss is 0.
    """
    count, views, channels = embeddings.shape.as_list()
    squares = tf.reduce_sum(tf.square(embeddings), axis=2)  # [N, V]
    products = tf.matmul(embeddings, embeddings, transpose_b=True)
    positive = tf.nn.relu(squares[:, :, tf.newaxis] + squares[:, tf.newaxis, :] - 2 * products)

    flat = tf.reshape(embeddings, [count * views, channels])
    lengths = tf.reshape(squares, [count * views])
    products = tf.matmul(flat, flat, transpose_b=True)
    negative = tf.nn.relu(lengths[:, tf.newaxis] + lengths - 2 * products)
    negative = tf.reshape(negative, [count, views, 1, count * views])
    other = (1 - tf.eye(count)) * counted  # [N, N]
    other = tf.reshape(
        tf.tile(other[:, :, tf.newaxis], [1, 1, views]), [count, 1, 1, count * views]
    )

    farther = tf.cast(negative > positive[..., tf.newaxis], tf.float32) * other  # [N, V, V, N * V]
    nearest = tf.reduce_min(negative * farther + _FAR * (1 - farther), axis=3)
    farthest = tf.reduce_max(negative * other, axis=3) + tf.zeros_like(positive)
    chosen = tf.where(tf.reduce_max(farther, axis=3) > 0, nearest, farthest)
    loss = tf.nn.relu(positive - chosen + margin)
    loss *= (1 - tf.eye(views)) * tf.reduce_max(other, axis=3)

    apart = positive + _FAR * tf.eye(views)
    foreign = tf.reduce_min(negative * other + _FAR * (1 - other), axis=[2, 3])
    right = tf.cast(tf.reduce_min(apart, axis=2) < foreign, tf.float32)
    return {
        "loss": tf.reduce_sum(loss, axis=[1, 2]) / (views * (views - 1)),
        "accuracy": tf.reduce_mean(right, axis=1),
    }
