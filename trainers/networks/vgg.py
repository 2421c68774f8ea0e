"""VGG19 (Simonyan and Zisserman, 2014) with batch normalisation and a widening factor."""

from typing import Dict, List, Tuple

import tensorflow as tf

from .layers import BatchNorm, Conv, Scope, max_pool
from .resnet import whole_filters

# Convolutions of each block, and their channels as multiples of the first block's.
_BLOCKS = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))


class ConvBatchNormReLU(tf.Module):
    """A convolution without bias, batch normalisation, ReLU.

    Args:
        size: side of the kernel.
        padding: as for `Conv`.
    """

    def __init__(
        self,
        scope: Scope,
        channels: int,
        filters: int,
        size: int,
        padding: str,
        weight_decay: float,
    ):
        super().__init__()
        self._conv = Conv(
            scope, channels, filters, size, padding=padding, weight_decay=weight_decay
        )
        self._norm = BatchNorm(scope, filters)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """[N, H, W, channels] -> [N, H', W', filters]."""
        return tf.nn.relu(self._norm(self._conv(x), training))


class VGG19(tf.Module):
    """A VGG of 19 layers whose width is filters = 8 x filters_factor.

    As in the published code every layer but the last is normalised, the fully connected ones too,
    and there is no dropout. The fully connected layers are convolutions, the first as large as the
    last pooled map of the images that the network is built for: 7 x 7 for 224 pixels.

    On larger images the fully connected layers give a map, whose mean over places is `pre_logits`.

    Args:
        scope: names the layers and makes their variables.
        side: of the square images that the network is built for, 32 pixels or more. Every 32
            pixels more make the first fully connected layer's kernel one larger; on images of
            fewer than side // 32 * 32 pixels the network cannot work.
        channels: of the input image.
        outputs: units of the logits.
        filters_factor: 8 is the usual VGG19.
        weight_decay: of all kernels.
    """

    def __init__(
        self,
        scope: Scope,
        side: int,
        channels: int,
        outputs: int,
        filters_factor: float = 8,
        weight_decay: float = 1e-4,
    ):
        super().__init__()
        if side < 32:
            raise ValueError(f"vgg19 needs images of 32 x 32 pixels or more, not {side} x {side}")
        filters = whole_filters(filters_factor, 8)
        self._side = side // 32
        self._blocks: List[List[ConvBatchNormReLU]] = []
        for convolutions, multiple in _BLOCKS:
            block = []
            for _ in range(convolutions):
                block.append(
                    ConvBatchNormReLU(scope, channels, multiple * filters, 3, "fixed", weight_decay)
                )
                channels = multiple * filters
            self._blocks.append(block)
        units = 64 * filters
        self._fc6 = ConvBatchNormReLU(scope, channels, units, self._side, "valid", weight_decay)
        self._fc7 = ConvBatchNormReLU(scope, units, units, 1, "valid", weight_decay)
        self._logits = Conv(scope, units, outputs, 1, weight_decay=weight_decay, bias=0)

    def __call__(self, image: tf.Tensor, training: bool) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """Logits and end points.

        Args:
            image: [N, H, W, channels], float32 or of 16 bits.
            training: normalise by the batch and update the running statistics.

        Returns:
            logits, float32 [N, outputs], and a dict of `block1` to `block5` (before they are
            pooled) and `fc6` [N, h, w, c], `pre_logits` [N, c] and `logits`.

        Raises: ValueError for an image that is too small, where its size is known.
        """
        least = 32 * self._side
        height, width = image.shape.as_list()[1:3]
        if any(side is not None and side < least for side in (height, width)):
            raise ValueError(
                f"this vgg19 needs images of {least} x {least} pixels or more, not "
                f"{height} x {width}: its fc6 has a kernel of {self._side} x {self._side}"
            )
        end_points = {}
        x = image
        for number, block in enumerate(self._blocks, 1):
            for layer in block:
                x = layer(x, training)
            end_points[f"block{number}"] = x
            x = max_pool(x, 2, 2, "valid")
        x = end_points["fc6"] = self._fc6(x, training)
        x = tf.cast(self._fc7(x, training), tf.float32)
        x = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
        end_points["pre_logits"] = tf.squeeze(x, [1, 2])
        logits = end_points["logits"] = tf.squeeze(self._logits(x), [1, 2])
        return logits, end_points
