"""Supervised classification, with which the pretext tasks are compared."""

from typing import Dict, Optional

import numpy as np
import tensorflow as tf

from .task import Batch, Model, Task, classification, top_k_accuracy


class Supervised(Task):
    """Which class is the image of?

    Args:
        num_classes: number of classes of the data; labels count from 0.
    """

    name = "supervised"
    views = ()

    def __init__(self, num_classes: int):
        self.outputs = num_classes

    def check_labels(self, label: np.ndarray, index: np.ndarray) -> None:
        """Raises ValueError for a label that is not a class."""
        check_classes(label, index, self.outputs)

    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """Cross entropy and accuracy; with more than 5 classes also "top5"; see `Task.loss`."""
        return class_metrics(model.logits(batch.image, training), batch.label)


def class_metrics(logits: tf.Tensor, labels: tf.Tensor) -> Dict[str, tf.Tensor]:
    """Cross entropy and accuracy of each image; with more than 5 classes also "top5".

    Args:
        logits: float32 [N, classes].
        labels: int32 [N].

    Returns: "loss", "accuracy" and perhaps "top5", float32 [N].
    """
    values = classification(logits[:, tf.newaxis], labels[:, tf.newaxis])
    if logits.shape.as_list()[1] > 5:
        values["top5"] = top_k_accuracy(logits, labels, 5)
    return values


def check_classes(label: np.ndarray, index: np.ndarray, classes: int) -> None:
    """Raises ValueError, naming the record, for a label that is not from 0 to classes - 1.

    Args:
        label: int32 [N]; -1 if a record has none.
        index: int64 [N], record numbers.
    """
    (wrong,) = np.nonzero((label < 0) | (label >= classes))
    if not len(wrong):
        return
    record, found = index[wrong[0]], label[wrong[0]]
    if found < 0:
        raise ValueError(
            f"record {record} has no class label: give --label-key, the feature that holds it"
        )
    raise ValueError(
        f"record {record} is of class {found}, counted from 0, and --num-classes is {classes}: "
        f"give --num-classes, the number of classes of the data, or another --label-offset"
    )
