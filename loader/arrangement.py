"""How the views of an image are arranged for a person to look at, and what stands above each."""

from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .language import ops
from .language.check import BranchPlan


class Split(NamedTuple):
    """What one dimension of the views means.

    Attributes:
        kind: "view", "turn", "patch", "jigsaw" or "pair".
        n: size of the dimension.
        permutations: the set of permutations, if `kind` is "jigsaw".
    """

    kind: str
    n: int
    permutations: Tuple[Tuple[int, ...], ...] = ()


class Arranged(NamedTuple):
    """A view, or several in a row or a grid, or an empty cell of a grid.

    Attributes:
        title: what stands above; "" for nothing.
        view: uint8 [H, W, 3] of a single view.
        parts: what is in the row or the grid, row by row.
        columns: number of columns of a grid; 0 for a row.
    """

    title: str = ""
    view: Optional[np.ndarray] = None
    parts: Tuple["Arranged", ...] = ()
    columns: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing in the cell."""
        return self.view is None and not self.parts


def splits(branch: BranchPlan) -> List[Split]:
    """What the dimensions of a branch's views mean, outermost first."""
    found: List[Split] = []
    for op in branch.ops:
        if isinstance(op, ops.Views):
            found.append(Split("view", op.n))
        elif isinstance(op, ops.Rotate):
            found.append(Split("turn", 4))
        elif isinstance(op, ops.Patches):
            found.append(Split("patch", op.n**2))
        elif isinstance(op, ops.Jigsaw):
            found[-1] = Split("jigsaw", found[-1].n, op.permutations)
        elif isinstance(op, ops.Pair):
            found[-1] = Split("pair", found[-1].n)
    return found


def arrange(views: np.ndarray, splits: Sequence[Split], label: np.ndarray) -> Arranged:
    """Arranges the views of an image, or of a part of it, by what each dimension means.

    Titles are the labels that the pipeline gives: degrees of a rotation, counter-clockwise; the
    original places of patches, counted row by row from 0, and the number of their permutation; the
    number of a patch's neighbour.

    Args:
        views: uint8 [*splits, H, W, 3].
        splits: the meaning of each leading dimension, outermost first.
        label: label of the image, or labels with the first of these dimensions.
    """
    if not splits:
        return Arranged(view=views)
    split, inner = splits[0], splits[1:]
    # If the label has this dimension too, every view has its own label.
    labels = label if np.ndim(label) else [label] * len(views)
    parts = [arrange(view, inner, each) for view, each in zip(views, labels)]

    if split.kind == "turn":
        return Arranged(parts=_titled(parts, [f"{90 * np.ravel(turn)[0]}°" for turn in labels]))
    if split.kind == "view":
        return Arranged(parts=_titled(parts, [f"view {i}" for i in range(len(parts))]))
    side = round(split.n**0.5)
    if split.kind == "patch":
        return Arranged(parts=_titled(parts, [str(i) for i in range(len(parts))]), columns=side)
    number = int(label)
    if split.kind == "jigsaw":
        places = map(str, split.permutations[number])
        grid = Arranged(f"permutation {number}", parts=_titled(parts, places), columns=side)
        return Arranged(parts=(grid,))
    middle = split.n // 2
    cells = [Arranged()] * split.n
    cells[middle] = parts[0]._replace(title="centre")
    cells[number + (number >= middle)] = parts[1]._replace(title=f"neighbour {number}")
    return Arranged(parts=tuple(cells), columns=side)


def _titled(parts: Sequence[Arranged], titles: Iterable[str]) -> Tuple[Arranged, ...]:
    return tuple(part._replace(title=title) for part, title in zip(parts, titles))
