"""Hands a run's metrics to Weights & Biases or MLflow, each of which has its own settings.

Their environment variables and configuration files say where the metrics go: `WANDB_PROJECT` and
`WANDB_MODE`, or `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME`. The default project or
experiment is "pretexture". A file in the run's folder remembers the tracker's run, so that a run
that is resumed here is resumed there.
"""

import contextlib
import json
import logging
import os
from typing import Any, Callable, ContextManager, Dict, Iterator, Mapping, Optional

from pretexture.loader.console.files import write_text
from pretexture.loader.console.json_text import parse_object

from .folder import Config

TRACKING = "tracking.json"
_PROJECT = "pretexture"

_log = logging.getLogger("pretexture.trainers")

Log = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def opened(
    kind: Optional[str], folder: str, name: str, config: Config
) -> Iterator[Callable[[Dict[str, Any]], None]]:
    """A function that hands each line of metrics to a tracker.

    If the tracker fails while the run trains, a warning says so once, and the run continues.

    Args:
        kind: name of `TRACKERS`; None for a function that does nothing.
        folder: the run's folder.
        name: the run's name.
        config: the run's configuration; the tracker gets the recipe, field by field.

    Raises: ValueError for an unknown tracker, ImportError if it is not installed, OSError if it
        cannot be opened.
    """
    if kind is None:
        yield lambda line: None
        return
    if kind not in TRACKERS:
        raise ValueError(f"track must be {' or '.join(TRACKERS)}, not {kind!r}")
    path = os.path.join(folder, TRACKING)
    known = _read(path)
    about = {"data": config.data, "seed": config.seed, "steps": config.steps}
    about.update(config.recipe.flat())
    failed = False

    def remember(run: str) -> None:
        write_text(path, json.dumps({**known, kind: run}) + "\n")

    def tell(line: Dict[str, Any]) -> None:
        nonlocal failed
        values = {field: value for field, value in line.items() if field != "step"}
        try:
            log(line["step"], values)
        except Exception as error:  # whatever the tracker raises
            if not failed:
                _log.warning("%s does not take metrics: %s; the run continues", kind, error)
            failed = True

    with TRACKERS[kind](folder, name, about, known.get(kind), remember) as log:
        yield tell


def _read(path: str) -> Dict[str, Any]:
    """The trackers' names for the run, by tracker. Raises ValueError for a malformed file."""
    try:
        with open(path, "rb") as file:
            return parse_object(file.read(), path)
    except FileNotFoundError:
        return {}


@contextlib.contextmanager
def _wandb(
    folder: str,
    name: str,
    about: Dict[str, Any],
    known: Optional[str],
    remember: Callable[[str], None],
) -> Iterator[Log]:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'pretexture[wandb]'") from error
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            dir=folder,
            name=name,
            id=known,
            resume="allow",
            config=about,
            # Standard output and error stay as they are, or the progress bar would be recorded.
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:
        raise OSError(f"--track wandb: {error}; or set WANDB_MODE=offline") from error
    remember(run.id)
    status = 1
    try:
        yield lambda step, values: run.log(dict(values), step=step)
        status = 0
    finally:
        run.finish(exit_code=status)


@contextlib.contextmanager
def _mlflow(
    folder: str,
    name: str,
    about: Dict[str, Any],
    known: Optional[str],
    remember: Callable[[str], None],
) -> Iterator[Log]:
    try:
        import mlflow
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'pretexture[mlflow]'") from error
    status = "FAILED"
    try:
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
            mlflow.set_experiment(_PROJECT)
        run = mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            mlflow.log_params(about)
    except mlflow.exceptions.MlflowException as error:
        raise OSError(f"--track mlflow: {error}") from error
    remember(run.info.run_id)
    try:
        # MLflow allows few characters in the names of metrics; a slash is one of them.
        yield lambda step, values: mlflow.log_metrics(dict(values), step=step)
        status = "FINISHED"
    finally:
        mlflow.end_run(status)


TRACKERS: Mapping[str, Callable[..., ContextManager[Log]]] = {"wandb": _wandb, "mlflow": _mlflow}
