"""Limits on what a file may claim, shared by the Loader and by data preparation."""

from .. import _core

MAX_PIXELS = _core.MAX_PIXELS
"""Default for the largest image that is decoded, in pixels (width x height): 100 megapixels.

A limit is needed because a file of a few hundred bytes can claim any size. Decoding takes about
three bytes of memory per pixel on each thread, or nine if the JPEG is progressive.
"""
