"""Reads numbers and the secret of a run from the environment; needs no TensorFlow."""

import os
import re
from typing import Optional

# The workers of a run know one another by this secret.
SECRET = "PRETEXTURE_SECRET"
_SHORTEST = 16  # characters, so that nobody guesses it


def whole(name: str, default: int, least: int = 0, below: Optional[int] = None) -> int:
    """A whole number from a variable of the environment.

    Args:
        name: name of the variable.
        default: number to return if the variable is not set, or empty.
        least: smallest possible number.
        below: one more than the largest possible number; None for no limit.

    Raises: ValueError naming the variable and what it may be.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    # Not `str.isdigit`, which is also true of superscripts; nine digits fit everywhere.
    if re.fullmatch("[0-9]{1,9}", text):
        value = int(text)
        if least <= value and (below is None or value < below):
            return value
    limits = f"from {least}" + ("" if below is None else f" to {below - 1}")
    raise ValueError(f"{name} in the environment must be a whole number {limits}, not {text!r}")


def secret() -> bytes:
    """The secret that the workers of a run share. Raises ValueError if there is none."""
    text = os.environ.get(SECRET, "")
    if len(text) < _SHORTEST:
        found = f"has {len(text)} characters" if text else "is not set"
        raise ValueError(
            f"{SECRET} {found}: several workers need a secret of at least {_SHORTEST} characters, "
            f"the same in the environment of all of them. pretexture launch makes one for the "
            f"processes of a single machine; on several machines, set it to the same words on "
            f"each of them, such as the output of `openssl rand -hex 16`"
        )
    return text.encode()
