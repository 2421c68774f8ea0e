"""RevNet-50 with a widening factor (Gomez et al., 2017; in the form of Jacobsen et al., 2018).

Each unit can be inverted: from its output [x2, y1], x1 = y1 - F(x2).
"""

from typing import Dict, List, Tuple

import tensorflow as tf

from ..layers import BatchNorm, Conv, Scope, max_pool
from .resnet import UNITS, BottleneckV2, whole_filters


class ReversibleUnit(tf.Module):
    """Splits the channels into x1 and x2 and gives [x2, x1 + F(x2)], F a bottleneck.

    Shapes: [N, H, W, channels] -> the same.
    """

    def __init__(self, scope: Scope, channels: int, weight_decay: float):
        super().__init__()
        half = channels // 2
        self._function = BottleneckV2(scope, half, half, 1, weight_decay, residual=False)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """The unit's output for `x`."""
        x1, x2 = tf.split(x, 2, axis=3)
        return tf.concat([x2, x1 + self._function(x2, training)], axis=3)


class RevNet50(tf.Module):
    """A RevNet with a ResNet-50's units, whose width is filters = 16 x filters_factor.

    The root convolution, which only widens the image to 4 x filters channels, has no weight decay.
    Between blocks the image is halved by average pooling and gets as many channels of zeros as it
    has, half of them before and half after.

    Args:
        scope: names the layers and makes their variables.
        channels: of the input image.
        outputs: units of the logits.
        filters_factor: see above.
        last_relu: whether the network ends in a ReLU.
        small_root: a 3x3 root convolution without stride or pooling.
        patch_strides: as for `ResNet50`.
        weight_decay: of all kernels but the root's.
    """

    def __init__(
        self,
        scope: Scope,
        channels: int,
        outputs: int,
        filters_factor: float = 4,
        last_relu: bool = True,
        small_root: bool = False,
        patch_strides: bool = False,
        weight_decay: float = 1e-4,
    ):
        super().__init__()
        width = 4 * whole_filters(filters_factor)
        size, stride = (3, 1) if small_root else (7, 1 if patch_strides else 2)
        self._pooled = not small_root
        self._root = Conv(scope, channels, width, size, stride)
        self._strides = (2, 2, 1) if patch_strides else (2, 2, 2)
        self._blocks: List[List[ReversibleUnit]] = []
        for number, units in enumerate(UNITS):
            self._blocks.append(
                [ReversibleUnit(scope, width << number, weight_decay) for _ in range(units)]
            )
        self._norm = BatchNorm(scope, width << 3)
        self._last_relu = last_relu
        self._logits = Conv(scope, width << 3, outputs, 1, weight_decay=weight_decay, bias=0)

    def __call__(self, image: tf.Tensor, training: bool) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """Logits and end points, as `ResNet50`."""
        end_points = {}
        x = self._root(image)
        if self._pooled:
            x = max_pool(x, 3, 2)
        end_points["after_root"] = x
        for number, block in enumerate(self._blocks, 1):
            if number > 1:
                x = _halve(x, self._strides[number - 2])
            for unit in block:
                x = unit(x, training)
            end_points[f"block{number}"] = x
        x = self._norm(x, training)
        if self._last_relu:
            x = tf.nn.relu(x)
        x = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
        end_points["pre_logits"] = tf.squeeze(x, [1, 2])
        logits = end_points["logits"] = tf.squeeze(self._logits(x), [1, 2])
        return logits, end_points


def _halve(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Average pooling by `stride`, and channels of zeros to twice as many."""
    if stride > 1:
        x = tf.nn.avg_pool2d(x, ksize=stride, strides=stride, padding="SAME")
    zeros = [int(x.shape[3]) // 2] * 2
    return tf.pad(x, [[0, 0], [0, 0], [0, 0], zeros])
