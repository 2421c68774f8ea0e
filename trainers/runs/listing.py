"""Lists the runs in a folder, from what they wrote about themselves. Needs no TensorFlow."""

import dataclasses
import glob
import json
import os
from typing import Any, Dict, Iterator, List, Optional

from pretexture.loader.console.files import lock
from pretexture.loader.console.json_text import parse_object

from .folder import CONFIG, WorkdirError, read_config, run_name
from .metrics import read_metrics

_LOCK = ".lock"  # `mirror._LOCK`
_RESULTS = "results.json"  # `transfer.linear.RESULTS`, whose module needs TensorFlow


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: path of its folder.
        name: its name.
        task: its task; "linear" for a linear evaluation.
        state: "running" if a process is training it, "done" after its last step, else "stopped".
        step, steps: number of its last line of metrics, and the total number of steps.
        loss, accuracy, images_per_second: as in its last line of metrics; for a linear evaluation,
            the highest accuracy of all end points. None if there is none yet.
        knn: the newest accuracy of nearest neighbours; None if there is none.
        evaluated: by split, the accuracy that `evaluate` or `linear-eval` found.
    """

    folder: str
    name: str
    task: str
    state: str
    step: int
    steps: int
    loss: Optional[float]
    accuracy: Optional[float]
    images_per_second: Optional[float]
    knn: Optional[float]
    evaluated: Dict[str, float]


def runs(folder: str) -> List[Run]:
    """The runs in a folder and in the folders inside it, sorted by path.

    Raises: OSError if there is no such folder; ValueError if it has no runs, or a run has a
        malformed file.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}")
    found = [_read(path) for path in _folders(folder)]
    if not found:
        raise WorkdirError(f"{folder} holds no runs: no folder in it has a {CONFIG} of one")
    return found


def _folders(folder: str) -> Iterator[str]:
    for path, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if CONFIG in files and _is_run(os.path.join(path, CONFIG)):
            yield path


def _is_run(path: str) -> bool:
    """Whether a config.json may be of a run; other programs have files of that name."""
    try:
        with open(path, "rb") as file:
            return {"recipe", "steps"} <= set(parse_object(file.read(), path))
    except ValueError:
        return False


def _read(folder: str) -> Run:
    config, lines = read_config(folder), read_metrics(folder)
    last: Dict[str, Any] = lines[-1] if lines else {}
    step = last.get("step", 0)
    accuracies = [v for name, v in last.items() if name.split("/", 1)[-1] == "accuracy"]
    neighbours = [line["knn"] for line in lines if "knn" in line]
    state = "done" if step >= config.steps else "stopped"
    return Run(
        folder=folder,
        name=run_name(config, folder),
        task=config.recipe.task,
        state="running" if _is_locked(folder) else state,
        step=step,
        steps=config.steps,
        loss=last.get("loss"),
        accuracy=max(accuracies, default=None),
        images_per_second=last.get("images_per_second"),
        knn=neighbours[-1] if neighbours else None,
        evaluated=_evaluated(folder),
    )


def _evaluated(folder: str) -> Dict[str, float]:
    found: Dict[str, float] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "eval-*.json"))):
        with open(path, "rb") as file:
            values = parse_object(file.read(), path)
        value = values.get("accuracy")
        if isinstance(value, (int, float)):
            found[str(values.get("split"))] = value
    path = os.path.join(folder, _RESULTS)
    if os.path.exists(path):
        with open(path, "rb") as file:
            values = parse_object(file.read(), path)
        try:
            best = max(point["top1"] for point in values["end_points"].values())
            found[str(values["split"])] = best
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValueError(f"{path} is not the result of a linear evaluation") from None
    return found


def _is_locked(folder: str) -> bool:
    """Whether a process is training in the folder."""
    try:
        with open(os.path.join(folder, _LOCK), "rb") as file:
            lock(file.fileno(), shared=True)
    except BlockingIOError:
        return True
    except (OSError, ImportError):  # no lock file, or no locks on this system
        return False
    return False


def table(found: List[Run]) -> List[str]:
    """The runs in lines of text, with columns for what at least one of them has."""
    columns = ["name", "task", "state", "step", "loss", "accuracy", "kNN", "evaluated", "images/s"]
    rows = [_row(run) for run in found]
    shown = [i for i, name in enumerate(columns) if i < 5 or any(row[i] for row in rows)]
    cells = [[columns[i] for i in shown], *([row[i] or "-" for i in shown] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
    return [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    ]


def _row(run: Run) -> List[str]:
    def share(value: Optional[float]) -> str:
        return "" if value is None else f"{value:.1%}"

    speed = run.images_per_second
    return [
        run.name,
        run.task,
        run.state,
        f"{run.step:,}/{run.steps:,}",
        "" if run.loss is None else f"{run.loss:.4f}",
        share(run.accuracy),
        share(run.knn),
        ", ".join(f"{split} {share(value)}" for split, value in run.evaluated.items()),
        "" if speed is None else f"{speed:.3g}" if speed < 100 else f"{speed:,.0f}",
    ]


def as_json(found: List[Run]) -> str:
    """The runs as a JSON array of objects with the fields of `Run`."""
    return json.dumps([dataclasses.asdict(run) for run in found], indent=2)
