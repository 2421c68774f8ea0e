"""VGG19 (Simonyan and Zisserman, 2014) with batch normalisation and a widening factor."""

import functools
from typing import Dict, List, Tuple

import tensorflow as tf

from ..recipes import Network
from .layers import ConvNorm, Logits, Scope, Shape, max_pool
from .resnet import whole_filters

# Convolutions of each block, and their channels as multiples of the first block's.
_BLOCKS = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))


class VGG19(tf.Module):
    """A VGG of 19 layers whose width is filters = 8 x filters_factor; see `networks.build`.

    As in the published code every layer but the last is normalised, the fully connected ones too,
    and there is no dropout. The fully connected layers are convolutions. The first one's kernel is
    as large as the last pooled map of the square images that the network is trained on: 7 x 7 for
    224 pixels, one more for every 32 pixels. On smaller images than these the network does not
    work. On larger ones the fully connected layers give a map, whose mean is `pre_logits`.
    """

    def __init__(
        self, network: Network, scope: Scope, image: Shape, outputs: int, weight_decay: float
    ):
        super().__init__()
        height, width, channels = image
        if height != width:
            raise ValueError(f"vgg19 is trained on square images, not on {height} x {width}")
        if height < 32:
            raise ValueError(
                f"vgg19 needs images of 32 x 32 pixels or more, not {height} x {width}"
            )
        filters = whole_filters(network.filters_factor, 8)
        self._side = height // 32
        layer = functools.partial(ConvNorm, scope, weight_decay=weight_decay)
        self._blocks: List[List[ConvNorm]] = []
        for convolutions, multiple in _BLOCKS:
            block = []
            for _ in range(convolutions):
                block.append(layer(channels, multiple * filters, 3))
                channels = multiple * filters
            self._blocks.append(block)
        units = 64 * filters
        self._fc6 = layer(channels, units, self._side, padding="valid")
        self._fc7 = layer(units, units, 1, padding="valid")
        self._logits = Logits(scope, units, outputs, weight_decay)

    def __call__(self, image: tf.Tensor, training: bool) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """Logits and end points.

        Args:
            image: [N, H, W, channels], float32 or of 16 bits.
            training: normalise by the batch and update the running statistics.

        Returns:
            logits, float32 [N, outputs], and a dict of `block1` to `block5` (before they are
            pooled) and `fc6` [N, h, w, c], `pre_logits` [N, c] and `logits`.

        Raises: ValueError for an image that is too small, if its size is known.
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
        return self._logits(self._fc7(x, training), end_points)
