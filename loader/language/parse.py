"""Reads `step(args)|step(args)|…`, and branches of these: `2*(step|step) + 6*(step|step)`.

The text is parsed by Python's own grammar (`|`, `*` and `+` are operators and `step(args)` a call),
so arguments are written as in Python: numbers, fractions such as 3/4, strings, True, False, None,
tuples.
"""

import ast
import dataclasses
import difflib
import inspect
from typing import Any, List, Optional

from ..errors import PipelineError
from .check import Branch
from .steps import STEPS, Step


def parse(text: str) -> List[Branch]:
    """The branches that a text names. Raises: PipelineError."""
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
    branches = _operands(tree, ast.Add)
    if len(branches) == 1:
        return [_parse_branch(tree)]
    parsed = []
    for number, branch in enumerate(branches):
        try:
            parsed.append(_parse_branch(branch))
        except PipelineError as error:
            raise PipelineError(f"branch {number + 1}, {error}") from error.__cause__
    return parsed


def _operands(node: ast.expr, operator: Any) -> List[ast.expr]:
    """The operands of a chain of an operator, such as a, b and c of a|b|c."""
    found: List[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        found.insert(0, node.right)
        node = node.left
    return [node, *found]


def _parse_branch(node: ast.expr) -> Branch:
    views: Optional[int] = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        views, node = _value(node.left), node.right
    steps = _operands(node, ast.BitOr)
    for step in steps:
        if isinstance(step, ast.BinOp) and isinstance(step.op, (ast.Add, ast.Mult)):
            raise PipelineError("the steps of each branch stand in parentheses: 2*(a|b) + (c|d)")
    return Branch(tuple(_parse_step(number, each) for number, each in enumerate(steps)), views)


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
        raise PipelineError.of_step(number, written, str(error)) from error.__cause__
    except TypeError as error:
        expected = ", ".join(field.name for field in dataclasses.fields(step)) or "none"
        reason = f"{error} (arguments: {expected})"
        raise PipelineError.of_step(number, written, reason) from None


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
