"""The networks by name. Each maps an image to logits and a dict of end points."""

from typing import Callable, Dict

import tensorflow as tf

from ..recipes import Network
from .layers import Scope, Shape
from .resnet import ResNet50
from .revnet import RevNet50
from .vgg import VGG19

Build = Callable[[Network, Scope, Shape, int, float], tf.Module]

ARCHITECTURES: Dict[str, Build] = {"resnet50": ResNet50, "revnet50": RevNet50, "vgg19": VGG19}


def build(
    network: Network, scope: Scope, image: Shape, outputs: int, weight_decay: float
) -> tf.Module:
    """Builds a network.

    Args:
        network: says what it is.
        scope: names the layers and makes their variables.
        image: height, width and channels of the views that the network is trained on.
        outputs: number of the logits.
        weight_decay: scale x sum(kernel ** 2) / 2 is added to the loss for each kernel.

    Returns:
        a module; `module(image, training)` gives logits, float32 [N, outputs], and end points.

    Raises: ValueError for an unknown architecture or an impossible choice of its options.
    """
    name = network.architecture
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, not {name!r}")
    if network.reversible and name != "revnet50":
        raise ValueError(
            f"reversible=True needs architecture revnet50: the units of {name} cannot be inverted"
        )
    return ARCHITECTURES[name](network, scope, image, outputs, weight_decay)
