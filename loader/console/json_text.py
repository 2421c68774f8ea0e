"""Reading JSON that somebody else may have written: every fault becomes one sentence."""

import json
from typing import Any, Dict, List, Union

# Far deeper than any file of this package, far shallower than Python's recursion limit, so that
# what is parsed can also be copied, printed and written again.
_DEEPEST = 64


def parse(text: Union[str, bytes], name: str) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: UTF-8 if it is bytes.
        name: where the text is from, for the error: a path, or a variable of the environment.

    Raises: ValueError, in one line that begins with the name.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        # Nearly every text has so few brackets that it cannot be deep.
        few = text.count("[") + text.count("{") <= _DEEPEST
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:  # which a text that is not UTF-8 raises, too
        raise ValueError(f"{name} is not JSON: {error}") from None
    if not few and _is_deep(value):
        raise _too_deep(name)
    return value


def parse_object(text: Union[str, bytes], name: str) -> Dict[str, Any]:
    """As `parse`, for a text that must be a JSON object, `{"name": value, …}`."""
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
