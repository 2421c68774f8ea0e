"""Pictures of a batch, as TensorBoard shows them."""

import struct
import zlib

import numpy as np

_GAP = 2


def view_grid(image: np.ndarray, images: int = 8) -> np.ndarray:
    """The views of a batch's first images: a row an image, a column a view.

    Each view is stretched so that its smallest value is black and its largest white.

    Args:
        image: [N, views…, H, W, 3], of any type.
        images: rows; without views, twice as many are shown in two columns.

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
    """A PNG file (ISO/IEC 15948) of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
