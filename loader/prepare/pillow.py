"""Pillow, or one line that says how to install it."""

try:
    from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError(
        f"Pillow cannot be imported ({error}): pip install 'pretexture[prepare]'"
    ) from error

__all__ = ["Image", "ImageDraw", "ImageFont", "ImageOps", "UnidentifiedImageError"]
