"""What an export says of itself, `pretexture.json`; needs no TensorFlow."""

import dataclasses
import json
import os
from typing import Any, Dict, Optional, Tuple

from pretexture.loader.console.json_text import parse_object

from ..recipes import Network, nested
from ..runs.folder import made_of

DESCRIPTION = "pretexture.json"

Shape = Tuple[Optional[int], ...]


class ExportError(ValueError):
    """A folder that is not an export or may not be replaced, or a network that does not fit."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What `pretexture.json` says of an export.

    Attributes:
        network: what the network is.
        pipeline: how an image became the views that the network was trained on.
        representation_pipeline: how an image becomes what the network is shown.
        step: number of steps that the network was trained for, if that is known.
        patches: whether it embeds patches of an image, not whole images.
        end_points: shapes by name; None for a size that is free.
        tensorflow: the version that wrote the export.
        recipe: the run's recipe; None for a published checkpoint.
    """

    network: Network
    pipeline: str
    representation_pipeline: str
    step: Optional[int]
    patches: bool
    end_points: Dict[str, Shape]
    tensorflow: str
    recipe: Optional[Dict[str, Any]] = None

    def to_json(self) -> str:
        """The text of `pretexture.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_description(path: str) -> Description:
    """Reads `pretexture.json` of an export. Raises ExportError if `path` is not an export."""
    described = os.path.join(path, DESCRIPTION)
    try:
        with open(described, "rb") as file:
            values = parse_object(file.read(), described)
        if "recipe" in values and "network" not in values:
            values = _from_version_0(values)
        points = {name: tuple(shape) for name, shape in values.pop("end_points").items()}
        return made_of(Description, {**values, "end_points": points}, "it")
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(
            f"{path} is not an export of pretexture export: there is no {DESCRIPTION}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{described} is not an export's description: {error!r}") from error


def _from_version_0(values: Dict[str, Any]) -> Dict[str, Any]:
    """The form that had all fields of a recipe side by side, or some of a published checkpoint."""
    recipe = nested(values.pop("recipe"))
    values.pop("channels", None)
    shown = recipe["representation_pipeline"]
    return {
        **values,
        "network": recipe.get("network", {}),
        "pipeline": recipe.get("pipeline", shown),
        "representation_pipeline": shown,
        "recipe": recipe if "task" in recipe else None,
    }
