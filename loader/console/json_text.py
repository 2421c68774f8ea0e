"""Reads JSON from an unknown source: every fault becomes a one-line error."""

import json
from typing import Any, Dict, List, Union

# This is far deeper than any file of this package, and so far below Python's recursion limit that a
# parsed value can also be copied, printed and written.
_DEEPEST = 64


def parse(text: Union[str, bytes], name: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text; bytes are UTF-8.
        name: source of the text, for the error: a path or an environment variable.

    Raises: ValueError, one line that begins with the name.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        # Nearly every text has too few brackets to be deep, and needs no further check.
        few = text.count("[") + text.count("{") <= _DEEPEST
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:  # also raised if the bytes are not UTF-8
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not few and _is_deep(value):
        raise _too_deep(name)
    return value


def parse_object(text: Union[str, bytes], name: str) -> Dict[str, Any]:
    """The value of a text that must be a JSON object, `{"name": value, …}`; see `parse`."""
    value = parse(text, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} must hold a JSON object, {{…}}, not {_kind(value)}")
    return value


def _too_deep(name: str) -> ValueError:
    return ValueError(f"{name} nests JSON values more than {_DEEPEST} deep: it is damaged")


def _is_deep(value: Any) -> bool:
    level: List[Any] = [value]
    for _ in range(_DEEPEST):
        inner: List[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "an array"
    return {bool: "true or false", type(None): "null", str: "a string"}.get(type(value), "a number")
