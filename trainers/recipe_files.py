"""Recipes in files: JSON objects with fields named like the flags of `pretexture pretrain`."""

import json

from pretexture.loader.console.files import write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.paths import make_parent

from .recipes import Recipe, nested
from .runs.folder import made_of


def write_recipe(path: str, recipe: Recipe) -> None:
    """Writes a recipe with all its fields; makes the file's folder. Raises OSError."""
    write_text(make_parent(path), json.dumps(recipe.flat(), indent=2) + "\n")


def read_recipe(path: str) -> Recipe:
    """Reads a recipe; fields that have a default may be missing.

    Raises: OSError; ValueError naming the file, and the field that is missing, unknown or has a
        value that it cannot have.
    """
    with open(path, "rb") as file:
        values = parse_object(file.read(), path)
    # The recipe in a config.json has its network and its optimiser in objects of their own.
    if "network" not in values:
        values = nested(values)
    try:
        return made_of(Recipe, values, "the recipe")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
