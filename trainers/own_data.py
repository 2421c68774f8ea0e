"""What of a recipe the data decide, unless a flag does. Needs no TensorFlow.

Recipes have the numbers of ImageNet. A folder of a few hundred photographs has fewer classes, and
fewer images than a batch of 512.
"""

import math
from typing import Any, Collection, Dict, List, Tuple

from pretexture.loader import imagenet
from pretexture.loader.shards.imagenet import class_names, description
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import Storage

from .recipes import WITH_CLASSES, Recipe

_STEPS = 4  # number of steps in an epoch of a split that is smaller than the recipe's batch


def suited(
    recipe: Recipe, given: Collection[str], data: str, storage: Storage, reading: RecordOptions
) -> Tuple[Recipe, List[str]]:
    """The recipe with what its data decide.

    - `num_classes` is the number of the data's classes, if they are named by folders or by
      dataset.json, and if the task is about classes;
    - `batch_size` becomes smaller if the training split has fewer images than a batch;
    - `eval_split` is "test", one's own validation images, for shards of `pretexture prepare` if the
      recipe's is "val", a part of the training images.

    Args:
        recipe: the recipe.
        given: names of the fields that are not to be changed.
        data: folder of shards; a path or a URL.
        storage: how URLs are reached.
        reading: how records are read.

    Returns: the recipe, and in words what was changed and why.

    Raises: ValueError if a given number of classes is too small, if there is a single class and the
        task is to tell classes apart, or if dataset.json is malformed; OSError if that cannot be
        read. Shards that cannot be read raise nothing: opening them for training says what is
        wrong.
    """
    try:
        records = imagenet(data, recipe.train_split, **vars(storage), **reading.features)
        count = len(records.shard_index(reading.on_error).offsets)
    except (OSError, ValueError):
        return recipe, []
    classes = class_names(records, data, storage)
    splits = description(data, storage).get("splits", {})
    changes: Dict[str, Any] = {}
    words = []
    if recipe.task in WITH_CLASSES and classes:
        _check_classes(recipe, given, classes, data)
        if "num_classes" not in given and len(classes) != recipe.num_classes:
            changes["num_classes"] = len(classes)
            words.append(f"{len(classes)} classes, as the data name them")
    if "batch_size" not in given and count < recipe.batch_size:
        changes["batch_size"] = _batch_size(count)
        words.append(
            f"batches of {changes['batch_size']} instead of {recipe.batch_size}, because split "
            f"{recipe.train_split} has {count:,} images"
        )
    if "eval_split" not in given and recipe.eval_split == "val" and "validation" in splits:
        changes["eval_split"] = "test"
    return recipe.replace(**changes), words


def _batch_size(records: int) -> int:
    """The largest power of two that makes a few steps of an epoch, at least 1."""
    return 2 ** max(0, math.floor(math.log2(max(1, records) / _STEPS)))


def _check_classes(
    recipe: Recipe, given: Collection[str], classes: Collection[str], data: str
) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"{data} has a single class, so there are no classes to tell apart: put the images of "
            "each class into a folder of its own, or give `pretexture prepare` a list with --labels"
        )
    if "num_classes" in given and recipe.num_classes < len(classes):
        raise ValueError(
            f"{data} has {len(classes)} classes, and --num-classes is {recipe.num_classes}: leave "
            "--num-classes out"
        )
