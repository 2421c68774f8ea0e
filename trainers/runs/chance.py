"""The accuracy of guessing, to compare that of a network with. Needs no TensorFlow."""

from typing import Dict

from pretexture.loader import Pipeline
from pretexture.loader.language.steps import permutation_set

from ..recipes import WITH_CLASSES, Recipe


def chance(recipe: Recipe, images: int) -> Dict[str, float]:
    """The share of right answers of a guess, by metric: "accuracy" and perhaps "top5".

    Args:
        recipe: says what there is to guess.
        images: images per batch, which exemplar compares: whoever guesses takes one of the other
            views in the batch for another view of the same image.

    Raises: ValueError for an unknown task; PipelineError if the recipe's permutations do not exist.
    """
    if recipe.task == "exemplar":
        (views,) = Pipeline(recipe.pipeline).compile(training=True).views
        return {"accuracy": (views - 1) / (images * views - 1)}
    if recipe.task == "jigsaw":
        return {"accuracy": 1 / len(permutation_set(recipe.permutations))}
    classes = {"rotation": 4, "relative_patch_location": 8}.get(recipe.task)
    if classes:
        return {"accuracy": 1 / classes}
    if recipe.task in WITH_CLASSES:
        return class_chance(recipe.num_classes)
    raise ValueError(f"the accuracy of guessing is not known for task {recipe.task!r}")


def class_chance(classes: int) -> Dict[str, float]:
    """The same for class labels, which are ranked if there are more than five."""
    found = {"accuracy": 1 / classes}
    return {**found, "top5": 5 / classes} if classes > 5 else found
