"""The pipelines of the paper, by pretext task."""

from typing import Dict

from .language.pipeline import Pipeline

SUPERVISED = Pipeline("inception(224)")
ROTATION = Pipeline("inception(224)|rotate")
EXEMPLAR = Pipeline("gray(0.66)|inception(224, views=8)|standardize")
PATCHES = Pipeline("resize(292)|gray(0.66)|crop(255)|patches(3, jitter=21)|standardize")
EVAL = Pipeline("resize_small(256)|crop(224)|range(-1, 1)")
EVAL_PATCHES = Pipeline("resize_small(224)|crop(192)|patches(3)|standardize")

ALL: Dict[str, Pipeline] = {
    "SUPERVISED": SUPERVISED,
    "ROTATION": ROTATION,
    "EXEMPLAR": EXEMPLAR,
    "PATCHES": PATCHES,
    "EVAL": EVAL,
    "EVAL_PATCHES": EVAL_PATCHES,
}


def find(text: str) -> Pipeline:
    """The preset of that name, in upper or lower case; otherwise the text as a pipeline.

    Raises: PipelineError.
    """
    return ALL.get(text.upper()) or Pipeline(text)
