"""Checkpoints: the whole state of a run by variable name, either complete or absent.

The format is TensorFlow's, with the variable names of the published code, so any TensorFlow
(`tf.train.load_checkpoint`) and the published code read them. The loader's state is one more
variable, the JSON text `loader_state`, so that model and data are always of the same step.
"""

import contextlib
import errno
import glob
import json
import os
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.console.files import is_full, sync, write_text
from pretexture.loader.console.json_text import parse_object

from ..engines import sessions

NEWEST = 5
HOURS = 4.0

_PREFIX = "model.ckpt-"
_LOADER_STATE = "loader_state"

Saved = Tuple[int, float]  # a checkpoint's step and the time when it was saved, seconds


class CheckpointError(ValueError):
    """A checkpoint is missing, is damaged, or does not fit the model."""


class Checkpoints:
    """The checkpoints of a run: `model.ckpt-STEP.index` and `.data-…` in its folder.

    The newest few are kept, and one every few hours is kept for good. The file `checkpoint` lists
    them with their times, in the form that `tf.train.latest_checkpoint` reads.

    Args:
        folder: the run's folder, which exists.
        newest: number of the newest checkpoints that are kept.
        hours: hours between two checkpoints that are kept for good, counted from the run's start.
    """

    def __init__(self, folder: str, newest: int = NEWEST, hours: float = HOURS):
        self._folder = folder
        self._newest = newest
        self._hours = hours
        self._last_kept = time.time()
        times: Dict[Optional[int], float] = {}
        state = tf.train.get_checkpoint_state(folder)
        if state is not None:
            self._last_kept = state.last_preserved_timestamp or self._last_kept
            steps = [_step(os.path.basename(path)) for path in state.all_model_checkpoint_paths]
            times = dict(zip(steps, state.all_model_checkpoint_timestamps))
        # The list may lack a checkpoint, because a process died between saving and listing it.
        self._saved: List[Saved] = []
        for index in glob.glob(os.path.join(glob.escape(folder), _PREFIX + "*.index")):
            step = _step(os.path.basename(index)[: -len(".index")])
            if step is not None:
                self._saved.append((step, times.get(step, os.path.getmtime(index))))
        self._saved.sort()

    @property
    def steps(self) -> List[int]:
        """The steps that have a checkpoint, ascending."""
        return [step for step, _ in self._saved]

    @property
    def latest(self) -> Optional[str]:
        """The newest checkpoint's path; see `checkpoint_path`."""
        return self._path(self._saved[-1][0]) if self._saved else None

    def save(self, step: int, variables: Mapping[str, Any], loader_state: Mapping[str, Any]) -> str:
        """Writes a checkpoint, then removes those that are no longer kept.

        Args:
            step: number of steps made. If it has a checkpoint, nothing is done.
            variables: variables, or their values, by name.
            loader_state: the loader's `state_dict()` after the batch of the last step.

        Returns: the checkpoint's path.
        """
        if step not in self.steps:
            _write(self._folder, f"{_PREFIX}{step}", variables, loader_state)
            self._saved.append((step, time.time()))
            self._retire()
        return self._path(step)

    def _retire(self) -> None:
        before = self._saved
        self._saved, self._last_kept = retained(
            before, self._last_kept, self._newest, self._hours * 3600
        )
        self._write_list()
        for step, _ in set(before) - set(self._saved):
            for path in glob.glob(glob.escape(self._path(step)) + ".*"):
                os.remove(path)

    def _write_list(self) -> None:
        names = [f"{_PREFIX}{step}" for step in self.steps]
        lines = [f'model_checkpoint_path: "{names[-1]}"']
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
        lines += [f"all_model_checkpoint_timestamps: {saved!r}" for _, saved in self._saved]
        lines += [f"last_preserved_timestamp: {self._last_kept!r}"]
        write_text(os.path.join(self._folder, "checkpoint"), "\n".join(lines) + "\n")

    def _path(self, step: int) -> str:
        return checkpoint_path(self._folder, step)


def checkpoint_path(folder: str, step: int) -> str:
    """The path of a step's checkpoint as TensorFlow takes it, without the endings of its files."""
    return os.path.join(folder, f"{_PREFIX}{step}")


