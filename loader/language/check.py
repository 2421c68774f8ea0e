"""From steps to operations that are known to be possible: the plan that a backend carries out."""

import dataclasses
from typing import List, Optional, Sequence, Tuple

from ..errors import PipelineError
from . import ops
from .steps import STREAMS_PER_STEP, Step

# The draws of more steps would use the streams that belong to the loader; see `epoch.draws`.
MAX_STEPS = 0xFFF0 // STREAMS_PER_STEP


# The number of a branch stands in 16 bits of the counter of its draws.
MAX_BRANCHES = 64


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch of a pipeline as it is written.

    Attributes:
        steps: its steps.
        views: number of views before the first step, which differ by all draws; None for one view
            without a dimension of its own.
    """

    steps: Tuple[Step, ...]
    views: Optional[int] = None

    def __str__(self) -> str:
        text = "|".join(str(step) for step in self.steps)
        return f"({text})" if self.views is None else f"{self.views}*({text})"


@dataclasses.dataclass(frozen=True)
class BranchPlan:
    """A branch as operations.

    Attributes:
        ops: the operations in order.
        views: the dimensions that splits add, such as (4,) for rotation; () for a single view.
        height, width: size of a view, pixels.
        label_dims: dimensions of an image's label, if the branch sets it.
        sets_label: whether an operation sets the label.
    """

    ops: Tuple[ops.Op, ...]
    views: Tuple[int, ...]
    height: int
    width: int
    label_dims: Tuple[int, ...]
    sets_label: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline as operations, for training or for evaluation.

    Attributes:
        branches: its branches; most pipelines have one.
        label_dims: dimensions of an image's label.
        class_label: whether the label is the record's class, because no operation sets another.
    """

    branches: Tuple[BranchPlan, ...]
    label_dims: Tuple[int, ...]
    class_label: bool

    @property
    def only(self) -> BranchPlan:
        """The branch of a pipeline that has one. Raises: PipelineError if it has several."""
        if len(self.branches) > 1:
            raise PipelineError(
                f"the pipeline has {len(self.branches)} branches, and a single one is needed here"
            )
        return self.branches[0]

    @property
    def ops(self) -> Tuple[ops.Op, ...]:
        """The operations of the only branch."""
        return self.only.ops

    @property
    def views(self) -> Tuple[int, ...]:
        """The dimensions of the only branch's views."""
        return self.only.views

    @property
    def height(self) -> int:
        """Height of the only branch's views, pixels."""
        return self.only.height

    @property
    def width(self) -> int:
        """Width of the only branch's views, pixels."""
        return self.only.width


def plan(branches: Sequence[Branch], training: bool) -> Plan:
    """The plan of a pipeline for training or for evaluation.

    Raises: PipelineError, naming the step that is not possible at its place.
    """
    if len(branches) > MAX_BRANCHES:
        raise PipelineError(f"a pipeline has at most {MAX_BRANCHES} branches")
    plans: List[BranchPlan] = []
    for number, branch in enumerate(branches):
        try:
            plans.append(_plan_branch(branch, training, alone=len(branches) == 1))
        except PipelineError as error:
            if len(branches) == 1:
                raise
            raise error.in_branch(number) from error.__cause__
    labelling = [number for number, each in enumerate(plans) if each.sets_label]
    if len(labelling) > 1:
        raise PipelineError(
            f"branches {labelling[0] + 1} and {labelling[1] + 1} both set the label; leave one of "
            "these steps out"
        )
    label_dims = plans[labelling[0]].label_dims if labelling else ()
    return Plan(tuple(plans), label_dims, class_label=not labelling)


def _plan_branch(branch: Branch, training: bool, alone: bool) -> BranchPlan:
    steps = branch.steps
    if not steps:
        raise PipelineError("a pipeline needs at least one step")
    if len(steps) > MAX_STEPS:
        raise PipelineError(f"a pipeline has at most {MAX_STEPS} steps")
    outline = ops.Outline(decoded=alone)
    lowered: List[ops.Op] = []
    if branch.views is not None:
        outline.step = f"{branch.views}*(…)"
        lowered.append(ops.Views(0, branch.views))
        lowered[0].follow(outline)
        outline.decoded = False
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
    return BranchPlan(
        tuple(lowered),
        outline.views,
        *outline.size,
        outline.label_dims,
        sets_label=outline.label_step is not None,
    )
