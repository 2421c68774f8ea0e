"""What the page is answered: JSON, followed by the pixels of the pictures that it names."""

import json
import struct
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ..arrangement import Arranged
from ..language.check import Plan
from .explorer import Shown, Source


def packed(answer: Dict[str, Any], pictures: Sequence[np.ndarray] = ()) -> bytes:
    """The bytes of an answer.

    These are the length of the JSON (32 bits, little-endian), the JSON, and the pixels of all
    pictures one after the other, three bytes each. Pixels are not encoded, because encoding them as
    PNG takes longer than making them.

    Args:
        answer: what becomes JSON. Its entry "pictures" is set to the height and width of each.
        pictures: uint8 [H, W, 3].
    """
    sizes = [picture.shape[:2] for picture in pictures]
    text = json.dumps({**answer, "pictures": sizes}).encode()
    pixels = [np.ascontiguousarray(picture).tobytes() for picture in pictures]
    return b"".join([struct.pack("<I", len(text)), text, *pixels])


def views(records: Sequence[Shown]) -> Tuple[List[Dict[str, Any]], List[np.ndarray]]:
    """Records for the JSON of an answer, and their pictures."""
    pictures: List[np.ndarray] = []
    return [
        {
            "number": record.number,
            "error": record.error,
            "branches": [_arranged(branch, pictures) for branch in record.branches],
        }
        for record in records
    ], pictures


def _arranged(arranged: Arranged, pictures: List[np.ndarray]) -> Dict[str, Any]:
    """An arrangement for JSON, in which a picture is its number. Adds to `pictures`."""
    if arranged.view is not None:
        pictures.append(arranged.view)
        return {"title": arranged.title, "picture": len(pictures) - 1}
    parts = [_arranged(part, pictures) for part in arranged.parts]
    return {"title": arranged.title, "parts": parts, "columns": arranged.columns}


def source(record: Source) -> bytes:
    """The answer about a record itself."""
    answer = {
        "number": record.number,
        "place": record.place,
        "label": record.label,
        "size": record.size,
    }
    return packed(answer, [] if record.pixels is None else [record.pixels])


def described(plan: Plan) -> str:
    """The views of an image in words, such as "2 views of 224x224 + 6 of 96x96"."""
    found: List[str] = []
    for branch in plan.branches:
        count = int(np.prod(branch.views, dtype=int))
        noun = "" if found else " view" if count == 1 else " views"
        found.append(f"{count}{noun} of {branch.height}x{branch.width}")
    return " + ".join(found)
