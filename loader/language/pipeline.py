"""A `Pipeline`: the sentence of steps that says what is done to each image."""

from typing import Any, Sequence, Tuple, Union

from ..errors import PipelineError
from .check import Branch, Plan, plan
from .legacy import from_legacy
from .parse import parse
from .steps import Step


class Pipeline:
    """What is done to each image: a sequence of steps, or several branches of them.

    Branches make views that differ in their number, size and steps; the image is decoded once for
    all of them. `2*(crop(64)|flip) + 6*(crop(32)|gray)` has two: `2*(…)` makes two views with draws
    of their own, in an array [N, 2, 64, 64, 3]. A branch without a number makes one view, in an
    array without that dimension. Pipelines can be combined in Python, too: `2 * a + 6 * b`.

    Args:
        text: the pipeline, such as `"inception(224)|rotate"`; or a sequence of steps.

    Attributes:
        branches: the branches, each with its steps.
        name: name of the preset that it is; "" if it has none. Equal pipelines may differ in it.

    Raises: PipelineError, naming the step and what is wrong with it.
    """

    name = ""

    def __init__(self, text: Union[str, Sequence[Step]]):
        self._set(parse(text) if isinstance(text, str) else [Branch(tuple(text))])

    def _set(self, branches: Sequence[Branch]) -> None:
        self.branches: Tuple[Branch, ...] = tuple(branches)
        for branch in self.branches:
            views = branch.views
            if views is not None and (
                isinstance(views, bool) or not isinstance(views, int) or views < 1
            ):
                raise PipelineError(f"the number of views must be 1 or more, not {views!r}")
        for training in (True, False):
            self.compile(training)

    @classmethod
    def _of(cls, branches: Sequence[Branch]) -> "Pipeline":
        pipeline = cls.__new__(cls)
        pipeline._set(branches)
        return pipeline

    def named(self, name: str) -> "Pipeline":
        """The same pipeline under a name, with which a Loader can say what it is for."""
        pipeline = self._of(self.branches)
        pipeline.name = name
        return pipeline

    @property
    def steps(self) -> Tuple[Step, ...]:
        """The steps of all branches, one after the other."""
        return tuple(step for branch in self.branches for step in branch.steps)

    def __rmul__(self, views: int) -> "Pipeline":
        """`n * pipeline` makes n views with draws of their own."""
        if len(self.branches) > 1 or self.branches[0].views is not None:
            raise PipelineError("only a pipeline without branches and numbers can be multiplied")
        return self._of([Branch(self.branches[0].steps, views)])

    def __add__(self, other: "Pipeline") -> "Pipeline":
        """A pipeline with the branches of both."""
        if not isinstance(other, Pipeline):
            return NotImplemented
        return self._of([*self.branches, *other.branches])

    @classmethod
    def from_legacy(cls, names: str, **flags: Any) -> "Pipeline":
        """The pipeline that the published code's `--preprocessing` names and flags stand for.

        Resizes sample with `coords="tf1"`, Inception crops have the published range of aspect
        ratios and never the last position, and the grey of bytes wraps around if it comes before a
        step that splits the image, as in TensorFlow 1. The published code also decodes with the
        fast integer DCT: to do the same, give the Loader `dct="fast"`.

        Args:
            names: such as "resize,to_gray,crop,crop_patches,standardization".
            **flags: the flags of the published code that these names read: `resize_size`,
                `crop_size` (a number, a pair, or text such as "292,292"), `smaller_size`,
                `randomize_resize_method`, `grayscale_probability`, `splits_per_side`,
                `patch_jitter`, `num_of_inception_patches`.

        Raises: PipelineError for an unknown name, a missing flag or a flag that no name reads.
        """
        return cls(from_legacy(names, flags))

    def compile(self, training: bool) -> Plan:
        """Turns the steps into primitive operations and checks that they are possible.

        Raises: PipelineError.
        """
        return plan(self.branches, training)

    def __str__(self) -> str:
        if len(self.branches) == 1 and self.branches[0].views is None:
            return "|".join(str(step) for step in self.steps)
        return " + ".join(map(str, self.branches))

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.branches == other.branches

    def __hash__(self) -> int:
        return hash(self.branches)
