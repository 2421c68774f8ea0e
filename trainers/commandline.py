"""What the command lines share: recipe flags, TensorFlow without chatter, errors in one line."""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from typing import Any, Callable, Dict, Iterator, Tuple

from .recipes import RECIPES, Recipe


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the positional TASK, which names a recipe, and a flag for each field of a recipe."""
    parser.add_argument(
        "recipe", metavar="TASK", choices=RECIPES, help=f"one of {', '.join(RECIPES)}"
    )
    group = parser.add_argument_group("fields of the recipe, by default as TASK has them")
    for field in dataclasses.fields(Recipe):
        if field.name != "task":
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=_PARSERS[field.type],
                metavar=_METAVARS[field.type],
                help=field.metadata["help"].replace("%", "%%"),
            )


def chosen_recipe(flags: argparse.Namespace) -> Recipe:
    """The recipe that TASK names, with the fields that flags set. Raises ValueError."""
    names = [field.name for field in dataclasses.fields(Recipe) if field.name != "task"]
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return dataclasses.replace(RECIPES[flags.recipe], **given)


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --threads, --device and --traceback."""
    parser.add_argument(
        "--threads", type=whole, metavar="N", help="of the loader (default: one a core)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu", "npu"),
        default="auto",
        help="auto takes a GPU where there is one (default)",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="where an error comes from, not just its message"
    )


@contextlib.contextmanager
def short_errors(traceback: bool) -> Iterator[None]:
    """Ends the process with a line and status 1 instead of an exception's traceback.

    Args:
        traceback: let exceptions pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if traceback:
            raise
        sys.exit(f"error: {_first_paragraph(error)}")
    except Exception as error:
        # TensorFlow's own, which may not be named before it is imported.
        if traceback or type(error).__name__ != "ResourceExhaustedError":
            raise
        sys.exit(f"error: the device has too little memory for this --batch-size: {error}")


def import_tensorflow() -> None:
    """Imports TensorFlow without what it says about itself. Raises ImportError in one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Some of it is written by C++ before any log level counts, so standard error is moved away.
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"TensorFlow cannot be imported ({error}): pip install 'pretexture[tensorflow]'"
            ) from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def whole(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text == "true"


def _numbers(text: str) -> Tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 15,25, not {text!r}") from None


def _first_paragraph(error: BaseException) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


_PARSERS: Dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: _truth,
    Tuple[float, ...]: _numbers,
}
_METAVARS: Dict[Any, str] = {
    str: "TEXT",
    int: "N",
    float: "X",
    bool: "true|false",
    Tuple[float, ...]: "X,X,…",
}
