"""Hyper-parameters as data: what Kolesnikov, Zhai and Beyer (2019) trained, by pretext task.

A recipe says everything that decides what is learned, except the data and the seed.
"""

import dataclasses
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from pretexture.loader import presets

# The limits of fields, in the words of their errors.
_COUNT, _POSITIVE, _NOT_NEGATIVE = "be 1 or more", "be above 0", "not be negative"
_LIMITS: Mapping[str, Callable[[Any], bool]] = {
    _COUNT: lambda value: value >= 1,
    _POSITIVE: lambda value: value > 0,
    _NOT_NEGATIVE: lambda value: value >= 0,
}


def _field(text: str, choices: Sequence[Any] = (), limit: str = "", **options: Any) -> Any:
    """A field of a recipe with its help text, its possible values if few, and its limit if any."""
    metadata = {"help": text, "choices": choices, "limit": limit}
    return dataclasses.field(metadata=metadata, **options)


class _Checked:
    """A dataclass whose construction raises ValueError for a value that a field cannot have."""

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            choices, limit = field.metadata.get("choices"), field.metadata.get("limit")
            if limit and not _LIMITS[limit](value):
                raise ValueError(f"{field.name} must {limit}, not {value}")
            if choices and value not in choices:
                name = "optimizer" if field.name == "name" else field.name
                raise ValueError(f"{name} must be {' or '.join(map(str, choices))}, not {value}")


