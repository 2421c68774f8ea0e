"""Hyper-parameters as data: what Kolesnikov, Zhai and Beyer (2019) trained, by pretext task.

A recipe says everything that decides what is learned, except the data and the seed.
"""

import dataclasses
from typing import Any, Dict, Tuple

from pretexture.loader import presets


def _field(text: str, **options: Any) -> Any:
    """A field of a recipe with its help text."""
    return dataclasses.field(metadata={"help": text}, **options)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train a network on a pretext task. `metadata["help"]` of each field describes it."""

    task: str = _field("the pretext task")
    pipeline: str = _field("how an image becomes views, as step(args)|step(args)|…")
    batch_size: int = _field("images a step")
    eval_batch_size: int = _field("images a step of evaluation; the result does not depend on it")
    epochs: float = _field("passes over the training split, may be fractional")

    train_split: str = _field("train, val, trainval or test", default="train")
    eval_split: str = _field("the split that evaluation uses by default", default="val")

    architecture: str = _field("the network", default="resnet50")
    mode: str = _field("ResNet v1 or v2 (pre-activated)", default="v2")
    filters_factor: float = _field(
        "widening factor; 4 is the usual ResNet-50, multiples of 1/16", default=4.0
    )
    last_relu: bool = _field("end the network in a ReLU (ResNet v2, RevNet)", default=True)
    small_root: bool = _field(
        "a 3x3 root convolution without stride or pooling, for images of 32 to 96 pixels",
        default=False,
    )
    patch_strides: bool = _field(
        "strides for patches: root convolution 1, blocks 1, 2, 2, 1", default=False
    )

    embed_dim: int = _field("length of a patch's embedding", default=1000)
    permutations: str = _field(
        "jigsaw's set: maximal-N, published, or the path of a file", default="maximal-100"
    )
    permutations_per_batch: int = _field("of the set, in a training step", default=8)

    optimizer: str = _field("sgd (momentum 0.9) or adam", default="sgd")
    lr: float = _field("learning rate for a batch of lr_scale_batch_size images", default=0.1)
    lr_scale_batch_size: int = _field(
        "the rate is lr x batch_size / lr_scale_batch_size", default=256
    )
    warmup_epochs: float = _field("epochs of linear warm-up from 0", default=5.0)
    decay_epochs: Tuple[float, ...] = _field(
        "epochs after which the rate is multiplied by lr_decay_factor", default=(15.0, 25.0)
    )
    lr_decay_factor: float = _field("see decay_epochs", default=0.1)
    weight_decay: float = _field(
        "of the network's kernels: scale x sum(w ** 2) / 2 is added to the loss", default=1e-4
    )

    def __post_init__(self):
        for name in ("batch_size", "eval_batch_size", "embed_dim", "permutations_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("epochs", "lr", "lr_scale_batch_size", "filters_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("warmup_epochs", "weight_decay", "lr_decay_factor"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if list(self.decay_epochs) != sorted(self.decay_epochs):
            raise ValueError(f"decay_epochs must ascend, not {self.decay_epochs}")


ROTATION = Recipe(
    task="rotation",
    pipeline=str(presets.ROTATION),
    architecture="revnet50",
    filters_factor=16.0,
    batch_size=64,
    eval_batch_size=16,
    epochs=35.0,
)

JIGSAW = Recipe(
    task="jigsaw",
    pipeline=str(presets.PATCHES),
    mode="v1",
    filters_factor=8.0,
    patch_strides=True,
    batch_size=128,
    eval_batch_size=8,
    epochs=35.0,
)

RELATIVE_PATCH_LOCATION = dataclasses.replace(JIGSAW, task="relative_patch_location")

# For small images or small machines: two minutes on two cores for the thousand photographs of
# `prepare.py --demo`, half an hour for the 15,000 images of CIFAR-10's training split here.
ROTATION_SMALL = Recipe(
    task="rotation",
    pipeline="inception_crop(area=(0.3, 1))|resize(64)|flip|distort|range(-1, 1)|rotate",
    filters_factor=1.0,
    batch_size=16,
    eval_batch_size=64,
    epochs=9.0,
    lr=1.0,
    warmup_epochs=0.5,
    decay_epochs=(6.0, 8.0),
)

RECIPES: Dict[str, Recipe] = {
    "rotation": ROTATION,
    "rotation-small": ROTATION_SMALL,
    "jigsaw": JIGSAW,
    "relative_patch_location": RELATIVE_PATCH_LOCATION,
}
