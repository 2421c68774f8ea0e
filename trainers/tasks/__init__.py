"""The pretext tasks by name."""

from typing import Callable, Dict

from ..recipes import Recipe
from .exemplar import Exemplar
from .patches import Jigsaw, RelativePatchLocation
from .rotation import Rotation
from .supervised import Supervised
from .task import Batch, Model, Task

__all__ = ["TASKS", "Batch", "Model", "Task", "build"]

TASKS: Dict[str, Callable[[Recipe], Task]] = {
    "supervised": lambda recipe: Supervised(recipe.num_classes),
    "rotation": lambda recipe: Rotation(),
    "exemplar": lambda recipe: Exemplar(recipe.embed_dim, recipe.margin, recipe.normalize_axis),
    "jigsaw": lambda recipe: Jigsaw(
        recipe.permutations, recipe.permutations_per_batch, recipe.embed_dim, recipe.head_units
    ),
    "relative_patch_location": lambda recipe: RelativePatchLocation(
        recipe.embed_dim, recipe.head_units
    ),
}


def build(recipe: Recipe) -> Task:
    """The task that a recipe names. Raises ValueError for an unknown one."""
    if recipe.task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {recipe.task!r}")
    return TASKS[recipe.task](recipe)