def retained(
    saved: List[Saved], last_kept: float, newest: int, seconds: float
) -> Tuple[List[Saved], float]:
    """The checkpoints that are kept.

    Args:
        saved: all checkpoints, in order of time.
        last_kept: time of the last checkpoint that is kept for good, or of the run's start.
        newest: number of the newest checkpoints, which are kept at any age.
        seconds: seconds between two checkpoints that are kept for good.

    Returns: the checkpoints that are kept, and the new `last_kept`.
    """
    kept = []
    for step, when in saved[:-newest]:
        if when > last_kept:
            if when - last_kept < seconds:
                continue
            last_kept = when
        kept.append((step, when))
    return kept + saved[-newest:], last_kept


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Surrounds TensorFlow's writing of a file, or of files whose names begin with `path`.

    Raises: OSError with that path instead of TensorFlow's errors. Its error for a full disk is the
        same ResourceExhaustedError as for a device that is out of memory.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
        raise OSError(f"{path} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Surrounds TensorFlow's reading of a checkpoint's values.

    Raises: CheckpointError if a checksum is wrong, a file is cut short, or a value is malformed.
    """
    try:
        yield
    except (tf.errors.OpError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {_reason(error)}") from error


def open_checkpoint(path: str) -> Tuple[Any, Mapping[str, Sequence[int]]]:
    """TensorFlow's reader of a checkpoint, and the shapes of its variables by name.

    Raises: CheckpointError if there is no checkpoint.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        return reader, reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from error


def _reason(error: Exception) -> str:
    """The last line of an error, without the graph that TensorFlow shows after it."""
    lines = str(error).split("\n\t [[")[0].splitlines()
    return lines[-1] if lines else repr(error)


def restore(
    path: str,
    variables: Mapping[str, tf.Variable],
    optional: Optional[Mapping[str, tf.Variable]] = None,
) -> Dict[str, Any]:
    """Sets variables from a checkpoint.

    Args:
        path: path of the checkpoint, without the endings of its files.
        variables: variables by name; the checkpoint must have every one, in its shape.
        optional: further variables, which keep their values if the checkpoint lacks them.

    Returns: the loader's state; {} if the checkpoint has none.

    Raises: CheckpointError naming what is missing or has another shape.
    """
    variables = fitting(path, variables, optional)
    values, loader_state = read(path, list(variables))
    for name, variable in variables.items():
        variable.assign(values[name].astype(variable.dtype.as_numpy_dtype))
    return loader_state


def fitting(
    path: str,
    variables: Mapping[str, tf.Variable],
    optional: Optional[Mapping[str, tf.Variable]] = None,
) -> Dict[str, tf.Variable]:
    """The variables that can be set from a checkpoint; arguments and errors as for `restore`."""
    _, shapes = open_checkpoint(path)
    found = {name: variable for name, variable in (optional or {}).items() if name in shapes}
    found = {**variables, **found}
    for name, variable in found.items():
        if name not in shapes:
            raise CheckpointError(f"{path} has no variable {name}")
        if list(shapes[name]) != variable.shape.as_list():
            raise CheckpointError(
                f"{path}: {name} has shape {list(shapes[name])}, the model's has "
                f"{variable.shape.as_list()}"
            )
    return found


def read(path: str, names: Sequence[str]) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """The values of some variables by name, and the loader's state, {} if there is none.

    Raises: CheckpointError if a variable is missing, or the checkpoint is damaged.
    """
    reader, shapes = open_checkpoint(path)
    for name in names:
        if name not in shapes:
            raise CheckpointError(f"{path} has no variable {name}")
    with reading(path):
        values = {name: reader.get_tensor(name) for name in names}
        if _LOADER_STATE not in shapes:
            return values, {}
        state = reader.get_tensor(_LOADER_STATE)
        return values, parse_object(state, f"{path}: its {_LOADER_STATE}")


def _write(
    folder: str, name: str, variables: Mapping[str, Any], loader_state: Mapping[str, Any]
) -> None:
    """Writes under temporary names, then renames; the index is last and completes the checkpoint.

    Raises: OSError, after removing what has been written.
    """
    _remove_unfinished(folder)
    try:
        with writing(os.path.join(folder, name)):
            _write_beside(folder, name, variables, loader_state)
    except OSError:
        _remove_unfinished(folder)
        raise


def _remove_unfinished(folder: str) -> None:
    for left in glob.glob(os.path.join(glob.escape(folder), f".{_PREFIX}*")):
        os.remove(left)


def _write_beside(
    folder: str, name: str, variables: Mapping[str, Any], loader_state: Mapping[str, Any]
) -> None:
    beside = os.path.join(folder, f".{name}")
    tensors = {**variables, _LOADER_STATE: json.dumps(loader_state)}
    if tf.executing_eagerly():
        _save(beside, {name: tf.convert_to_tensor(value) for name, value in tensors.items()})
    else:
        with tf.Graph().as_default(), sessions.on_host() as session:
            values = {name: np.asarray(value) for name, value in tensors.items()}
            values[_LOADER_STATE] = values[_LOADER_STATE].astype(object)
            fed = {
                name: tf.compat.v1.placeholder(tf.as_dtype(value.dtype), value.shape)
                for name, value in values.items()
            }
            session.run(_save(beside, fed), {fed[name]: values[name] for name in fed})
    for ending in (".data-00000-of-00001", ".index"):
        sync(beside + ending)
        os.replace(beside + ending, os.path.join(folder, name) + ending)


def _save(prefix: str, tensors: Mapping[str, tf.Tensor]) -> Any:
    return tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def _step(name: str) -> Optional[int]:
    digits = name[len(_PREFIX) :]
    return int(digits) if name.startswith(_PREFIX) and digits.isdigit() else None
