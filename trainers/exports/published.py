"""Networks trained with the published code, github.com/google/revisiting-self-supervised.

Its checkpoints name variables as ours do, `module/conv2d/kernel` and so on; its hub modules, which
are what was published of trained networks, leave `module/` out.
"""

import dataclasses
import os
import re
from typing import Any, Dict, Optional

import tensorflow as tf
from pretexture.loader import Pipeline, presets

from ..recipes import SUPERVISED
from ..runs.checkpoints import CheckpointError
from .saved_model import PREFIX, Source

_FIRST = "conv2d/kernel"  # of every network
_VGG_FC6 = "conv2d_16/kernel"  # as large as the last map, a 32nd of the image


@dataclasses.dataclass(frozen=True)
class Published:
    """What a checkpoint does not say of its network.

    Attributes:
        path: of the checkpoint, with or without its files' endings; or the folder of a run, whose
            newest is taken; or the folder of a hub module.
        architecture, mode, filters_factor, last_relu, patch_strides: as in a `Recipe`.
        num_classes: units of the logits: 1000 classes, 4 rotations, or the length of an embedding.
        pipeline: how an image becomes what the network takes, or the name of a preset; None for
            EVAL or, with `patch_strides`, EVAL_PATCHES, for a VGG in the size that it was trained
            on, which its kernels tell.
    """

    path: str
    architecture: str
    num_classes: int
    filters_factor: float
    mode: str = "v2"
    last_relu: bool = True
    patch_strides: bool = False
    pipeline: Optional[str] = None


def source(published: Published) -> Source:
    """The network of a published checkpoint. Raises CheckpointError, PipelineError."""
    checkpoint = _checkpoint(published.path)
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        shapes = reader.get_variable_to_shape_map()
        step = int(reader.get_tensor("global_step")) if "global_step" in shapes else None
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint: {error}") from error
    prefix = "" if _FIRST in shapes else PREFIX
    side = None
    if published.architecture == "vgg19" and prefix + _VGG_FC6 in shapes:
        side = 32 * shapes[prefix + _VGG_FC6][0]
    pipeline = _pipeline(published, side)
    described: Dict[str, Any] = {
        "architecture": published.architecture,
        "mode": published.mode,
        "filters_factor": published.filters_factor,
        "last_relu": published.last_relu,
        "patch_strides": published.patch_strides,
        "representation_pipeline": str(pipeline),
    }
    if side is not None:
        # A VGG is as large as what it was trained on, whatever it is shown.
        described["pipeline"] = f"resize({side})"
    return Source(
        checkpoint=checkpoint,
        prefix=prefix,
        recipe=dataclasses.replace(SUPERVISED, **{"pipeline": str(pipeline), **described}),
        outputs=published.num_classes,
        described=described,
        step=step,
        patches=bool(pipeline.compile(training=False).views),
    )


def _pipeline(published: Published, side: Optional[int]) -> Pipeline:
    """How images are shown to a network that was trained on `side` pixels; None for any number."""
    name = published.pipeline
    if name is not None:
        return presets.find(name)
    if published.patch_strides:
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
