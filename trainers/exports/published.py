"""Networks trained with the published code, github.com/google/revisiting-self-supervised.

Its checkpoints name variables as ours do, `module/conv2d/kernel` and so on. Its hub modules, the
form in which trained networks were published, leave `module/` out.
"""

import dataclasses
import os
import re
from typing import Optional

import tensorflow as tf
from pretexture.loader import Pipeline, presets

from ..recipes import Network
from ..runs.checkpoints import CheckpointError
from .description import Description
from .saved_model import Source
from .weights import Weights

_VGG_FC6 = "module/conv2d_16/kernel"  # as large as the last map, a 32nd of the image


@dataclasses.dataclass(frozen=True)
class Published:
    """What a checkpoint does not say of its network.

    Attributes:
        path: path of the checkpoint, with or without the endings of its files; or the folder of a
            run, whose newest checkpoint is taken; or the folder of a hub module.
        network: what the network is.
        num_classes: number of the logits: 1000 classes, 4 rotations, or the length of an embedding.
        pipeline: how an image becomes what the network takes, or the name of a preset; None for
            EVAL or, with `patch_strides`, EVAL_PATCHES. A VGG then gets images of the size that it
            was trained on, which its kernels tell.
    """

    path: str
    network: Network
    num_classes: int
    pipeline: Optional[str] = None


def source(published: Published) -> Source:
    """The network of a published checkpoint. Raises CheckpointError, PipelineError."""
    weights = Weights(_checkpoint(published.path))
    kernel = weights.shape(_VGG_FC6)
    is_vgg = published.network.architecture == "vgg19" and kernel is not None
    side = 32 * kernel[0] if is_vgg and kernel else None
    pipeline = _pipeline(published, side)
    description = Description(
        network=published.network,
        # A VGG is as large as what it was trained on, whatever it is shown.
        pipeline=f"resize({side})" if side else str(pipeline),
        representation_pipeline=str(pipeline),
        step=weights.step,
        patches=bool(pipeline.compile(training=False).views),
        end_points={},
        tensorflow=tf.__version__,
    )
    return Source(weights, published.num_classes, description)


def _pipeline(published: Published, side: Optional[int]) -> Pipeline:
    """How a network is shown images; `side` is that of the images a VGG was trained on, or None."""
    name = published.pipeline
    if name is not None:
        return presets.find(name)
    if published.network.patch_strides:
        crop = 3 * (side or 64)
        return Pipeline(
            f"resize_small({round(crop * 224 / 192)})|crop({crop})|patches(3)|standardize"
        )
    crop = side or 224
    return Pipeline(f"resize_small({round(crop * 256 / 224)})|crop({crop})|range(-1, 1)")


def _checkpoint(path: str) -> str:
    """The checkpoint that a path means; see `Published`."""
    if not os.path.isdir(path):
        return re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    module = os.path.join(path, "variables", "variables")
    found = module if os.path.exists(f"{module}.index") else tf.train.latest_checkpoint(path)
    if found is None:
        raise CheckpointError(f"{path} holds neither a checkpoint nor a hub module")
    return found
