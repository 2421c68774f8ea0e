"""What a run's folder says of the run, and whether a command can resume it."""

import dataclasses
import difflib
import json
import os
import shlex
from typing import Any, Dict, Mapping, Optional, Tuple, Type, TypeVar

from pretexture.loader import imagenet
from pretexture.loader.console.files import write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.record_options import FEATURES
from pretexture.loader.shards.remote import Storage, is_url

from ..recipes import FIELDS, Recipe, nested

CONFIG = "config.json"

T = TypeVar("T")

# Fields that may change when a run is resumed, because no step's result depends on them.
_FREE = (
    "epochs",
    "eval_batch_size",
    "eval_split",
    "eval_pipeline",
    "representation_pipeline",
)


class WorkdirError(ValueError):
    """A folder does not hold the run that a command needs; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What `config.json` says of a run.

    Attributes:
        recipe: what is trained and how.
        seed: random seed of the initial weights, the order of images and every draw.
        records: number of records in the training split.
        steps_per_epoch: number of steps per epoch.
        steps: total number of steps.
        parameters: number of the model's trained parameters.
        data: folder of the shards; an absolute path or a URL.
        tensorflow: version of TensorFlow.
        module: export that is evaluated; empty if a network is trained.
        weights: digest of that export's weights; empty if it is not known.
        name: name of the run; empty for its folder's name.
        image_key, label_key, label_offset: how records are read, see `TFRecords`; None if they have
            no such option.
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
    weights: str = ""
    name: str = ""
    image_key: Optional[str] = "image/encoded"
    label_key: Optional[str] = "image/class/label"
    label_offset: Optional[int] = 1

    @property
    def features(self) -> Dict[str, Any]:
        """The options with which records are read."""
        return {name: getattr(self, name) for name in FEATURES}


def keep_name(folder: str, config: Config) -> Config:
    """The configuration with the name that the run in the folder has, unless it gives another one.

    Raises: WorkdirError if the folder's configuration is malformed.
    """
    if config.name or not os.path.exists(os.path.join(folder, CONFIG)):
        return config
    return dataclasses.replace(config, name=read_config(folder).name)


def run_name(config: Config, workdir: str) -> str:
    """The name of a run: its own, or the last part of its folder's path or URL."""
    if config.name:
        return config.name
    whole = workdir if is_url(workdir) else os.path.abspath(workdir)
    return os.path.basename(redacted(whole).rstrip("/"))


def write_config(folder: str, config: Config) -> None:
    """Writes `config.json`; makes the folder if it does not exist."""
    os.makedirs(folder, exist_ok=True)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    write_text(os.path.join(folder, CONFIG), text + "\n")


def read_config(folder: str) -> Config:
    """Reads `config.json`. Raises WorkdirError if it is missing or malformed."""
    try:
        return read_config_file(os.path.join(folder, CONFIG))
    except FileNotFoundError:
        raise WorkdirError(f"{folder} holds no run: there is no {CONFIG}") from None


def read_config_file(path: str) -> Config:
    """Reads a `config.json`. Raises OSError, or WorkdirError naming the field that is wrong."""
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
    except ValueError as error:
        raise WorkdirError(f"{path} is not a run's configuration: {error}") from error


def made_of(kind: Type[T], values: Any, name: str) -> T:
    """A dataclass from the JSON object that describes it.

    Args:
        kind: the dataclass. The contents of a field that is an object are not checked.
        values: the JSON object.
        name: name of the object in error messages.

    Raises: ValueError naming the field that is missing, unknown or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} is not a JSON object")
    given = dict(values)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = [field.name for field in fields]
    for unknown in given.keys() - set(known):
        near = difflib.get_close_matches(unknown, [*known, *FIELDS], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} has no field {unknown!r}{hint}")
    nothing = dataclasses.MISSING
    missing = [
        field.name
        for field in fields
        if field.name not in given and (field.default, field.default_factory) == (nothing, nothing)
    ]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")
    for field in fields:
        if field.name not in given:
            continue
        value = given[field.name]
        if dataclasses.is_dataclass(field.type) and not dataclasses.is_dataclass(value):
            if not isinstance(value, dict):
                raise ValueError(f"{field.name} of {name} is not a JSON object")
            given[field.name] = made_of(field.type, value, name)  # type: ignore[arg-type]
        if field.type not in _KINDS:
            continue
        if field.type == Tuple[float, ...] and isinstance(value, list):
            given[field.name] = value = tuple(value)
        title, kinds = _KINDS[field.type]
        parts = value if isinstance(value, tuple) else ()
        if type(value) not in kinds or any(type(part) not in (int, float) for part in parts):
            raise ValueError(f"{field.name} of {name} must be {title}, not {value!r}")
    return kind(**given)


# The values that a type of field takes, in words and as types: in Python, a bool is an int.
_KINDS: Mapping[Any, Tuple[str, Tuple[type, ...]]] = {
    str: ("a string", (str,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    Tuple[float, ...]: ("a list of numbers", (tuple,)),
    Optional[int]: ("a whole number or null", (int, type(None))),
    Optional[str]: ("a string or null", (str, type(None))),
}


def check_config(folder: str, config: Config) -> None:
    """Compares a run's configuration with the one in its folder.

    Raises: WorkdirError naming the first field that differs and that steps depend on.
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
    if before.weights and before.weights != config.weights:
        raise WorkdirError(
            f"{folder} evaluates an earlier export, which was at {config.module} before: give "
            "another --workdir"
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
    """A field's value in the form that its flag takes."""
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


def overlap(
    train_data: str, train_split: str, eval_data: str, eval_split: str, storage: Storage
) -> Optional[str]:
    """A warning if the evaluation split shares shards with the training split, else None.

    Args:
        train_data, eval_data: folders of shards, paths or URLs.
        train_split, eval_split: names of splits, as `imagenet` takes them.
        storage: how URLs are reached.
    """
    options = vars(storage)
    try:
        trained = {_real(path) for path in imagenet(train_data, train_split, **options).parts}
        shared = [
            path
            for path in imagenet(eval_data, eval_split, **options).parts
            if _real(path) in trained
        ]
    except (OSError, ValueError):
        return None  # opening the split for training or evaluation says what is wrong
    if not shared:
        return None
    return (
        f"warning: {len(shared)} shards of the evaluation split {eval_split} are part of the "
        f"training split {train_split}, for example {redacted(shared[0])}: accuracy on them "
        "does not measure generalisation"
    )


def _real(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)
