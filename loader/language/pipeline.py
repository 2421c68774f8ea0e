"""The pipeline language: `step(args)|step(args)|…`, parsed, checked and lowered to operations.

Parsing goes through Python's own grammar (`|` is an operator and `step(args)` a call), so arguments
are written as in Python: numbers, fractions such as 3/4, strings, True, False, None, tuples.
"""

import ast
import dataclasses
import difflib
import inspect
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple, Union

from ..errors import PipelineError
from . import ops
from .steps import (
    STEPS,
    STREAMS_PER_STEP,
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

MAX_VIEWS = 4096
# With more, their random draws would meet those of the loader.
MAX_STEPS = 0xFFF0 // STREAMS_PER_STEP


class Pipeline:
    """What is done to each image: a sequence of steps.

    Args:
        text: the pipeline, such as `"inception(224)|rotate"`; or a sequence of steps.

    Raises: PipelineError, naming the step and what is wrong with it.
    """

    def __init__(self, text: Union[str, Sequence[Step]]):
        if isinstance(text, str):
            self.steps: Tuple[Step, ...] = tuple(_parse(text))
        else:
            self.steps = tuple(text)
        if not self.steps:
            raise PipelineError("a pipeline needs at least one step")
        if len(self.steps) > MAX_STEPS:
            raise PipelineError(f"a pipeline has at most {MAX_STEPS} steps")
        for training in (True, False):
            self.compile(training)

    @classmethod
    def from_legacy(cls, names: str, **flags: Any) -> "Pipeline":
        """The pipeline that the published code's `--preprocessing` names and flags stand for.

        Args:
            names: such as "resize,to_gray,crop,crop_patches,standardization".
            **flags: those of the published code that the names read: `resize_size`, `crop_size`
                (a number, a pair, or text such as "292,292"), `smaller_size`,
                `randomize_resize_method`, `grayscale_probability`, `splits_per_side`,
                `patch_jitter`, `num_of_inception_patches`.

        It is what TensorFlow 1 made of them: resizes sample with `coords="tf1"`, Inception crops
        have the published range of aspects and never the last position, and grey of bytes wraps
        around if it comes before what splits an image. That code decodes with the fast integer DCT,
        too: give the Loader `dct="fast"`.

        Raises: PipelineError for an unknown name, a missing flag or one that no name reads.
        """
        return cls(_from_legacy(names, flags))

    def compile(self, training: bool) -> "Plan":
        """Lowers to primitive operations and checks that they can be carried out.

        Raises: PipelineError.
        """
        checker = _Checker()
        for number, step in enumerate(self.steps):
            lowered: Sequence[ops.Op] = ()
            try:
                lowered = step.ops(training, number * STREAMS_PER_STEP)
            except PipelineError as error:
                _fail(number, str(step), str(error))
            for op in lowered:
                checker.add(op, number, str(step))
        return checker.finish(len(self.steps) - 1, str(self.steps[-1]))

    def __str__(self) -> str:
        return "|".join(str(step) for step in self.steps)

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline lowered for training or for evaluation.

    Attributes:
        ops: the operations in order.
        views: the dimensions that splits add, such as (4,) for rotation; () for a single view.
        height, width: of a view, pixels.
        label_dims: dimensions of an image's label.
    """

    ops: Tuple[ops.Op, ...]
    views: Tuple[int, ...]
    height: int
    width: int
    label_dims: Tuple[int, ...]


def _fail(number: int, step: str, reason: str) -> NoReturn:
    raise PipelineError(f"step {number + 1}, {step}: {reason}")


# What leaves an image's bytes as they were decoded.
_KEEPS_BYTES = (ops.Crop, ops.InceptionCrop, ops.CentralFraction, ops.Flip)


class _Checker:
    """Follows the size of the image through the operations and refuses the impossible ones."""

    def __init__(self) -> None:
        self._ops: List[ops.Op] = []
        self._views: List[int] = []
        self._label_dims: Tuple[int, ...] = ()
        self._label_step: Optional[str] = None
        self._size: Optional[Tuple[int, int]] = None
        self._resized: Optional[str] = None
        self._patches: Optional[int] = None
        self._rotated = False
        self._distorted: Optional[str] = None
        self._needs_whole_view: Optional[str] = None
        self._normalized: Optional[str] = None
        self._standardized: Optional[str] = None

    def add(self, op: ops.Op, number: int, step: str) -> None:
        reason = self._refuse(op)
        if reason:
            _fail(number, step, reason)
        self._apply(op, step)
        self._ops.append(op)

    def finish(self, number: int, step: str) -> Plan:
        if self._size is None:
            _fail(
                number,
                step,
                "the views that come out have no fixed size; add a resize or a crop",
            )
        height, width = self._size
        return Plan(tuple(self._ops), tuple(self._views), height, width, self._label_dims)

    def _refuse(self, op: ops.Op) -> Optional[str]:
        """Why `op` cannot follow what came before; None if it can."""
        if isinstance(op, (ops.Resize, ops.ResizeSmall)):
            if self._resized:
                return (
                    f"the image is already resized by {self._resized}, and a view is resampled "
                    "only once; leave one of the two out"
                )
            if self._distorted or self._standardized:
                return f"must come before {self._distorted or self._standardized}"
        cuts = isinstance(op, (ops.Crop, ops.InceptionCrop, ops.CentralFraction, ops.Patches))
        if cuts and self._needs_whole_view:
            return (
                f"must come before {self._needs_whole_view}, which takes its statistics over the "
                "whole view"
            )
        if (
            isinstance(op, ops.Gray)
            and op.wrap
            and not all(isinstance(o, _KEEPS_BYTES) for o in self._ops)
        ):
            return "wrap=True is of bytes: it must come before what resizes, splits or colours"
        if isinstance(op, (ops.Gray, ops.Distort)) and (self._normalized or self._standardized):
            return (
                f"must come before {self._normalized or self._standardized}: colours are changed "
                "on pixels of [0, 255]"
            )
        if isinstance(op, ops.Normalize) and (self._normalized or self._standardized):
            return f"values are already normalised by {self._normalized or self._standardized}"
        if isinstance(op, ops.Standardize) and self._standardized:
            return f"values are already standardised by {self._standardized}"
        if isinstance(op, ops.Crop) and self._size:
            height, width = self._size
            if op.height > height or op.width > width:
                return f"a crop of {op.height}x{op.width} does not fit in {height}x{width} pixels"
        if isinstance(op, ops.Patches):
            if not self._size:
                return "needs an image of a fixed size; put a resize or a crop before it"
            height, width = (side // op.n - op.jitter for side in self._size)
            if height < 1 or width < 1:
                return (
                    f"{op.n}x{op.n} cells of {self._size[0]}x{self._size[1]} pixels less a jitter "
                    f"of {op.jitter} leave no patch"
                )
        if isinstance(op, (ops.Jigsaw, ops.Pair, ops.Rotate)) and self._label_step:
            return f"the label is already given by {self._label_step}"
        if isinstance(op, ops.Jigsaw):
            if self._patches is None:
                return "needs patches before it, and no other split between"
            cells = self._patches**2
            if len(op.permutations[0]) != cells:
                return f"permutes {len(op.permutations[0])} patches, but there are {cells}"
        if isinstance(op, ops.Pair) and (
            self._patches is None or self._patches % 2 == 0 or self._patches < 3
        ):
            return "needs patches(n) with an odd n of 3 or more before it, and no split between"
        if isinstance(op, ops.Rotate) and self._size and self._size[0] != self._size[1]:
            return f"only square views can be turned, these are {self._size[0]}x{self._size[1]}"
        if isinstance(op, ops.Rotate) and not self._size:
            return "needs a view of a fixed size; put a resize or a crop before it"
        split = {ops.Views: getattr(op, "n", 1), ops.Rotate: 4}.get(type(op), 1)
        if isinstance(op, ops.Patches):
            split = op.n**2
        count = split
        for views in self._views:
            count *= views
        if count > MAX_VIEWS:
            return f"{count} views of an image are more than the {MAX_VIEWS} allowed"
        return None

    def _apply(self, op: ops.Op, step: str) -> None:
        if isinstance(op, ops.Resize):
            self._size, self._resized = (op.height, op.width), step
        elif isinstance(op, ops.ResizeSmall):
            self._size, self._resized = None, step
        elif isinstance(op, ops.Crop):
            self._size = (op.height, op.width)
        elif isinstance(op, (ops.InceptionCrop, ops.CentralFraction)):
            self._size = None
        elif isinstance(op, ops.Views):
            self._views.append(op.n)
            self._patches = None
        elif isinstance(op, ops.Patches):
            assert self._size
            self._size = (
                self._size[0] // op.n - op.jitter,
                self._size[1] // op.n - op.jitter,
            )
            self._views.append(op.n**2)
            self._patches = op.n
        elif isinstance(op, ops.Jigsaw):
            self._label_step, self._label_dims = step, tuple(self._views[:-1])
            self._patches = None
        elif isinstance(op, ops.Pair):
            self._label_step, self._label_dims = step, tuple(self._views[:-1])
            self._views[-1] = 2
            self._patches = None
        elif isinstance(op, ops.Rotate):
            self._views.append(4)
            self._label_step, self._label_dims = step, tuple(self._views)
            self._patches = None
        elif isinstance(op, ops.Distort):
            self._distorted = step
            if not op.fast:
                self._needs_whole_view = step
        elif isinstance(op, ops.Normalize):
            self._normalized = step
        elif isinstance(op, ops.Standardize):
            self._standardized = self._needs_whole_view = step


def _parse(text: str) -> List[Step]:
    if not text.strip():
        raise PipelineError("a pipeline needs at least one step")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (RecursionError, MemoryError):  # Python 3.7 runs out of memory, others of recursion
        raise PipelineError("the pipeline is too long or too deeply nested to be read") from None
    except (SyntaxError, ValueError) as error:
        raise PipelineError(
            f"cannot read {text!r} as step(args)|step(args)|…: {getattr(error, 'msg', error)}"
        ) from error
    nodes: List[ast.expr] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        nodes.insert(0, tree.right)
        tree = tree.left
    nodes.insert(0, tree)
    return [_parse_step(number, node) for number, node in enumerate(nodes)]


def _parse_step(number: int, node: ast.expr) -> Step:
    if isinstance(node, ast.Name):
        name, args, keywords = node.id, [], []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, args, keywords = node.func.id, node.args, node.keywords
    else:
        raise PipelineError(f"step {number + 1}: expected a step such as crop(224)")
    if name not in STEPS:
        close = difflib.get_close_matches(name, STEPS, 1)
        hint = f"did you mean {close[0]}?" if close else f"the steps are {', '.join(STEPS)}"
        raise PipelineError(f"step {number + 1}: there is no step {name!r}; {hint}")
    step = STEPS[name]
    written = name
    try:
        positional = [_value(a) for a in args]
        named = {}
        for keyword in keywords:
            if keyword.arg is None:
                raise PipelineError("arguments are written out one by one")
            if keyword.arg in named:
                raise PipelineError(f"{keyword.arg} is given twice")
            named[keyword.arg] = _value(keyword.value)
        written = f"{name}({', '.join(map(repr, positional))})" if positional else name
        inspect.signature(step).bind(*positional, **named)
        return step(*positional, **named)
    except PipelineError as error:
        _fail(number, written, str(error))
    except TypeError as error:
        expected = ", ".join(field.name for field in dataclasses.fields(step)) or "none"
        _fail(number, written, f"{error} (arguments: {expected})")


def _value(node: ast.expr) -> Any:
    """A literal, with fractions."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        numerator, denominator = _value(node.left), _value(node.right)
        if not all(isinstance(x, (int, float)) for x in (numerator, denominator)):
            raise PipelineError("a fraction is written as one number over another")
        if denominator == 0:
            raise PipelineError("a fraction cannot have 0 below")
        try:
            return numerator / denominator
        except OverflowError:
            raise PipelineError("a fraction is too large") from None
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_value(element) for element in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise PipelineError(
            "arguments are numbers, fractions, strings, True, False, None or tuples of these"
        ) from None


# As `sample_distorted_bounding_box` draws, with the arguments of the published code.
_TENSORFLOWS_CROP: Dict[str, Any] = {"aspect": (0.75, 1.33), "last_position": False}
_OF_BYTES = (Crop, CenterCrop, InceptionCrop, Flip)


def _from_legacy(names: str, flags: Any) -> List[Step]:
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
            return [Gray(p, wrap=all(isinstance(step, _OF_BYTES) for step in result))]
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
