"""What a pretext task is: a head on a network, and a loss for a batch."""

import abc
import functools
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader import Pipeline

from .. import networks
from ..networks.layers import (
    BatchNorm,
    Conv,
    Initializer,
    Scope,
    dropout,
    glorot_uniform,
    l2_penalty,
)
from ..recipes import Recipe


class Batch(NamedTuple):
    """A batch of the loader as tensors.

    Attributes:
        image: float32 [N, views…, H, W, C].
        label: int32 [N] or [N, views…].
        index: int64 [N], record numbers; -1 marks the padding of an evaluation's last batch.
    """

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor


class Model(tf.Module):
    """A network and, for tasks that need more than its logits, a head on top.

    Args:
        network: maps an image to logits and end points; pretraining is for its sake.
        head: the task's own layers; None if there are none.
        dtype: type in which the network computes; its logits are float32.
    """

    def __init__(
        self, network: Any, head: Optional[tf.Module] = None, dtype: tf.DType = tf.float32
    ):
        super().__init__()
        self.network = network
        self.head: Any = head
        self._dtype = dtype

    def logits(self, image: tf.Tensor, training: bool) -> tf.Tensor:
        """Float32 [N, views…, H, W, C] -> the network's logits, float32 [N * views, outputs]."""
        image = tf.reshape(image, [-1, *image.shape.as_list()[-3:]])
        return self.network(tf.cast(image, self._dtype), training)[0]


class Head(tf.Module):
    """Logits from features: one layer, or two with a ReLU and a dropout of 0.5 between them.

    Args:
        scope: names the layers and makes their variables.
        features: length of the input.
        hidden: number of hidden units; 0 for a single layer.
        classes: number of logits.
        weight_decay: weight decay of the kernels.
        initializer: initial values of the kernels.
        bias: initial value of the hidden layer's bias.
        normalized: whether the hidden layer has batch normalisation, with momentum 0.997 and
            epsilon 1e-5.
    """

    def __init__(
        self,
        scope: Scope,
        features: int,
        hidden: int,
        classes: int,
        weight_decay: float,
        initializer: Initializer = glorot_uniform,
        bias: float = 0,
        normalized: bool = False,
    ):
        super().__init__()
        layer = functools.partial(
            Conv, scope, size=1, weight_decay=weight_decay, initializer=initializer
        )
        self._hidden = layer(features, hidden, bias=bias) if hidden else None
        self._norm = BatchNorm(scope, hidden, momentum=0.997, epsilon=1e-5) if normalized else None
        self._classes = layer(hidden or features, classes, bias=0)

    def __call__(self, x: tf.Tensor, training: bool, key: Optional[tf.Tensor]) -> tf.Tensor:
        """Float32 [N, features] -> logits [N, classes]; dropout depends on `key`."""
        x = x[:, tf.newaxis, tf.newaxis, :]
        if self._hidden:
            x = self._hidden(x)
            x = tf.nn.relu(self._norm(x, training) if self._norm else x)
            if training:
                x = dropout(x, 0.5, key)
        return tf.squeeze(self._classes(x), [1, 2])


class Task(abc.ABC):
    """A pretext task.

    Attributes:
        name: name of the task in recipes.
        scope: beginning of the names of the model's variables.
        outputs: number of the network's logits.
        views: the dimensions of views that a pipeline must make from an image.
        random_evaluation: whether evaluation takes the pipeline's random views, as training does,
            because the task makes no sense on the views of evaluation.
    """

    name: str
    outputs: int
    views: Tuple[int, ...]
    scope = "module"
    random_evaluation = False

    def model(self, recipe: Recipe, scope: Scope, image: Tuple[int, ...], dtype: tf.DType) -> Model:
        """The network that a recipe names and the task's head.

        Args:
            recipe: see above.
            scope: makes the variables.
            image: height, width and channels of a view.
            dtype: type in which the network computes.
        """
        decay = recipe.optimizer.weight_decay
        network = networks.build(recipe.network, scope, image, self.outputs, decay)
        return Model(network, self.head(scope), dtype)

    def head(self, scope: Scope) -> Optional[tf.Module]:
        """The layers on top of the network's logits; None if the logits are the answer."""
        return None

    def check(self, pipeline: Pipeline) -> None:
        """Raises ValueError if the pipeline's views do not fit the task."""
        views = pipeline.compile(training=True).views
        if views != self.views:
            wanted, found = (" x ".join(map(str, v)) or "one" for v in (self.views, views))
            raise ValueError(
                f"{self.name} needs {wanted} views of an image, but the pipeline {pipeline} "
                f"makes {found}"
            )

    def check_labels(self, label: np.ndarray, index: np.ndarray) -> None:  # noqa: B027
        """Raises ValueError for a label that the task does not know.

        Args:
            label: int32 [N] or [N, views…].
            index: int64 [N], record numbers.
        """

    @abc.abstractmethod
    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """Loss and metrics of each image.

        Args:
            model: the network and this task's head.
            batch: a batch of the loader.
            training: whether batch normalisation uses the batch's statistics, and dropout is on.
            key: int32 [3]: the seed, the step and the replica, on which the random decisions of a
                training step depend.

        Returns:
            float32 [N] tensors: "loss", whose mean over the batch training minimises, and metrics
            (means over the image's views), which evaluation averages over images.
        """


def objective(
    task: Task, model: Model, batch: Batch, key: tf.Tensor
) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
    """What a training step minimises: the mean loss of the batch's images plus weight decay.

    Args:
        key: see `Task.loss`.

    Returns: a scalar, and the means over the batch of the task's loss and metrics.
    """
    values = task.loss(model, batch, training=True, key=key)
    means = {name: tf.reduce_mean(value) for name, value in values.items()}
    return means["loss"] + l2_penalty(model), means


def classification(logits: tf.Tensor, labels: tf.Tensor) -> Dict[str, tf.Tensor]:
    """Cross entropy and accuracy of each image, means over its views.

    If the loss is not finite, the answer counts as wrong.

    Args:
        logits: float32 [N, V, classes].
        labels: int32 [N, V].

    Returns:
        "loss" and "accuracy", float32 [N].
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    right = tf.logical_and(right, tf.math.is_finite(loss))
    return {
        "loss": tf.reduce_mean(loss, axis=1),
        "accuracy": tf.reduce_mean(tf.cast(right, tf.float32), axis=1),
    }


def top_k_accuracy(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether the label's logit is among the k largest; ties count against it.

    Args:
        logits: float32 [N, classes].
        labels: int32 [N].

    Returns: float32 [N], 1 or 0.
    """
    classes = logits.shape.as_list()[1]
    chosen = tf.reduce_sum(logits * tf.one_hot(labels, classes), axis=1, keepdims=True)
    smaller = tf.reduce_sum(tf.cast(logits < chosen, tf.int32), axis=1)
    return tf.cast(smaller >= classes - k, tf.float32)
