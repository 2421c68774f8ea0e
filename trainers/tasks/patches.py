"""Jigsaw (Noroozi and Favaro, 2016) and relative patch location (Doersch et al., 2015).

Both cut an image into 3 x 3 patches and embed each of them with the network. A head then answers
about sequences of embeddings: which permutation is this, or where does the first patch lie relative
to the second, the centre?
"""

import abc
from typing import Dict, Optional

import numpy as np
import tensorflow as tf
from pretexture.loader import Pipeline
from pretexture.loader.language import ops
from pretexture.loader.language.steps import Jigsaw as JigsawStep
from pretexture.loader.language.steps import Pair

from ..networks.layers import Scope, draws, fold, truncated_normal
from .task import Batch, Head, Model, Task, classification

PATCHES = 9
CENTRE = 4


def concatenate(embeddings: tf.Tensor, sequences: tf.Tensor) -> tf.Tensor:
    """An image's embeddings in the order of each sequence, interleaved channel by channel.

    Args:
        embeddings: [N, patches, channels].
        sequences: integers [M, K], numbers of patches.

    Returns:
        [N, M, channels * K]; channel c of the patch in place k has the index c * K + k.
    """
    gathered = tf.gather(embeddings, sequences, axis=1)  # [N, M, K, channels]
    _, count, places, channels = gathered.shape.as_list()
    interleaved = tf.transpose(gathered, [0, 1, 3, 2])
    return tf.reshape(interleaved, [-1, count, places * channels])


class PatchTask(Task):
    """The common part: embeds the nine patches and classifies sequences of them.

    Args:
        sequences: integers [classes, K]: row i holds the patches of class i in order.
        embed_dim: length of a patch's embedding.
        head_units: number of hidden units of the head; 4096 as published.
    """

    views = (PATCHES,)

    def __init__(self, sequences: np.ndarray, embed_dim: int, head_units: int):
        self.sequences = np.asarray(sequences, np.int32)
        self.outputs = embed_dim
        self._head_units = head_units

    def head(self, scope: Scope) -> tf.Module:
        """Two layers over all classes, as AlexNet's fc7 and fc8; see `Head`."""
        classes, places = self.sequences.shape
        return Head(
            scope,
            places * self.outputs,
            self._head_units,
            classes,
            weight_decay=5e-4,
            initializer=truncated_normal(0.005),
            bias=0.1,
            normalized=True,
        )

    def check(self, pipeline: Pipeline) -> None:
        """See `Task.check`; the pipeline may not shuffle or choose patches."""
        super().check(pipeline)
        for step in pipeline.steps:
            if isinstance(step, (JigsawStep, Pair)):
                raise ValueError(
                    f"{self.name} orders the patches' embeddings itself: leave {step} out of the "
                    f"pipeline"
                )

    @abc.abstractmethod
    def questions(self, training: bool, key: Optional[tf.Tensor]) -> tf.Tensor:
        """Int32 [M]: the classes whose sequences are shown to the head in this step."""

    def loss(
        self, model: Model, batch: Batch, training: bool, key: Optional[tf.Tensor] = None
    ) -> Dict[str, tf.Tensor]:
        """Cross entropy and accuracy, means over an image's sequences; see `Task.loss`."""
        embeddings = tf.reshape(model.logits(batch.image, training), [-1, PATCHES, self.outputs])
        labels = self.questions(training, key)
        x = concatenate(embeddings, tf.gather(self.sequences, labels))
        _, questions, features = x.shape.as_list()
        head_key = None if key is None else fold(key, 1)
        logits = model.head(tf.reshape(x, [-1, features]), training, head_key)
        logits = tf.reshape(logits, [-1, questions, len(self.sequences)])
        return classification(logits, tf.tile(labels[tf.newaxis], [tf.shape(logits)[0], 1]))


class Jigsaw(PatchTask):
    """Which permutation of a set are the patches in?

    A training step shows a few random permutations, the same for all images of a batch; evaluation
    shows the whole set.

    Args:
        permutations: the set, as the pipeline's step `jigsaw` names it.
        per_batch: number of permutations in a training step.
        embed_dim: length of a patch's embedding.
        head_units: see `PatchTask`.
    """

    name = "jigsaw"

    def __init__(self, permutations: str, per_batch: int, embed_dim: int, head_units: int):
        op = JigsawStep(permutations).ops(training=False, stream=0)[0]
        assert isinstance(op, ops.Jigsaw)
        super().__init__(np.array(op.permutations), embed_dim, head_units)
        if self.sequences.shape[1] != PATCHES:
            raise ValueError(
                f"permutations {permutations!r} have {self.sequences.shape[1]} patches, not "
                f"{PATCHES}"
            )
        if per_batch > len(self.sequences):
            raise ValueError(
                f"permutations_per_batch is {per_batch}, but the set {permutations!r} has "
                f"{len(self.sequences)}"
            )
        self._per_batch = per_batch

    def questions(self, training: bool, key: Optional[tf.Tensor]) -> tf.Tensor:
        """In training a random subset, drawn without replacement; otherwise the whole set."""
        if not training:
            return tf.range(len(self.sequences))
        drawn = draws(len(self.sequences), fold(key, 0))
        return tf.math.top_k(drawn, self._per_batch).indices


class RelativePatchLocation(PatchTask):
    """Where does a patch lie, seen from the centre? Eight classes, row by row."""

    name = "relative_patch_location"

    def __init__(self, embed_dim: int, head_units: int):
        pairs = [(patch, CENTRE) for patch in range(PATCHES) if patch != CENTRE]
        super().__init__(np.array(pairs), embed_dim, head_units)

    def questions(self, training: bool, key: Optional[tf.Tensor]) -> tf.Tensor:
        """All eight."""
        return tf.range(len(self.sequences))
