"""Limits on what a file may claim, shared by the Loader and by data preparation."""

from .. import _core

MAX_PIXELS = _core.MAX_PIXELS
"""Default for the largest image that is decoded, in pixels (width x height): 100 megapixels.

A file of a few hundred bytes can claim any size, so that some limit is needed; decoding takes about
three bytes of memory a pixel for each thread, or nine if the JPEG is progressive.
"""
