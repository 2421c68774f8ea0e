"""How many of the views the page shows, so that no pipeline makes it slow or fills the memory."""

import dataclasses
import functools
import operator
from typing import List, Sequence

from ..arrangement import Arranged, splits
from ..language.check import Branch, BranchPlan, Plan
from ..language.pipeline import Pipeline
from ..language.steps import Inception

VIEWS = 64  # views of a record
FEWEST = 16  # views of a record, however large they are
PIXELS = 1 << 20  # pixels of a record's views, if there are more than `FEWEST` of them
RECORDS = 32  # records of an answer
BYTES = 48 << 20  # pixels of an answer, in bytes


def count_views(branch: BranchPlan) -> int:
    """Number of views that a branch makes of an image."""
    return _product(branch.views)


def view_bytes(plan: Plan) -> int:
    """Size of the views of an image, in bytes."""
    return sum(count_views(branch) * branch.height * branch.width * 3 for branch in plan.branches)


def first_views(pipeline: Pipeline, training: bool) -> Pipeline:
    """A pipeline that makes the same first views of each branch, and no more than the page shows.

    Patches are not left out here, but by `first_parts`.
    """
    plan = pipeline.compile(training)
    parts = zip(pipeline.branches, plan.branches, most_views(plan))
    branches = [_first(branch, branch_plan, most) for branch, branch_plan, most in parts]
    if branches == list(pipeline.branches):
        return pipeline
    return functools.reduce(operator.add, map(_pipeline, branches))


def most_views(plan: Plan) -> List[int]:
    """For each branch the number of views that the page shows at most."""
    found = []
    for branch in plan.branches:
        most = PIXELS // (branch.height * branch.width)
        found.append(max(1, max(FEWEST, min(VIEWS, most)) // len(plan.branches)))
    return found


def _pipeline(branch: Branch) -> Pipeline:
    pipeline = Pipeline(branch.steps)
    return pipeline if branch.views is None else branch.views * pipeline


def _first(branch: Branch, plan: BranchPlan, most: int) -> Branch:
    """The branch with fewer views.

    A view's draws depend on its number among all views of the image. So inner views are left out
    only if a single outer view is left: otherwise the later ones would have other numbers.
    """
    if count_views(plan) <= most:
        return branch
    kinds, sizes = [split.kind for split in splits(plan)], list(plan.views)
    if branch.views is not None:
        keep = min(branch.views, max(1, most // _product(sizes[1:])))
        branch = dataclasses.replace(branch, views=keep)
        if keep > 1:
            return branch
        del kinds[0], sizes[0]
    if kinds[:1] != ["view"]:
        return branch
    # The only step that makes views is `inception(views=n)`.
    keep = min(sizes[0], max(1, most // _product(sizes[1:])))
    steps = [
        dataclasses.replace(step, views=keep) if isinstance(step, Inception) else step
        for step in branch.steps
    ]
    return dataclasses.replace(branch, steps=tuple(steps))


def first_parts(arranged: Arranged, most: int) -> Arranged:
    """The same arrangement with at most that many views."""
    if arranged.view is not None or arranged.empty:
        return arranged
    parts: List[Arranged] = []
    left = most
    for part in arranged.parts:
        if left <= 0:
            break
        parts.append(first_parts(part, left))
        left -= _count(parts[-1])
    return arranged._replace(parts=tuple(parts))


def _count(arranged: Arranged) -> int:
    return 1 if not arranged.parts else sum(map(_count, arranged.parts))


def _product(sizes: Sequence[int]) -> int:
    return functools.reduce(operator.mul, sizes, 1)
