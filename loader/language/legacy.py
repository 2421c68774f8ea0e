"""The published code's names of preprocessing steps, with its flags, as steps of this package."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..errors import PipelineError
from .steps import (
    CenterCrop,
    Crop,
    Flip,
    Gray,
    Inception,
    InceptionCrop,
    Patches,
    Range,
    Resize,
    ResizeSmall,
    Rotate,
    Standardize,
    Step,
)

# How `sample_distorted_bounding_box` draws with the arguments of the published code.
_TENSORFLOWS_CROP: Dict[str, Any] = {"aspect": (0.75, 1.33), "last_position": False}


def from_legacy(names: str, flags: Mapping[str, Any]) -> List[Step]:
    """The steps that the published names and flags stand for; see `Pipeline.from_legacy`.

    Raises: PipelineError for an unknown name, a missing flag or a flag that no name reads.
    """
    unread = dict(flags)

    def flag(name: str, default: Any = None) -> Any:
        unread.pop(name, None)
        value = flags.get(name, default)
        if value is None:
            raise PipelineError(f"needs the flag {name}")
        return value

    def number(name: str, default: Optional[float] = None, kind: type = int) -> Any:
        value = flag(name, default)
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise PipelineError(f"the flag {name} must be a number, not {value!r}") from None

    def pair(name: str) -> Tuple[int, int]:
        value = flag(name)
        parts = value.split(",") if isinstance(value, str) else value
        try:
            sides = [int(part) for part in ([parts] if isinstance(parts, int) else parts)]
        except (TypeError, ValueError):
            sides = []
        if len(sides) not in (1, 2):
            raise PipelineError(f"the flag {name} must be one number or two, not {value!r}")
        return sides[0], sides[-1]

    def steps(name: str) -> List[Step]:
        if name == "plain_preprocess":
            return []
        if name in ("0_to_1", "-1_to_1"):
            return [Range(int(name.split("_")[0]), 1)]
        if name == "resize":
            h, w = pair("resize_size")
            randomize = flag("randomize_resize_method", False)
            return [Resize(h, w, coords="tf1", randomize=randomize)]
        if name == "resize_small":
            return [ResizeSmall(number("smaller_size"))]
        if name == "crop":
            return [Crop(*pair("crop_size"))]
        if name == "central_crop":
            return [CenterCrop(*pair("crop_size"))]
        if name == "inception_crop":
            return [InceptionCrop(**_TENSORFLOWS_CROP)]
        if name == "flip_lr":
            return [Flip()]
        if name == "to_gray":
            p = number("grayscale_probability", 1.0, float)
            return [
                Gray(p, wrap=all(op.keeps_bytes for step in result for op in step.ops(True, 0)))
            ]
        if name == "crop_patches":
            return [Patches(number("splits_per_side"), number("patch_jitter", 0))]
        if name == "standardization":
            return [Standardize()]
        if name == "rotate":
            return [Rotate()]
        if name == "inception_preprocess":
            h, w = pair("resize_size")
            return [Inception(h, w, coords="tf1", **_TENSORFLOWS_CROP)]
        if name == "crop_inception_preprocess_patches":
            h, w = pair("resize_size")
            views = number("num_of_inception_patches")
            return [Inception(h, w, views=views, coords="tf1", **_TENSORFLOWS_CROP)]
        raise PipelineError("the published code has no such preprocessing")

    result: List[Step] = []
    for name in map(str.strip, names.split(",")):
        try:
            result += steps(name)
        except PipelineError as error:
            raise PipelineError(f"{name!r} of the published names: {error}") from None
    if unread:
        raise PipelineError(f"no preprocessing in {names!r} reads the flag {sorted(unread)[0]}")
    return result
