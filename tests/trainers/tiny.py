"""A network of one convolution, for tests in which the network does not matter."""

import numpy as np
import tensorflow as tf
from pretexture.loader import ArraySpec, Batch
from pretexture.loader.console.interrupt import Interrupt
from pretexture.trainers import networks
from pretexture.trainers.engines.engine import Follower, Wishes
from pretexture.trainers.networks.layers import BatchNorm, Conv
from pretexture.trainers.recipes import RECIPES, Network, Optimizer, Recipe

ROTATION = Recipe(
    task="rotation",
    pipeline="inception_crop(area=(0.5, 1))|resize(12)|range(-1, 1)|rotate",
    network=Network("tiny"),
    batch_size=6,
    eval_batch_size=5,
    epochs=3.0,
    optimizer=Optimizer(lr=2.0, warmup_epochs=0.5, decay_epochs=(2.0,)),
)
JIGSAW = Recipe(
    task="jigsaw",
    pipeline="resize(24)|crop(21)|patches(3, jitter=1)|standardize",
    network=Network("tiny"),
    embed_dim=3,
    batch_size=6,
    eval_batch_size=5,
    epochs=1.0,
)


# Without batch normalisation, a batch's gradient is the mean of those of its parts. The rate
# is low, so that rounding errors stay small.
PLAIN = ROTATION.replace(architecture="tiny-plain", batch_size=12, lr=0.5, warmup_epochs=0.0)


def specification(images):
    """The specification of the batches of ROTATION and PLAIN, with that number of images."""
    return Batch(
        ArraySpec((images, 4, 12, 12, 3), "float32"),
        ArraySpec((images, 4), "int32"),
        ArraySpec((images,), "int64"),
    )


def turned(seed):
    """A batch of `specification(6)`: images that are bright on one side, each in four turns."""
    random = np.random.RandomState(seed)
    image = random.uniform(-0.3, 0.3, (6, 12, 12, 3)) + np.linspace(1, -1, 12)[:, None, None]
    turns = np.stack([np.rot90(image, k, (1, 2)) for k in range(4)], 1).astype(np.float32)
    return Batch(turns, np.tile(np.arange(4, dtype=np.int32), (6, 1)), np.arange(6))


def train(engine, batches, steps=None):
    """Makes an engine's next steps, by default one for each batch; returns the values of each."""
    follower = _Collector()
    engine.fit(batches, engine.step + (steps or len(batches)), follower, Interrupt())
    return follower.values


class _Collector(Follower):
    def __init__(self):
        self.values = []

    def shows(self, step):
        return False

    def wishes(self):
        return Wishes()

    def needs_state(self, step):
        return False

    def after(self, result):
        self.values.append(result.values)
        return True


class Tiny(tf.Module):
    """Convolution, normalisation if `norm`, ReLU, means of the quadrants, logits."""

    def __init__(self, scope, channels, outputs, weight_decay, norm=True):
        super().__init__()
        self._conv = Conv(scope, channels, 8, 3, 2, weight_decay=weight_decay)
        self._norm = BatchNorm(scope, 8) if norm else None
        self._logits = Conv(scope, 32, outputs, 1, weight_decay=weight_decay, bias=0)

    def __call__(self, image, training):
        x = self._conv(image)
        x = tf.nn.relu(self._norm(x, training) if self._norm else x)
        # A mean for each quadrant, so that the network can see how an image is turned. Sizes may be
        # unknown, because an export takes images of any size.
        known = zip(x.shape.as_list()[1:3], tf.unstack(tf.shape(x)[1:3]))
        height, width = ((side if side else found) // 2 for side, found in known)
        quadrants = [x[:, :height, :width], x[:, :height, width:]]
        quadrants += [x[:, height:, :width], x[:, height:, width:]]
        x = tf.concat([tf.reduce_mean(q, [1, 2], keepdims=True) for q in quadrants], 3)
        x = tf.cast(x, tf.float32)
        logits = tf.squeeze(self._logits(x), [1, 2])
        return logits, {"logits": logits}


def register(setitem):
    """Registers the networks and recipes by name, with `setitem(mapping, key, value)`."""
    for name, norm in (("tiny", True), ("tiny-plain", False)):
        setitem(
            networks.ARCHITECTURES,
            name,
            lambda network, scope, image, outputs, weight_decay, norm=norm: Tiny(
                scope, image[2], outputs, weight_decay, norm
            ),
        )
    setitem(RECIPES, "tiny-rotation", ROTATION)
    setitem(RECIPES, "tiny-jigsaw", JIGSAW)
    setitem(RECIPES, "tiny-plain", PLAIN)