@dataclasses.dataclass(frozen=True)
class Network(_Checked):
    """What a network is. `metadata["help"]` of each field describes it."""

    architecture: str = _field("the network", default="resnet50")
    mode: str = _field("ResNet v1 or v2 (pre-activated)", default="v2")
    filters_factor: float = _field(
        "widening factor; 4 is the usual ResNet-50, multiples of 1/16", limit=_POSITIVE, default=4.0
    )
    last_relu: bool = _field("end the network in a ReLU (ResNet v2, RevNet)", default=True)
    small_root: bool = _field(
        "a 3x3 root convolution without stride or pooling, for images of 32 to 96 pixels",
        default=False,
    )
    patch_strides: bool = _field(
        "strides for patches: root convolution 1, blocks 1, 2, 2, 1", default=False
    )
    reversible: bool = _field(
        "a RevNet's backward pass recomputes activations: less memory, more time", default=False
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(_Checked):
    """How a network's weights are updated. `metadata["help"]` of each field describes it."""

    name: str = _field("sgd (momentum 0.9) or adam", ("sgd", "adam"), default="sgd")
    lr: float = _field(
        "learning rate for a batch of lr_scale_batch_size images", limit=_POSITIVE, default=0.1
    )
    lr_scale_batch_size: int = _field(
        "the rate is lr x batch_size / lr_scale_batch_size", limit=_POSITIVE, default=256
    )
    warmup_epochs: float = _field(
        "epochs of linear warm-up from 0", limit=_NOT_NEGATIVE, default=5.0
    )
    decay_epochs: Tuple[float, ...] = _field(
        "epochs after which the rate is multiplied by lr_decay_factor", default=(15.0, 25.0)
    )
    lr_decay_factor: float = _field("see decay_epochs", limit=_NOT_NEGATIVE, default=0.1)
    weight_decay: float = _field(
        "of the network's kernels: scale x sum(w ** 2) / 2 is added to the loss",
        limit=_NOT_NEGATIVE,
        default=1e-4,
    )

    def __post_init__(self):
        super().__post_init__()
        if list(self.decay_epochs) != sorted(self.decay_epochs):
            raise ValueError(f"decay_epochs must ascend, not {self.decay_epochs}")


@dataclasses.dataclass(frozen=True)
class Recipe(_Checked):
    """How to train a network on a pretext task. `metadata["help"]` of each field describes it."""

    task: str = _field("the pretext task")
    pipeline: str = _field("how an image becomes views, as step(args)|step(args)|…")
    batch_size: int = _field(
        "images in a step; by default fewer if the training split has not as many", limit=_COUNT
    )
    eval_batch_size: int = _field(
        "images in a step of evaluation; only exemplar's result depends on it", limit=_COUNT
    )
    epochs: float = _field("passes over the training split, may be fractional", limit=_POSITIVE)

    train_split: str = _field("train, val, trainval or test", default="train")
    eval_split: str = _field(
        "the split that evaluation uses by default; test, your own validation images, for shards "
        "of pretexture prepare",
        default="val",
    )

    network: Network = Network()
    precision: str = _field(
        "float32, or mixed: activations of 16 bits, variables of 32",
        ("float32", "mixed"),
        default="float32",
    )
    loss_scale: float = _field(
        "factor on the loss if gradients have 16 bits; 0 to find one while training",
        limit=_NOT_NEGATIVE,
        default=0.0,
    )
    eval_pipeline: str = _field(
        "how an image becomes views in evaluation, if not as pipeline says for it", default=""
    )
    representation_pipeline: str = _field(
        "how an image becomes what linear evaluation shows the network", default=str(presets.EVAL)
    )
    dct: str = _field(
        "how JPEGs are decoded: accurate, or fast as TensorFlow does it",
        ("accurate", "fast"),
        default="accurate",
    )

    num_classes: int = _field(
        "number of classes (supervised, linear); by default as many as the data name, else 1000, "
        "or 10 for supervised-small",
        limit=_COUNT,
        default=1000,
    )
    embed_dim: int = _field(
        "length of an embedding (exemplar, patches)", limit=_COUNT, default=1000
    )
    margin: float = _field(
        "margin of the triplet loss (exemplar)", limit=_NOT_NEGATIVE, default=0.5
    )
    normalize_axis: int = _field(
        "embeddings have length 1 per example (1), or per channel over the batch (0), as in the "
        "published code (exemplar)",
        (0, 1),
        default=1,
    )
    pooling: str = _field(
        "how end points are pooled to max_features: adaptive_max, adaptive_avg, max or avg "
        "(linear)",
        ("adaptive_max", "adaptive_avg", "max", "avg"),
        default="adaptive_max",
    )
    max_features: int = _field(
        "features of an end point; adaptive pooling may exceed it (linear)",
        limit=_COUNT,
        default=9000,
    )
    hidden_units: int = _field(
        "hidden units of a head; 0 for a linear head (linear)", limit=_NOT_NEGATIVE, default=0
    )
    combine_patches: str = _field(
        "how an image's patches are combined: avg_pool, max_pool or concat (linear)",
        ("avg_pool", "max_pool", "concat"),
        default="avg_pool",
    )
    permutations: str = _field(
        "jigsaw's set: maximal-N, published, or the path of a file", default="maximal-100"
    )
    head_units: int = _field(
        "hidden units of the head on patches' embeddings", limit=_COUNT, default=4096
    )
    permutations_per_batch: int = _field(
        "permutations of the set in a training step", limit=_COUNT, default=8
    )

    optimizer: Optimizer = Optimizer()

    def replace(self, **changes: Any) -> "Recipe":
        """A recipe with some fields changed, by the names of their flags. Raises ValueError."""
        given = nested(changes)
        for part in given.keys() & _PARTS.keys():
            given[part] = dataclasses.replace(getattr(self, part), **given[part])
        return dataclasses.replace(self, **given)

    def flat(self) -> Dict[str, Any]:
        """The values of all fields, by the names of their flags."""
        values: Dict[str, Any] = {}
        for name, (part, field) in _FLAGS.items():
            values[name] = getattr(getattr(self, part) if part else self, field.name)
        return values


_PARTS = {"network": Network, "optimizer": Optimizer}


# By the name of its flag: in which part of a recipe a field stands, and the field.
_FLAGS: Dict[str, Tuple[Optional[str], Any]] = {
    outer.name if inner.name == "name" else inner.name: (outer.name if part else None, inner)
    for outer in dataclasses.fields(Recipe)
    for part in [_PARTS.get(outer.name)]
    for inner in (dataclasses.fields(part) if part else [outer])
}
# Every field of a recipe and its parts, by the name of its flag.
FIELDS = {name: field for name, (_, field) in _FLAGS.items()}


def nested(flat: Mapping[str, Any]) -> Dict[str, Any]:
    """Values by the names of flags, with those of a recipe's parts in a dict for each part."""
    values: Dict[str, Any] = {}
    for name, value in flat.items():
        part, field = _FLAGS.get(name, (None, None))
        if part is None:
            values[name] = value
        else:
            values.setdefault(part, {})[field.name] = value
    return values


# The tasks that tell class labels apart.
WITH_CLASSES = ("supervised", "linear")

SUPERVISED = Recipe(
    task="supervised",
    pipeline=str(presets.SUPERVISED),
    train_split="trainval",
    eval_split="test",
    batch_size=256,
    eval_batch_size=32,
    epochs=90.0,
    optimizer=Optimizer(decay_epochs=(30.0, 60.0, 80.0)),
)

ROTATION = Recipe(
    task="rotation",
    pipeline=str(presets.ROTATION),
    network=Network("revnet50", filters_factor=16.0),
    batch_size=64,
    eval_batch_size=16,
    epochs=35.0,
)

EXEMPLAR = Recipe(
    task="exemplar",
    pipeline=str(presets.EXEMPLAR),
    network=Network("resnet50", "v1", filters_factor=12.0),
    batch_size=64,
    eval_batch_size=8,
    epochs=35.0,
)

JIGSAW = Recipe(
    task="jigsaw",
    pipeline=str(presets.PATCHES),
    network=Network("resnet50", "v1", filters_factor=8.0, patch_strides=True),
    representation_pipeline=str(presets.EVAL_PATCHES),
    batch_size=128,
    eval_batch_size=8,
    epochs=35.0,
)

RELATIVE_PATCH_LOCATION = JIGSAW.replace(task="relative_patch_location")

# The network and the pipeline are those of the export.
LINEAR_EVAL = Recipe(
    task="linear",
    pipeline=str(presets.EVAL),
    train_split="trainval",
    eval_split="test",
    batch_size=512,
    eval_batch_size=64,
    epochs=70.0,
    optimizer=Optimizer(warmup_epochs=0.0, decay_epochs=(30.0, 50.0), weight_decay=0.0),
)

# As the published scripts ran it.
LINEAR_EVAL_PAPER = LINEAR_EVAL.replace(pooling="max", eval_batch_size=32, dct="fast")

# Nearest neighbours, and features for use elsewhere. Nothing is trained.
KNN = LINEAR_EVAL.replace(pooling="adaptive_avg", max_features=2048)

# For small images, of 32 to 96 pixels, or small machines: narrow networks on views of 64 pixels,
# patches of 16. They take two minutes on two cores for the thousand crops of
# `pretexture prepare --demo`.
ROTATION_SMALL = Recipe(
    task="rotation",
    pipeline="inception_crop(area=(0.3, 1))|resize(64)|flip|distort|range(-1, 1)|rotate",
    representation_pipeline="resize(64)|range(-1, 1)",
    network=Network("resnet50", filters_factor=1.0),
    batch_size=16,
    eval_batch_size=64,
    epochs=9.0,
    optimizer=Optimizer(lr=1.0, warmup_epochs=0.5, decay_epochs=(6.0, 8.0)),
)

SUPERVISED_SMALL = ROTATION_SMALL.replace(
    task="supervised",
    pipeline="inception_crop(area=(0.3, 1))|resize(64)|flip|distort|range(-1, 1)",
    num_classes=10,
    batch_size=64,
    lr=0.4,
)

EXEMPLAR_SMALL = ROTATION_SMALL.replace(
    task="exemplar",
    pipeline="gray(0.66)|inception(64, views=4)|standardize",
    representation_pipeline="resize(64)|standardize",
    mode="v1",
    embed_dim=128,
    batch_size=32,
    eval_batch_size=32,
    lr=0.4,
)

JIGSAW_SMALL = ROTATION_SMALL.replace(
    task="jigsaw",
    pipeline="resize(72)|gray(0.66)|crop(63)|patches(3, jitter=5)|standardize",
    representation_pipeline="resize(64)|crop(63)|patches(3, jitter=5)|standardize",
    mode="v1",
    patch_strides=True,
    embed_dim=64,
    head_units=256,
    permutations="maximal-24",
    permutations_per_batch=24,
    batch_size=32,
    eval_batch_size=32,
    lr=0.2,
)

RELATIVE_PATCH_LOCATION_SMALL = JIGSAW_SMALL.replace(task="relative_patch_location")


# The published code's preprocessing, as TensorFlow 1 carried it out.
_PAPER_INCEPTION = "inception(224, 224, coords='tf1', aspect=(0.75, 1.33), last_position=False)"
_PAPER_EXEMPLAR = (
    "gray(0.66, True)|inception(224, 224, 8, coords='tf1', aspect=(0.75, 1.33), "
    "last_position=False)|standardize()"
)
_PAPER_PATCHES = (
    "resize(292, 292, coords='tf1')|gray(0.66)|crop(255, 255)|patches(3, 21)|standardize()"
)

# What the port to Ascend NPU says of itself, sampled and decoded as in TensorFlow 1. Its code does
# something else; see https://github.com/pretexture/pretexture/blob/main/docs/ascend.md.
_NPU_EVAL = "resize_small(256)|crop(224)|normalize('imagenet')"
SUPERVISED_NPU = SUPERVISED.replace(
    pipeline="inception_crop(aspect=(0.75, 1.33), last_position=False)|resize(224, coords='tf1')"
    "|flip|normalize('imagenet')",
    dct="fast",
    eval_pipeline=_NPU_EVAL,
    representation_pipeline=_NPU_EVAL,
    batch_size=128,
    eval_batch_size=32,
    decay_epochs=(),
)

RECIPES: Dict[str, Recipe] = {
    "supervised": SUPERVISED,
    "supervised-small": SUPERVISED_SMALL,
    "supervised-paper": SUPERVISED.replace(pipeline=_PAPER_INCEPTION, dct="fast"),
    "supervised-npu": SUPERVISED_NPU,
    "supervised-npu-code": SUPERVISED_NPU.replace(
        pipeline=_PAPER_INCEPTION,
        eval_pipeline="",
        representation_pipeline=SUPERVISED.representation_pipeline,
    ),
    "rotation": ROTATION,
    "rotation-paper": ROTATION.replace(pipeline=f"{_PAPER_INCEPTION}|rotate()", dct="fast"),
    "rotation-small": ROTATION_SMALL,
    "exemplar": EXEMPLAR,
    "exemplar-small": EXEMPLAR_SMALL,
    "exemplar-paper": EXEMPLAR.replace(
        pipeline=_PAPER_EXEMPLAR,
        dct="fast",
        normalize_axis=0,
        eval_batch_size=16,  # on which this loss depends
    ),
    "jigsaw": JIGSAW,
    "jigsaw-small": JIGSAW_SMALL,
    "jigsaw-paper": JIGSAW.replace(pipeline=_PAPER_PATCHES, dct="fast", permutations="published"),
    "relative_patch_location": RELATIVE_PATCH_LOCATION,
    "relative_patch_location-small": RELATIVE_PATCH_LOCATION_SMALL,
    "relative_patch_location-paper": RELATIVE_PATCH_LOCATION.replace(
        pipeline=_PAPER_PATCHES, dct="fast"
    ),
}
"""The recipes of `pretexture pretrain` by name."""
