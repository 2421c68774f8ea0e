"""A `Pipeline`: the sentence of steps that says what is done to each image."""

from typing import Any, Sequence, Tuple, Union

from .check import Plan, plan
from .legacy import from_legacy
from .parse import parse
from .steps import Step


class Pipeline:
    """What is done to each image: a sequence of steps.

    Args:
        text: the pipeline, such as `"inception(224)|rotate"`; or a sequence of steps.

    Raises: PipelineError, naming the step and what is wrong with it.
    """

    def __init__(self, text: Union[str, Sequence[Step]]):
        self.steps: Tuple[Step, ...] = tuple(parse(text) if isinstance(text, str) else text)
        for training in (True, False):
            self.compile(training)

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
        return plan(self.steps, training)

    def __str__(self) -> str:
        return "|".join(str(step) for step in self.steps)

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)
