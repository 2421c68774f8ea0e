"""Linear evaluation: how well do the end points of a frozen network tell an image's class?"""

from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf

from ..networks.layers import Conv, Scope, dropout, fold
from ..recipes import Recipe
from .supervised import check_classes, class_metrics
from .task import Batch, Model, Task

Features = Callable[[tf.Tensor], Dict[str, tf.Tensor]]


class Head(tf.Module):
    """A linear classifier, or two layers with a ReLU and a dropout of 0.5 between them.

    Args:
        scope: names the layers and makes their variables.
        features: length of the input.
        hidden: number of hidden units; 0 for a linear classifier.
        classes: number of classes.
        weight_decay: weight decay of the kernels.
    """

    def __init__(self, scope: Scope, features: int, hidden: int, classes: int, weight_decay: float):
        super().__init__()
        self._hidden = None
        if hidden:
            self._hidden = Conv(scope, features, hidden, 1, weight_decay=weight_decay, bias=0)
        self._classes = Conv(
            scope, hidden or features, classes, 1, weight_decay=weight_decay, bias=0
        )

    def __call__(self, x: tf.Tensor, training: bool, key: Optional[tf.Tensor]) -> tf.Tensor:
        """Float32 [N, features] -> logits [N, classes]; dropout depends on `key`."""
        x = x[:, tf.newaxis, tf.newaxis, :]
        if self._hidden:
            x = tf.nn.relu(self._hidden(x))
            if training:
                x = dropout(x, 0.5, key)
        return tf.squeeze(self._classes(x), [1, 2])


class Heads(tf.Module):
    """A `Head` for each end point."""

    def __init__(self, heads: Mapping[str, Head]):
        super().__init__()
        self.heads = dict(heads)


class Linear(Task):
    """Which class is the image of? One head for each end point; all are trained at once.

    Args:
        recipe: says what the heads are.
        features: function from a batch's images to features [N, size] by end point.
        sizes: numbers of features by end point.
    """

    name = "linear"
    scope = "linear"

    def __init__(self, recipe: Recipe, features: Features, sizes: Mapping[str, int]):
        self.outputs = recipe.num_classes
        self._features = features
        self._sizes = dict(sizes)

    def model(self, recipe: Recipe, scope: Scope, image: Tuple[int, ...], dtype: tf.DType) -> Model:
        """The heads; the frozen network is not part of the model."""
        hidden, decay = recipe.hidden_units, recipe.optimizer.weight_decay
        heads = {
            name: Head(scope.child(name), size, hidden, self.outputs, decay)
            for name, size in self._sizes.items()
        }
        return Model(None, Heads(heads))

    def check_labels(self, label: np.ndarray, index: np.ndarray) -> None:
        """Raises ValueError for a label that is not a class."""
        check_classes(label, index, self.outputs)

    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """The sum of all heads' cross entropies, and the metrics of each head.

        These are named END_POINT/loss, END_POINT/accuracy and, with more than 5 classes,
        END_POINT/top5.
        """
        total: Any = 0.0
        values = {}
        features = self._features(batch.image)
        for number, (name, head) in enumerate(model.head.heads.items()):
            own_key = None if key is None else fold(key, number)
            logits = head(features[name], training, own_key)
            for metric, value in class_metrics(logits, batch.label).items():
                values[f"{name}/{metric}"] = value
            total += values[f"{name}/loss"]
        return {"loss": total, **values}
