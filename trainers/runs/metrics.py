"""Reads `metrics.jsonl`, and describes its lines in words. Needs no TensorFlow."""

import os
from typing import Any, Dict, List, Mapping, Sequence

from pretexture.loader.console.json_text import parse_object

METRICS = "metrics.jsonl"

# Fields of a line that say how fast the run was, not what was learned.
TIMINGS = ("images_per_second", "waiting")

# Number of records that could not be used. Lines without such records lack the field.
SKIPPED = "skipped"


def read_metrics(folder: str) -> List[Dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`. Raises ValueError for a line that is not metrics."""
    path = os.path.join(folder, METRICS)
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        for field in {**line, "loss": None}:
            _check_number(line, field, (int, float), path, number)
    return lines


def read_lines(path: str) -> List[Dict[str, Any]]:
    """A file of JSON lines that each have a step; a last line that was cut short is left out.

    Returns: [] if there is no file.

    Raises: ValueError naming the file, the line, and what is wrong with it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        lines.append(parse_object(line, f"{path}, line {number},"))
        _check_number(lines[-1], "step", (int,), path, number)
    return lines


def _check_number(
    line: Mapping[str, Any], field: str, kinds: Sequence[type], path: str, number: int
) -> None:
    if type(line.get(field)) not in kinds:
        raise ValueError(f"{path}, line {number}, has no number as its {field}: remove the line")


def describe(line: Mapping[str, Any]) -> str:
    """A line of metrics in words."""
    if not line:
        return "starting"
    known = ("step", "epoch", "loss", "lr", "loss_scale", SKIPPED, *TIMINGS)
    words = [f"loss {line['loss']:.4f}"]
    words += [
        f"{name} {value:.1%}"
        for name, value in line.items()
        if name not in known and "/" not in name  # the heads of linear evaluation are too many
    ]
    if "images_per_second" in line:
        words.append(speed(line["images_per_second"]))
    if "waiting" in line:
        words.append(f"waiting for data {line['waiting']:.1%}")
    return ", ".join(words)


def speed(images_per_second: float) -> str:
    """Such as 253 images/s, or 0.028 images/s."""
    if images_per_second >= 10:
        return f"{images_per_second:.0f} images/s"
    return f"{images_per_second:.2g} images/s"
