"""What the targets in Python share."""

import inspect
import os
import tempfile

import atheris


def instrument(module):
    """Counts which branches of a module's functions run, so that inputs which reach more are kept.

    atheris.instrument_imports does not see modules of an editable install.
    """
    for _, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__:
            atheris.instrument_func(function)


def scratch(name):
    """The path of a file to write; run.py removes it, and keeps it in memory."""
    handle, path = tempfile.mkstemp(prefix=f"pretexture-fuzz-{name}-")
    os.close(handle)
    return path


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
