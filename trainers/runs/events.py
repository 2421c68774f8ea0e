"""TensorBoard event files, written record by record.

`tf.summary` differs between TensorFlow 1 and 2, and does not say that a run was taken up again from
an earlier step, so that TensorBoard would draw the steps in between twice.
"""

import os
import socket
import time
from typing import Mapping

import numpy as np
import tensorflow as tf

from .disk import writing
from .views import png


class EventWriter:
    """A new event file in a run's folder.

    Args:
        folder: of the run.
        step: the run starts, or is taken up again, after this step; what earlier files say of
            later ones is not drawn.
    """

    def __init__(self, folder: str, step: int = 0):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = os.path.join(folder, name)
        with writing(self._path):
            self._writer = tf.io.TFRecordWriter(self._path)
        self._write(file_version="brain.Event:2")
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step, by name."""
        summary = tf.compat.v1.Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(step=step, summary=summary)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a picture, uint8 [height, width, 3]."""
        summary = tf.compat.v1.Summary()
        height, width = pixels.shape[:2]
        picture = tf.compat.v1.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png(pixels)
        )
        summary.value.add(tag=name, image=picture)
        self._write(step=step, summary=summary)

    def close(self) -> None:
        """Closes the file. Raises OSError, as all methods do, if it cannot be written."""
        with writing(self._path):
            self._writer.close()

    def _write(self, **fields) -> None:
        event = tf.compat.v1.Event(wall_time=time.time(), **fields)
        with writing(self._path):
            self._writer.write(event.SerializeToString())
            self._writer.flush()
