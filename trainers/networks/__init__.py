"""The networks by name. Each maps an image to logits and a dict of end points."""

from typing import Callable, Dict, Tuple

import tensorflow as tf
from pretexture.loader import Pipeline

from ..recipes import Recipe
from .layers import Scope
from .resnet import ResNet50
from .revnet import RevNet50
from .vgg import VGG19

Shape = Tuple[int, ...]


def _resnet50(recipe: Recipe, scope: Scope, image: Shape, outputs: int) -> tf.Module:
    return ResNet50(
        scope,
        image[2],
        outputs,
        mode=recipe.mode,
        filters_factor=recipe.filters_factor,
        last_relu=recipe.last_relu,
        small_root=recipe.small_root,
        patch_strides=recipe.patch_strides,
        weight_decay=recipe.weight_decay,
    )


def _revnet50(recipe: Recipe, scope: Scope, image: Shape, outputs: int) -> tf.Module:
    return RevNet50(
        scope,
        image[2],
        outputs,
        filters_factor=recipe.filters_factor,
        last_relu=recipe.last_relu,
        small_root=recipe.small_root,
        patch_strides=recipe.patch_strides,
        weight_decay=recipe.weight_decay,
        reversible=recipe.reversible,
    )


def _vgg19(recipe: Recipe, scope: Scope, image: Shape, outputs: int) -> tf.Module:
    height, width, channels = image
    if None in image:
        plan = Pipeline(recipe.pipeline).compile(training=True)
        height, width = plan.height, plan.width
    if height != width:
        raise ValueError(f"vgg19 is trained on square images, not on {height} x {width}")
    return VGG19(
        scope,
        height,
        channels,
        outputs,
        filters_factor=recipe.filters_factor,
        weight_decay=recipe.weight_decay,
    )


ARCHITECTURES: Dict[str, Callable[[Recipe, Scope, Shape, int], tf.Module]] = {
    "resnet50": _resnet50,
    "revnet50": _revnet50,
    "vgg19": _vgg19,
}


def build(recipe: Recipe, scope: Scope, image: Shape, outputs: int) -> tf.Module:
    """The network that a recipe names.

    Args:
        recipe: its fields from `architecture` on describe the network.
        scope: names the layers and makes their variables.
        image: height, width and channels of a view; height and width may be None. A network whose
            variables depend on them then takes those of the recipe's training views.
        outputs: units of the logits.

    Returns:
        a module; `module(image, training)` gives logits, float32 [N, outputs], and end points.

    Raises: ValueError for an unknown architecture or an impossible choice of its options.
    """
    if recipe.architecture not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise ValueError(f"architecture must be one of {names}, not {recipe.architecture!r}")
    if recipe.reversible and recipe.architecture != "revnet50":
        raise ValueError(
            f"reversible=True needs architecture revnet50: {recipe.architecture} has no units that "
            f"can be undone"
        )
    return ARCHITECTURES[recipe.architecture](recipe, scope, image, outputs)
