"""TensorFlow's errors of writing files, as Python's."""

import contextlib
import errno
import os
from typing import Iterator

import tensorflow as tf
from pretexture.loader.console.files import is_full


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Around TensorFlow's writing of a file, or of files whose names begin with `path`.

    Raises: OSError with that path instead of TensorFlow's errors. For a full disk that is a
        ResourceExhaustedError, the same as for too little memory of a device.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
        raise OSError(f"{path} cannot be written: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong, out of an error that also shows the graph."""
    return str(error).split("\n\t [[")[0].splitlines()[-1]
