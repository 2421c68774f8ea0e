"""What a frozen network says of an image: every end point, pooled to a few thousand features."""

import dataclasses
import math
import os
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import tensorflow as tf

from . import models
from .export import PREFIX, ExportError, read_description
from .layers import Scope
from .recipes import LINEAR_EVAL, Recipe

_NETWORK = ("architecture", "mode", "filters_factor", "last_relu", "small_root", "patch_strides")


class Representation:
    """The network of an export, frozen.

    Args:
        module: folder of the export.

    Attributes:
        pipeline: how an image becomes what the network takes, as the export says.
        patches: whether it takes the patches of an image.
        end_points: their names, from the image to the logits.
        step: how many steps the network was trained for; None where that is not known.

    Raises: ExportError where the folder is no export.
    """

    def __init__(self, module: str):
        description = read_description(module)
        self.pipeline = description.representation_pipeline
        self.patches = description.patches
        self.end_points = list(description.end_points)
        self.step = description.step
        known = {name: description.recipe[name] for name in _NETWORK if name in description.recipe}
        # A VGG's variables depend on the size of the images that it was trained on.
        pipeline = description.recipe.get("pipeline", self.pipeline)
        self._recipe = dataclasses.replace(LINEAR_EVAL, pipeline=pipeline, **known)
        outputs = description.end_points.get("logits", (None,))[-1]
        if outputs is None:
            raise ExportError(f"{module} does not say how many logits its network has")
        self._outputs = outputs
        self._checkpoint = os.path.join(module, "variables", "variables")

    def network(self) -> Callable[[tf.Tensor], Dict[str, tf.Tensor]]:
        """Builds the network.

        Returns: a function from float32 [N, H, W, 3] to the end points.
        """
        reader = tf.train.load_checkpoint(self._checkpoint)

        def value(name: str) -> np.ndarray:
            # Without the prefix in what comes from a published hub module.
            return reader.get_tensor(name if reader.has_tensor(name) else name[len(PREFIX) :])

        any_size: Any = (None, None, 3)
        network: Any = models.build(
            self._recipe, Scope("module", values=value), any_size, self._outputs
        )
        return lambda x: network(x, False)[1]


def features(
    network: Callable[[tf.Tensor], Dict[str, tf.Tensor]],
    image: tf.Tensor,
    recipe: Recipe,
    end_points: Sequence[str],
) -> Dict[str, tf.Tensor]:
    """The features of a batch of images by end point.

    Args:
        network: as `Representation.network` builds it.
        image: float32 [N, H, W, C], or [N, patches, H, W, C].
        recipe: its `combine_patches`, `pooling` and `max_features` say how.
        end_points: which ones.

    Returns: float32 [N, features]; sizes differ by end point.
    """
    shape = image.shape.as_list()
    patches = shape[1] if len(shape) == 5 else 1
    points = network(tf.reshape(image, [-1, *shape[-3:]]))
    found = {}
    for name in end_points:
        x = tf.stop_gradient(points[name])
        if len(x.shape) == 2:
            x = x[:, tf.newaxis, tf.newaxis, :]
        if patches > 1:
            x = combine(tf.reshape(x, [-1, patches, *x.shape.as_list()[1:]]), recipe)
        found[name] = pool(x, recipe.pooling, recipe.max_features)
    return found


def combine(x: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """The maps of an image's patches as one: their mean, their maximum, or all channels.

    Shapes: [N, P, H, W, C] -> [N, H, W, C], or [N, H, W, P * C] for "concat".
    """
    if recipe.combine_patches == "avg_pool":
        return tf.reduce_mean(x, axis=1)
    if recipe.combine_patches == "max_pool":
        return tf.reduce_max(x, axis=1)
    _, patches, height, width, channels = x.shape.as_list()
    x = tf.transpose(x, [0, 2, 3, 1, 4])
    return tf.reshape(x, [-1, height, width, patches * channels])


def pool(x: tf.Tensor, mode: str, limit: int) -> tf.Tensor:
    """Pools height and width until no more than `limit` values are left, and flattens.

    Args:
        x: float32 [N, H, W, C].
        mode: "adaptive_max" and "adaptive_avg" cut the map into the most rows and columns that
            fit, as even as can be, as many of each; "max" and "avg" slide a square window of the
            smallest side that does, by its own side.
        limit: of values. Channels are never pooled: C values are the fewest.

    Returns: float32 [N, h * w * C].
    """
    _, height, width, channels = x.shape.as_list()
    if mode.startswith("adaptive_"):
        side = max(1, math.floor(math.sqrt(limit / channels)))
        reduce = tf.reduce_max if mode == "adaptive_max" else tf.reduce_mean
        for axis, size in ((1, height), (2, width)):
            parts = [
                reduce(tf.gather(x, tf.range(begin, end), axis=axis), axis=axis)
                for begin, end in _cuts(size, min(size, side))
            ]
            x = tf.stack(parts, axis=axis)
    else:
        window = 1
        while -(-height // window) * -(-width // window) * channels > limit:
            if window >= max(height, width):
                break
            window += 1
        function = tf.nn.max_pool2d if mode == "max" else tf.nn.avg_pool2d
        x = function(x, ksize=window, strides=window, padding="SAME")
    size = 1
    for dimension in x.shape.as_list()[1:]:
        size *= dimension
    return tf.reshape(x, [-1, size])


def _cuts(size: int, count: int) -> List[Tuple[int, int]]:
    """`size` pixels in `count` ranges; those that do not divide evenly overlap by one."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
