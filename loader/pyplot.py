"""Matplotlib's pyplot without a window, or one line that says how to install it."""

try:
    import matplotlib
except ImportError as error:
    raise ImportError(
        f"matplotlib cannot be imported ({error}): pip install 'pretexture[plot]'"
    ) from error

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["matplotlib", "pyplot"]
