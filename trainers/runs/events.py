"""TensorBoard event files, written record by record, and pictures for them.

`tf.summary` differs between TensorFlow 1 and 2, and does not say that a run was resumed from an
earlier step, so TensorBoard would draw the steps in between twice.
"""

import itertools
import os
import socket
import time
from typing import Mapping, Optional

import numpy as np
import tensorflow as tf

from ..engines import sessions
from .checkpoints import writing

_GAP = 2  # pixels between two views
_NUMBERS = itertools.count()  # a process may open several files in a second


class EventWriter:
    """A new event file in a run's folder.

    Args:
        folder: the run's folder.
        step: the step after which the run starts or is resumed; TensorBoard does not draw what
            earlier files say of later steps. None if it is to draw them.
    """

    def __init__(self, folder: str, step: Optional[int] = 0):
        unique = f"{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._path = os.path.join(folder, f"events.out.tfevents.{int(time.time())}.{unique}")
        with writing(self._path):
            self._writer = tf.io.TFRecordWriter(self._path)
        self._write(file_version="brain.Event:2")
        if step is not None:
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


def view_grid(image: np.ndarray, images: int = 8) -> np.ndarray:
    """A picture of the views of a batch's first images, with a row for each image.

    Each view is stretched so that its smallest value is black and its largest white.

    Args:
        image: [N, views…, H, W, 3], of any type.
        images: number of rows; images with one view each are shown in two columns.

    Returns: uint8 [height, width, 3].
    """
    single = image.ndim == 4
    shown = np.asarray(image[: 2 * images if single else images], np.float32)
    height, width, channels = shown.shape[-3:]
    views = shown.reshape(-1, height, width, channels)
    columns = 2 if single else len(views) // len(shown)
    low = views.min(axis=(1, 2, 3), keepdims=True)
    span = views.max(axis=(1, 2, 3), keepdims=True) - low
    views = (views - low) * (255 / np.maximum(span, 1e-6))
    rows = -(-len(views) // columns)
    size = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    grid = np.full(size, 255, np.uint8)
    for number, view in enumerate(views):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = np.round(view)
    return grid


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 [height, width, 3]."""
    with tf.Graph().as_default(), sessions.on_host() as session:
        return session.run(tf.image.encode_png(pixels))
