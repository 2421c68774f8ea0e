"""Reads `step(args)|step(args)|…`, and branches of these: `2*(step|step) + 6*(step|step)`.

The text is parsed by Python's own grammar (`|`, `*` and `+` are operators and `step(args)` a call),
so arguments are written as in Python: numbers, fractions such as 3/4, strings, True, False, None,
tuples. A line may end between any two of these.
"""

import ast
import dataclasses
import difflib
import inspect
from typing import Any, List, Optional, Tuple

from ..errors import PipelineError
from .check import Branch
from .steps import STEPS, Step


def parse(text: str) -> List[Branch]:
    """The branches that a text names. Raises: PipelineError."""
    try:
        return _parse(text)
    except (RecursionError, MemoryError):  # Python 3.7 runs out of memory, others of recursion
        raise PipelineError("the pipeline is too long or too deeply nested to be read") from None


def _parse(text: str) -> List[Branch]:
    if not text.strip():
        raise PipelineError("a pipeline needs at least one step")
    try:
        tree = _tree(text)
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
            raise error.in_branch(number) from error.__cause__
    return parsed


def place_of(error: PipelineError, text: str) -> Optional[Tuple[int, int]]:
    """Where in the text of a pipeline its error is.

    Returns: the first character, and the end, of the step that the error names or of what cannot be
        read. None if the error names neither, and before Python 3.8, whose grammar does not say
        where a step ends.
    """
    cause = error.__cause__
    if error.step is None:
        if not isinstance(cause, SyntaxError) or not cause.lineno or not cause.offset:
            return None
        begin = min(_index(text, cause.lineno, cause.offset - 1), len(text) - 1)
        return begin, begin + 1
    node = _operands(_tree(text), ast.Add)[error.branch or 0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        node = node.right
    step = _operands(node, ast.BitOr)[error.step]
    end_line, end = getattr(step, "end_lineno", None), getattr(step, "end_col_offset", None)
    if end_line is None or end is None:
        return None
    lines = _continued(text).split("\n")
    # The columns of a syntax tree count bytes.
    columns = [
        len(lines[line - 1].encode()[:column].decode(errors="replace"))
        for line, column in ((step.lineno, step.col_offset), (end_line, end))
    ]
    return _index(text, step.lineno, columns[0]), _index(text, end_line, columns[1])


def _tree(text: str) -> ast.expr:
    """The syntax tree of a pipeline."""
    return ast.parse(_continued(text), mode="eval").body


def _continued(text: str) -> str:
    """The text as one expression of Python, in which each line but the last ends in a backslash."""
    return text.strip().replace("\r", " ").replace("\n", "\\\n")


def _index(text: str, line: int, column: int) -> int:
    """The number of a character of the text, given its line from 1 and its column from 0."""
    before = text.strip().split("\n")[: line - 1]
    indent = len(text) - len(text.lstrip())
    return indent + sum(len(each) + 1 for each in before) + column


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
        raise PipelineError.of_step(number, "", "expected a step such as crop(224)")
    if name not in STEPS:
        close = difflib.get_close_matches(name, STEPS, 1)
        hint = f"did you mean {close[0]}?" if close else f"the steps are {', '.join(STEPS)}"
        raise PipelineError.of_step(number, "", f"there is no step {name!r}; {hint}")
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
