"""RevNet-50 with a widening factor (Gomez et al., 2017; in the form of Jacobsen et al., 2018).

Each unit can be inverted: from its output [x2, y1], x1 = y1 - F(x2). So a backward pass can compute
the activations that it needs, unit by unit from the last to the first, instead of keeping them.
"""

from typing import Any, Dict, List, Sequence, Tuple

import tensorflow as tf

from ..recipes import Network
from .layers import BatchNorm, Logits, Scope, Shape
from .resnet import UNITS, BottleneckV2, Root, whole_filters

Pair = Tuple[tf.Tensor, tf.Tensor]


class ReversibleUnit(tf.Module):
    """Maps x1 and x2 to x2 and x1 + F(x2), F a pre-activated bottleneck without shortcut.

    Args:
        channels: number of channels of x1 and of x2.
        weight_decay: weight decay of all kernels.

    x1 and x2 are float32 [N, H, W, channels]. F may compute in 16 bits, but the sums stay float32:
    in 16 bits, the difference would not give x1 back.
    """

    def __init__(self, scope: Scope, channels: int, weight_decay: float):
        super().__init__()
        self._bottleneck = BottleneckV2(scope, channels, channels, 1, weight_decay, residual=False)

    def __call__(self, x: Pair, training: bool, dtype: tf.DType) -> Pair:
        """The unit's output.

        Args:
            dtype: type in which F computes.
        """
        x1, x2 = x
        return x2, x1 + self._function(x2, training, dtype)

    def backward(
        self, y: Pair, dy: Pair, variables: Sequence[tf.Variable], dtype: tf.DType
    ) -> Tuple[Pair, Pair, List[tf.Tensor]]:
        """From the unit's output in training to its input, and from its gradient to theirs.

        Args:
            y: the unit's output.
            dy: gradient of the loss with respect to `y`.
            variables: variables whose gradients are wanted.
            dtype: type in which F computes.

        Returns: x, its gradient, and those of the variables, None for variables of other units.
        """
        x2, total = y
        with tf.GradientTape() as tape:
            tape.watch(x2)
            value = self._function(x2, True, dtype, update=False)
        dx2, *dvariables = tape.gradient(value, [x2, *variables], dy[1])
        return (total - value, x2), (dy[1], dy[0] + dx2), dvariables

    def _function(
        self, x: tf.Tensor, training: bool, dtype: tf.DType, update: bool = True
    ) -> tf.Tensor:
        return tf.cast(self._bottleneck(tf.cast(x, dtype), training, update), tf.float32)


class ReversibleBlock(tf.Module):
    """A sequence of reversible units; x1 and x2 are halves of the channels.

    Args:
        units: number of units.
        reversible: whether training keeps only the last unit's output and the first unit's x2 for
            the backward pass, which then evaluates each F once more. The output is the same;
            gradients differ by the rounding of x1 + F(x2) - F(x2).

    In eager mode `reversible` saves nothing, because a tape outside records the units' operations
    too.

    Shapes: float32 [N, H, W, channels] -> the same.
    """

    def __init__(
        self, scope: Scope, channels: int, units: int, weight_decay: float, reversible: bool
    ):
        super().__init__()
        self._units = [ReversibleUnit(scope, channels // 2, weight_decay) for _ in range(units)]
        self._reversible = reversible

    def __call__(self, x: tf.Tensor, training: bool, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """The block's output; `dtype` as for `ReversibleUnit`."""

        @tf.custom_gradient
        def reversible(x1: tf.Tensor, x2: tf.Tensor) -> Tuple[Pair, Any]:
            y = self._forward((x1, x2), True, dtype)

            def gradient(
                dy1: tf.Tensor, dy2: tf.Tensor, variables: Sequence[tf.Variable]
            ) -> Tuple[Pair, List[tf.Tensor]]:
                return self._backward(x2, y, (dy1, dy2), variables, dtype)

            return y, gradient

        halves = tf.split(x, 2, axis=3)
        if self._reversible and training:
            return tf.concat(reversible(*halves), axis=3)
        return tf.concat(self._forward(halves, training, dtype), axis=3)

    def _forward(self, x: Pair, training: bool, dtype: tf.DType) -> Pair:
        for unit in self._units:
            x = unit(x, training, dtype)
        return x

    def _backward(
        self, x2: tf.Tensor, y: Pair, dy: Pair, variables: Sequence[tf.Variable], dtype: tf.DType
    ) -> Tuple[Pair, List[tf.Tensor]]:
        """Gradients of the block's input and of the variables.

        Args:
            x2: the first unit's x2. It holds the channels of zeros that are added between blocks.
                ReLU's derivative jumps at zero, so these may not be recomputed with rounding
                errors.
        """
        gradients: List[Any] = [None] * len(variables)
        found: List[tf.Tensor] = []
        for unit in reversed(self._units):
            if unit is self._units[0]:
                y = (x2, y[1])
            # Without these dependencies a graph may evaluate F early, for all units at once.
            y1, y2, dy1, dy2 = tf.tuple([*y, *dy], control_inputs=found)
            y, dy, dvariables = unit.backward((y1, y2), (dy1, dy2), variables, dtype)
            found = [value for value in dvariables if value is not None]
            gradients = [b if a is None else a for a, b in zip(gradients, dvariables)]
        return tf.tuple(dy, control_inputs=found), gradients


class RevNet50(tf.Module):
    """A RevNet with a ResNet-50's units, 16 x filters_factor wide; see `networks.build`.

    The root convolution, which only widens the image to 64 x filters_factor channels, has no weight
    decay. Between blocks the image is halved by average pooling and gets as many channels of zeros
    as it has, half of them before and half after.
    """

    def __init__(
        self, network: Network, scope: Scope, image: Shape, outputs: int, weight_decay: float
    ):
        super().__init__()
        width = 4 * whole_filters(network.filters_factor)
        self._root = Root(network, scope, image[2], width)
        self._strides = (2, 2, 1) if network.patch_strides else (2, 2, 2)
        self._blocks = [
            ReversibleBlock(scope, width << number, units, weight_decay, network.reversible)
            for number, units in enumerate(UNITS)
        ]
        self._norm = BatchNorm(scope, width << 3)
        self._last_relu = network.last_relu
        self._logits = Logits(scope, width << 3, outputs, weight_decay)

    def __call__(self, image: tf.Tensor, training: bool) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """Logits and end points, as `ResNet50`."""
        end_points = {}
        x = end_points["after_root"] = tf.cast(self._root(image, training), tf.float32)
        for number, block in enumerate(self._blocks, 1):
            if number > 1:
                x = _halve(x, self._strides[number - 2])
            x = end_points[f"block{number}"] = block(x, training, image.dtype)
        x = self._norm(x, training)
        if self._last_relu:
            x = tf.nn.relu(x)
        return self._logits(x, end_points)


def _halve(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Average pooling by `stride`, and channels of zeros to twice as many."""
    if stride > 1:
        x = tf.nn.avg_pool2d(x, ksize=stride, strides=stride, padding="SAME")
    zeros = [int(x.shape[3]) // 2] * 2
    return tf.pad(x, [[0, 0], [0, 0], [0, 0], zeros])
