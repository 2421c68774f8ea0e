"""Checks of arguments, with one wording for all of them."""

import numbers
from typing import Any, Tuple


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The whole number `value`, Python's or NumPy's.

    Raises: ValueError if it is not a whole number from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    return number


def choice(name: str, value: str, choices: Tuple[str, ...]) -> str:
    """The text `value`. Raises: ValueError if it is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value
