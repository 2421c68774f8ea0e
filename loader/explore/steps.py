"""The steps of the pipeline language for a reader of the page."""

import dataclasses
import inspect
from typing import Dict, List, Type

from ..language.steps import STEPS, Step


def described_steps() -> List[Dict[str, str]]:
    """For each step how it is written, with its defaults, and what its docstring says."""
    return [
        {"written": f"{name}({', '.join(_arguments(step))})", "text": inspect.getdoc(step) or ""}
        for name, step in STEPS.items()
    ]


def _arguments(step: Type[Step]) -> List[str]:
    return [
        field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default!r}"
        for field in dataclasses.fields(step)
    ]
