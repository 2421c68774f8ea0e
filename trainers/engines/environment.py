"""What the environment holds: numbers, and the secret of a run; needs no TensorFlow."""

import os
import re
from typing import Optional

# By which the workers of a run know one another.
SECRET = "PRETEXTURE_SECRET"
_SHORTEST = 16  # characters, so that nobody guesses it


def whole(name: str, default: int, least: int = 0, below: Optional[int] = None) -> int:
    """A whole number from a variable of the environment.

    Args:
        name: of the variable.
        default: what it is if the variable is not set, or empty.
        least: the smallest number that makes sense.
        below: one more than the largest; None if there is no largest.

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
            f"the same in the environment of all of them. scripts/launch.py makes one for the "
            f"processes of a single machine; for several machines, set it on each to the same "
            f"words, such as those of `openssl rand -hex 16`"
        )
    return text.encode()
