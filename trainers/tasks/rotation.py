"""Rotation (Gidaris et al., 2018): has a view been turned by 0, 90, 180 or 270 degrees?"""

from typing import Dict, Optional

import tensorflow as tf

from .task import Batch, Model, Task, classification


class Rotation(Task):
    """Four turns of each image, four classes, which the network's logits tell."""

    name = "rotation"
    outputs = 4
    views = (4,)

    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """Cross entropy and accuracy, means over an image's four turns; see `Task.loss`."""
        logits = model.logits(batch.image, training)
        return classification(tf.reshape(logits, [-1, 4, self.outputs]), batch.label)
