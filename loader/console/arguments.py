"""Checks of arguments, with one wording for all of them."""

from typing import Any, Tuple

import numpy as np


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The whole number `value`. Raises: ValueError if it is not one from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    return int(value)


def choice(name: str, value: str, choices: Tuple[str, ...]) -> str:
    """The text `value`. Raises: ValueError if it is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value
