"""What `metrics.jsonl` says of a run; needs no TensorFlow."""

import json
import os
from typing import Any, Dict, List, Mapping

METRICS = "metrics.jsonl"

# Fields of a line that say how fast the run was, not what was learned.
TIMINGS = ("images_per_second", "waiting")


def read_metrics(folder: str) -> List[Dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return read_lines(os.path.join(folder, METRICS))


def read_lines(path: str) -> List[Dict[str, Any]]:
    """JSON line by line; without a last one that was cut short, [] where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def describe(line: Mapping[str, Any]) -> str:
    """A line of metrics in words."""
    if not line:
        return "starting"
    known = ("step", "epoch", "loss", "lr", "loss_scale", *TIMINGS)
    words = [f"loss {line['loss']:.4f}"]
    words += [
        f"{name} {value:.1%}"
        for name, value in line.items()
        if name not in known and "/" not in name  # the heads of linear evaluation are too many
    ]
    words += [
        speed(line["images_per_second"]),
        f"waiting for data {line['waiting']:.1%}",
    ]
    return ", ".join(words)


def speed(images_per_second: float) -> str:
    """Such as 253 images/s, or 0.028 images/s."""
    if images_per_second >= 10:
        return f"{images_per_second:.0f} images/s"
    return f"{images_per_second:.2g} images/s"
