"""A network of one convolution, for tests of what goes on around a network."""

import tensorflow as tf
from pretexture.trainers import models
from pretexture.trainers.layers import BatchNorm, Conv
from pretexture.trainers.recipes import RECIPES, Recipe

ROTATION = Recipe(
    task="rotation",
    pipeline="inception_crop(area=(0.5, 1))|resize(12)|range(-1, 1)|rotate",
    architecture="tiny",
    batch_size=6,
    eval_batch_size=5,
    epochs=3.0,
    lr=2.0,
    warmup_epochs=0.5,
    decay_epochs=(2.0,),
)
JIGSAW = Recipe(
    task="jigsaw",
    pipeline="resize(24)|crop(21)|patches(3, jitter=1)|standardize",
    architecture="tiny",
    embed_dim=3,
    batch_size=6,
    eval_batch_size=5,
    epochs=1.0,
)


class Tiny(tf.Module):
    """Convolution, normalisation, ReLU, mean, logits."""

    def __init__(self, scope, channels, outputs, weight_decay):
        super().__init__()
        self._conv = Conv(scope, channels, 8, 3, 2, weight_decay=weight_decay)
        self._norm = BatchNorm(scope, 8)
        self._logits = Conv(scope, 32, outputs, 1, weight_decay=weight_decay, bias=0)

    def __call__(self, image, training):
        x = tf.nn.relu(self._norm(self._conv(image), training))
        # Quadrants apart, so that a turned image looks turned.
        height, width = (side // 2 for side in x.shape.as_list()[1:3])
        quadrants = [x[:, :height, :width], x[:, :height, width:]]
        quadrants += [x[:, height:, :width], x[:, height:, width:]]
        x = tf.concat([tf.reduce_mean(q, [1, 2], keepdims=True) for q in quadrants], 3)
        x = tf.cast(x, tf.float32)
        logits = tf.squeeze(self._logits(x), [1, 2])
        return logits, {"logits": logits}


def register(setitem):
    """Makes the network and two recipes known by name; `setitem(mapping, key, value)` does it."""
    setitem(
        models.ARCHITECTURES,
        "tiny",
        lambda recipe, scope, image, outputs: Tiny(scope, image[2], outputs, recipe.weight_decay),
    )
    setitem(RECIPES, "tiny-rotation", ROTATION)
    setitem(RECIPES, "tiny-jigsaw", JIGSAW)
