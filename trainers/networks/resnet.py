"""ResNet-50 with a widening factor: v1 (He et al., 2015) and v2, pre-activated (He et al., 2016).

As in the published code, a bottleneck's stride is in its 3x3 convolution: the 1x1 before it would
throw three quarters of its input away.
"""

import functools
from typing import Dict, List, Tuple

import tensorflow as tf

from ..recipes import Network
from .layers import BatchNorm, Conv, ConvNorm, Logits, Scope, Shape, max_pool

UNITS = (3, 4, 6, 3)


class BottleneckV1(tf.Module):
    """Convolutions 1x1, 3x3 and 1x1, each normalised, added to the shortcut, then ReLU.

    Args:
        scope: names the layers and makes their variables.
        channels: number of the input's channels.
        filters: number of the output's channels; the inner convolutions have a quarter of them.
        stride: stride of the 3x3 convolution. If it is not 1, or if the number of channels changes,
            the shortcut is projected and normalised.
        weight_decay: weight decay of all kernels.
    """

    def __init__(self, scope: Scope, channels: int, filters: int, stride: int, weight_decay: float):
        super().__init__()
        inner = filters // 4
        layer = functools.partial(ConvNorm, scope, weight_decay=weight_decay)
        self._project = None
        if stride > 1 or filters != channels:
            self._project = layer(channels, filters, 1, stride, activated=False)
        self._layers = [
            layer(channels, inner, 1),
            layer(inner, inner, 3, stride),
            layer(inner, filters, 1, activated=False),
        ]

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """[N, H, W, channels] -> [N, H / stride, W / stride, filters]."""
        shortcut = self._project(x, training) if self._project else x
        for layer in self._layers:
            x = layer(x, training)
        return tf.nn.relu(shortcut + x)


class BottleneckV2(tf.Module):
    """As `BottleneckV1`, but each convolution's input is normalised and activated.

    A projected shortcut starts from that input too, and is not normalised.

    Args:
        residual: False leaves the shortcut out, as RevNets do.
    """

    def __init__(
        self,
        scope: Scope,
        channels: int,
        filters: int,
        stride: int,
        weight_decay: float,
        residual: bool = True,
    ):
        super().__init__()
        inner = filters // 4
        conv = functools.partial(Conv, scope, weight_decay=weight_decay)
        self._residual = residual
        projects = stride > 1 or filters != channels
        self._norm1 = BatchNorm(scope, channels)
        self._project = conv(channels, filters, 1, stride) if projects else None
        self._conv1 = conv(channels, inner, 1)
        self._norm2 = BatchNorm(scope, inner)
        self._conv2 = conv(inner, inner, 3, stride)
        self._norm3 = BatchNorm(scope, inner)
        self._conv3 = conv(inner, filters, 1)

    def __call__(self, x: tf.Tensor, training: bool, update: bool = True) -> tf.Tensor:
        """[N, H, W, channels] -> [N, H / stride, W / stride, filters]; `update` as `BatchNorm`."""
        shortcut = x
        x = tf.nn.relu(self._norm1(x, training, update))
        if self._project:
            shortcut = self._project(x)
        x = self._conv1(x)
        x = self._conv2(tf.nn.relu(self._norm2(x, training, update)))
        x = self._conv3(tf.nn.relu(self._norm3(x, training, update)))
        return x + shortcut if self._residual else x


class Root(tf.Module):
    """The first convolution and, on images of usual size, a max pooling.

    With `small_root` the convolution is 3x3 without pooling, for images of some 32 to 96 pixels;
    otherwise it is 7x7, with a 3x3 pooling of stride 2.

    Args:
        filters: number of the output's channels.
        activated: whether to normalise and activate between convolution and pooling.
    """

    def __init__(
        self,
        network: Network,
        scope: Scope,
        channels: int,
        filters: int,
        activated: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        size, stride = (3, 1) if network.small_root else (7, 1 if network.patch_strides else 2)
        self._pooled = not network.small_root
        self._conv = Conv(scope, channels, filters, size, stride, weight_decay=weight_decay)
        self._norm = BatchNorm(scope, filters) if activated else None

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """[N, H, W, channels] -> [N, H', W', filters]."""
        x = self._conv(x)
        if self._norm:
            x = tf.nn.relu(self._norm(x, training))
        return max_pool(x, 3, 2) if self._pooled else x


class ResNet50(tf.Module):
    """A ResNet of 50 layers whose width is filters = 16 x filters_factor; see `networks.build`.

    With `patch_strides` the root convolution has stride 1 and the blocks 1, 2, 2, 1; otherwise 2
    and 1, 2, 2, 2.
    """

    def __init__(
        self, network: Network, scope: Scope, image: Shape, outputs: int, weight_decay: float
    ):
        super().__init__()
        mode, last_relu = network.mode, network.last_relu
        if mode not in ("v1", "v2"):
            raise ValueError(f"mode must be v1 or v2, not {mode!r}")
        if mode == "v1" and not last_relu:
            raise ValueError("mode v1 always ends in a ReLU: last_relu=False needs mode v2")
        width = whole_filters(network.filters_factor)
        bottleneck = BottleneckV1 if mode == "v1" else BottleneckV2
        self._root = Root(network, scope, image[2], width, mode == "v1", weight_decay)
        channels, filters = width, 4 * width
        strides = (1, 2, 2, 1) if network.patch_strides else (1, 2, 2, 2)
        self._blocks: List[List[tf.Module]] = []
        for units, stride in zip(UNITS, strides):
            block = []
            for unit in range(units):
                block.append(
                    bottleneck(scope, channels, filters, 1 if unit else stride, weight_decay)
                )
                channels = filters
            self._blocks.append(block)
            filters *= 2
        self._norm = BatchNorm(scope, channels) if mode == "v2" else None
        self._last_relu = last_relu
        self._logits = Logits(scope, channels, outputs, weight_decay)

    def __call__(self, image: tf.Tensor, training: bool) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """Logits and end points.

        Args:
            image: float32 [N, H, W, channels].
            training: normalise by the batch and update the running statistics.

        Returns:
            logits, float32 [N, outputs], and a dict of `after_root` and `block1` to `block4`
            [N, h, w, c], `pre_logits` [N, c] and `logits`.
        """
        end_points = {}
        x = end_points["after_root"] = self._root(image, training)
        for number, block in enumerate(self._blocks, 1):
            for unit in block:
                x = unit(x, training)
            end_points[f"block{number}"] = x
        if self._norm:
            x = self._norm(x, training)
            if self._last_relu:
                x = tf.nn.relu(x)
        return self._logits(x, end_points)


def whole_filters(filters_factor: float, unit: int = 16) -> int:
    """unit x filters_factor. Raises ValueError if that is not a positive whole number."""
    filters = unit * filters_factor
    if filters < 1 or filters != int(filters):
        raise ValueError(
            f"filters_factor must be a multiple of 1/{unit} above 0, not {filters_factor}"
        )
    return int(filters)
