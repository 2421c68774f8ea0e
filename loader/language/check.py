"""From steps to operations that are known to be possible: the plan that a backend carries out."""

import dataclasses
from typing import List, Sequence, Tuple

from ..errors import PipelineError
from . import ops
from .steps import STREAMS_PER_STEP, Step

# The draws of more steps would use the streams that belong to the loader; see `epoch.draws`.
MAX_STEPS = 0xFFF0 // STREAMS_PER_STEP


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline as operations, for training or for evaluation.

    Attributes:
        ops: the operations in order.
        views: the dimensions that splits add, such as (4,) for rotation; () for a single view.
        height, width: size of a view, pixels.
        label_dims: dimensions of an image's label.
        class_label: whether the label is the record's class, because no operation sets another.
    """

    ops: Tuple[ops.Op, ...]
    views: Tuple[int, ...]
    height: int
    width: int
    label_dims: Tuple[int, ...]
    class_label: bool


def plan(steps: Sequence[Step], training: bool) -> Plan:
    """The plan of steps for training or for evaluation.

    Raises: PipelineError, naming the step that is not possible at its place.
    """
    if not steps:
        raise PipelineError("a pipeline needs at least one step")
    if len(steps) > MAX_STEPS:
        raise PipelineError(f"a pipeline has at most {MAX_STEPS} steps")
    outline = ops.Outline()
    lowered: List[ops.Op] = []
    for number, step in enumerate(steps):
        outline.step = str(step)
        try:
            for op in step.ops(training, number * STREAMS_PER_STEP):
                op.follow(outline)
                outline.decoded = outline.decoded and op.keeps_bytes
                lowered.append(op)
        except PipelineError as error:
            raise PipelineError.of_step(number, outline.step, str(error)) from error.__cause__
    if outline.size is None:
        raise PipelineError.of_step(
            len(steps) - 1,
            outline.step,
            "the views that come out have no fixed size; add a resize or a crop",
        )
    return Plan(
        tuple(lowered),
        outline.views,
        *outline.size,
        outline.label_dims,
        class_label=outline.label_step is None,
    )
