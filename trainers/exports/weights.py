"""The weights of a trained network, from its checkpoint or hub module."""

from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from ..engines import sessions
from ..networks.layers import AVERAGES, Shape
from ..runs.checkpoints import CheckpointError, open_checkpoint, reading

PREFIX = "module/"
_FIRST = "conv2d/kernel"  # of every network


class Weights:
    """The variables of a network in a checkpoint, its running averages unbiased.

    See `Average.unbiased`. A file without the number of steps, such as that of an export, is read
    as it is.

    The published hub modules leave `module/` out of the names of variables; both forms are read.

    Args:
        path: path of the checkpoint, without the endings of its files.

    Raises: CheckpointError if the file is not a checkpoint.
    """

    def __init__(self, path: str):
        self.path = path
        self._reader, self._shapes = open_checkpoint(path)
        self._prefix = "" if _FIRST in self._shapes else PREFIX

    @property
    def step(self) -> Optional[int]:
        """The number of steps that the network was trained for, if the checkpoint says it."""
        if "global_step" not in self._shapes:
            return None
        with reading(self.path):
            return int(self._reader.get_tensor("global_step"))

    def shape(self, name: str) -> Optional[Sequence[int]]:
        """The shape of a variable; None if the checkpoint lacks it."""
        return self._shapes.get(self._stored(name))

    def value(self, name: str, shape: Shape) -> tf.Tensor:
        """The value of a variable, read by an operation.

        A graph that held the values of the largest networks would be too large. Running averages
        are small, and are unbiased at once.
        """
        average, step = AVERAGES.get(name.rpartition("/")[2]), self.step
        if average and step:
            with reading(self.path):
                stored = self._reader.get_tensor(self._stored(name))
            return tf.constant(average.unbiased(stored, step))
        return tf.raw_ops.RestoreV2(
            prefix=self.path,
            tensor_names=[self._stored(name)],
            shape_and_slices=[""],
            dtypes=[tf.float32],
        )[0]

    def restore(self, session: Any, variables: Mapping[str, tf.Variable]) -> None:
        """Sets the variables of a session's graph.

        Raises: CheckpointError if the checkpoint is damaged, lacks one or has it in another shape.
        """
        self._check({name: variable.shape.as_list() for name, variable in variables.items()})
        stored = {self._stored(name): variable for name, variable in variables.items()}
        with reading(self.path):
            tf.compat.v1.train.Saver(stored).restore(session, self.path)
        step = self.step
        for name, variable in variables.items():
            average = AVERAGES.get(name.rpartition("/")[2])
            if average and step:
                sessions.assign(session, variable, average.unbiased(session.run(variable), step))

    def values(self, shapes: Mapping[str, Sequence[int]]) -> Dict[str, np.ndarray]:
        """The values of the variables of a network, by name; `shapes` are the network's.

        Raises: CheckpointError as `restore`.
        """
        self._check(shapes)
        with reading(self.path):
            values = {name: self._reader.get_tensor(self._stored(name)) for name in shapes}
        step = self.step
        for name, value in values.items():
            average = AVERAGES.get(name.rpartition("/")[2])
            if average and step:
                values[name] = average.unbiased(value, step)
        return values

    def _stored(self, name: str) -> str:
        """What the checkpoint calls a variable of the network."""
        return self._prefix + name[len(PREFIX) :]

    def _check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        misfits = []
        for name, shape in shapes.items():
            stored, found = self._stored(name), self.shape(name)
            if found is None:
                misfits.append(f"there is no variable {stored}; the model's has {list(shape)}")
            elif list(found) != list(shape):
                misfits.append(f"{stored} has shape {list(found)}, the model's has {list(shape)}")
        if misfits:
            raise CheckpointError(
                f"{self.path}: {misfits[0]} ({len(misfits)} of the model's {len(shapes)} "
                f"variables do not fit)"
            )
