"""Linear evaluation: how well do the end points of a frozen network tell an image's class?"""

from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import tensorflow as tf

from ..networks.layers import Scope, fold
from ..recipes import Recipe
from .supervised import Supervised, class_metrics
from .task import Batch, Head, Model

Features = Callable[[tf.Tensor], Dict[str, tf.Tensor]]


class Heads(tf.Module):
    """A `Head` for each end point."""

    def __init__(self, heads: Mapping[str, Head]):
        super().__init__()
        self.heads = dict(heads)


class Linear(Supervised):
    """Which class is the image of? One head for each end point; all are trained at once.

    Args:
        recipe: says what the heads are.
        features: function from a batch's images to features [N, size] by end point.
        sizes: numbers of features by end point.
    """

    name = "linear"
    scope = "linear"

    def __init__(self, recipe: Recipe, features: Features, sizes: Mapping[str, int]):
        super().__init__(recipe.num_classes)
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
