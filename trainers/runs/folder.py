"""A run's folder: what was run there, and whether a command goes on with it."""

import dataclasses
import json
import os
import shlex
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type, TypeVar

from pretexture.loader.console.files import write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.shards.record_options import FEATURES

from ..recipes import Recipe, nested

CONFIG = "config.json"

T = TypeVar("T")

# Fields that may change when a run is taken up again: no step's result depends on them.
_FREE = (
    "epochs",
    "eval_batch_size",
    "eval_split",
    "eval_pipeline",
    "representation_pipeline",
)


class WorkdirError(ValueError):
    """A folder that does not hold the run that is asked for; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides the result of a run, and what it was made of.

    Attributes:
        recipe: what is trained and how.
        seed: of the initial weights, the order of images and all other random decisions.
        records: in the training split.
        steps_per_epoch, steps: an epoch's, and the run's in all.
        parameters: that the model has.
        data: folder of the shards, absolute.
        tensorflow: its version.
        module: the export that was evaluated; empty where a network was trained.
        image_key, label_key, label_offset: how records were read; see `TFRecords`.
    """

    recipe: Recipe
    seed: int
    records: int
    steps_per_epoch: int
    steps: int
    parameters: int
    data: str
    tensorflow: str
    module: str = ""
    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    label_offset: int = 1

    @property
    def features(self) -> Dict[str, Any]:
        """How records were read."""
        return {name: getattr(self, name) for name in FEATURES}


def write_config(folder: str, config: Config) -> None:
    """Writes `config.json`, making the folder where it is not there."""
    os.makedirs(folder, exist_ok=True)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    write_text(os.path.join(folder, CONFIG), text + "\n")


def read_config(folder: str) -> Config:
    """Reads `config.json`. Raises: WorkdirError where there is none, or one of another form."""
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, "rb") as file:
            values = parse_object(file.read(), path)
        recipe = values.get("recipe")
        if isinstance(recipe, dict) and "network" not in recipe:
            recipe = nested(recipe)  # earlier versions wrote all fields side by side
        recipe = made_of(Recipe, recipe, "the recipe")
        config = made_of(Config, {**values, "recipe": recipe}, "it")
        if config.steps_per_epoch < 1 or config.steps < 0 or config.records < 0:
            raise ValueError("it counts fewer steps or records than none")
        return config
    except FileNotFoundError:
        raise WorkdirError(f"{folder} holds no run: there is no {CONFIG}") from None
    except ValueError as error:
        raise WorkdirError(f"{path} is not a run's configuration: {error}") from error


def made_of(kind: Type[T], values: Any, name: str) -> T:
    """A dataclass from the JSON object that describes it.

    Args:
        kind: the dataclass; a field whose type is a list or an object is only checked to be that.
        values: the object.
        name: of the object, for the error.

    Raises: ValueError naming the field that is missing, unknown or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} is not a JSON object")
    given = dict(values)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in given:
            continue
        value = given[field.name]
        if dataclasses.is_dataclass(field.type) and isinstance(value, dict):
            given[field.name] = made_of(field.type, value, name)  # type: ignore[arg-type]
        if field.type not in _KINDS:
            continue
        if field.type == Tuple[float, ...] and isinstance(value, list):
            given[field.name] = value = tuple(value)
        title, fits = _KINDS[field.type]
        if not fits(value):
            raise ValueError(f"{field.name} of {name} must be {title}, not {value!r}")
    try:
        return kind(**given)
    except TypeError as error:  # a field that is missing, or unknown
        raise ValueError(f"{name}: {error}") from None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


# What a field of a type may be, in words and as a test. Python counts true and false as integers.
_KINDS: Mapping[Any, Tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a number", _is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    Tuple[float, ...]: (
        "a list of numbers",
        lambda value: isinstance(value, tuple) and all(map(_is_number, value)),
    ),
    Dict[str, Any]: ("an object", lambda value: isinstance(value, dict)),
    Optional[int]: ("a whole number or null", lambda value: value is None or type(value) is int),
}


def check_config(folder: str, config: Config) -> None:
    """Compares a run's configuration with the one that is in its folder.

    Raises: WorkdirError, naming the first field on which steps depend and that differs.
    """
    before = read_config(folder)
    if before.records != config.records:
        raise WorkdirError(
            f"{folder} was trained on {before.records} records (split "
            f"{before.recipe.train_split} of {before.data}), and {config.data} has "
            f"{config.records}: give the same --data, or another --workdir"
        )
    if before.module != config.module:
        raise WorkdirError(
            f"{folder} evaluates {before.module or 'no module'}: give another --workdir"
        )
    old, new = _deciding(before), _deciding(config)
    for name, value in old.items():
        if new[name] != value:
            flag = f"--{name.replace('_', '-')}"
            if name == "task":
                hint = f"give the task {value}"
            else:
                hint = f"give {flag} {shlex.quote(spell(value))}"
            raise WorkdirError(
                f"{folder} was trained with {name} = {spell(value)}, and now it is "
                f"{spell(new[name])}: {hint}, or another --workdir"
            )


def spell(value: Any) -> str:
    """A field's value as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(spell, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _deciding(config: Config) -> Dict[str, Any]:
    fields = {**config.recipe.flat(), "seed": config.seed, **config.features}
    return {name: value for name, value in fields.items() if name not in _FREE}
