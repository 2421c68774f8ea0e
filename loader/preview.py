"""A contact sheet of what a network sees: a row for each image, with its views and their labels."""

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from . import _core
from .arrangement import Arranged, arrange, splits
from .language.pipeline import Pipeline
from .loader import Loader
from .prepare.pillow import Image, ImageDraw, ImageFont
from .samples import class_name, open_sample
from .shards.remote import DEFAULT_STORAGE, Storage
from .shards.source import Records

GAP = 6
LINE = 14  # height of a line of text, pixels
INK, PAPER = "black", "white"


def preview(
    data: str,
    pipeline: Pipeline,
    *,
    split: str = "train",
    training: bool = True,
    count: int = 8,
    seed: int = 0,
    tile: int = 160,
    storage: Storage = DEFAULT_STORAGE,
    features: Optional[Mapping[str, Any]] = None,
) -> Image.Image:
    """Draws a `contact_sheet` of a folder of shards or images, with the names of its classes.

    If the data are at a URL, the images come from a few shards only.

    Args:
        data: folder of shards or of class folders, or a pattern that matches shards; a path or URL.
        pipeline, training, count, seed, tile: see `contact_sheet`.
        split: split of the folder; see `imagenet`.
        storage: how URLs are reached and where copies are kept.
        features: arguments of `imagenet` that name the features of records.

    Returns: the sheet, a PIL image in RGB.
    """
    records, classes = open_sample(data, split, seed, storage, features)
    return contact_sheet(
        records, pipeline, training=training, count=count, seed=seed, tile=tile, classes=classes
    )


def contact_sheet(
    records: Records,
    pipeline: Pipeline,
    *,
    training: bool = True,
    count: int = 8,
    seed: int = 0,
    tile: int = 160,
    classes: Sequence[str] = (),
) -> Image.Image:
    """Draws a row for each of `count` random records: the image, and its views with their labels.

    Views are shown as they are before normalisation. The labels are those that the pipeline gives:
    degrees of a rotation, counter-clockwise; the original places of patches, counted row by row
    from 0, and the number of their permutation; the number of a patch's neighbour.

    Args:
        records: the records to choose from.
        pipeline: the pipeline that makes the views.
        training: whether views are made as in training (True) or as in evaluation.
        count: number of rows, at most one for each record.
        seed: random seed for the choice of records and for the views.
        tile: side of a view on the sheet, pixels.
        classes: names of the classes, in the order of their labels; may be shorter.

    Returns: the sheet, a PIL image in RGB.
    """
    branches = pipeline.compile(training).branches
    with Loader(
        records,
        pipeline,
        min(count, len(records)),
        training=training,
        seed=seed,
        shuffle=True,
        drop_remainder=False,
        dtype="uint8",
    ) as loader:
        batch = next(iter(loader))
    images = batch.image if isinstance(batch.image, tuple) else (batch.image,)
    title = str(pipeline).replace(" + ", "\n+ ")  # a line for each branch
    title += f"  ({'training' if training else 'evaluation'}, seed {seed})"
    sources = [_source(records, int(index), tile, classes) for index in batch.index]
    width = max(source.width for source in sources)
    rows = [_stacked([_written(line) for line in title.splitlines()], 0)]
    largest = max(max(branch.height, branch.width) for branch in branches)
    for row, (source, label) in enumerate(zip(sources, batch.label)):
        blocks = [
            _drawn(
                arrange(
                    image[row],
                    splits(branch),
                    label if branch.sets_label else np.int32(-1),
                ),
                # The views of all branches are shown at the same scale.
                max(1, tile * max(branch.height, branch.width) // largest),
            )
            for branch, image in zip(branches, images)
        ]
        rows.append(_beside([_beside([source], 0, width), *blocks], 3 * GAP))
    return _framed(_stacked(rows, GAP))


def _source(records: Records, number: int, tile: int, classes: Sequence[str]) -> Image.Image:
    record = records[number]
    pixels = _core.decode_jpeg(record.image)
    height, width = pixels.shape[:2]
    label = class_name(record.label, classes)
    image = _scaled(pixels, tile)
    return _stacked([image, _written(f"record {number}, {height} x {width}"), _written(label)], 0)


def _drawn(arranged: Arranged, tile: int) -> Image.Image:
    """A picture of views as they are arranged, without their title.

    Args:
        arranged: the views.
        tile: side of a view, pixels; half of it in a grid.
    """
    if arranged.view is not None:
        return _scaled(arranged.view, tile)
    side = tile // 2 if arranged.columns else tile
    pictures = [None if part.empty else _drawn(part, side) for part in arranged.parts]
    size = next(picture.size for picture in pictures if picture)
    blocks = []
    for picture, part in zip(pictures, arranged.parts):
        picture = picture or Image.new("RGB", size, "gainsboro")
        # An empty cell is in line with the others.
        blocks.append(_titled(picture, part.title) if part.title or part.empty else picture)
    return _grid(blocks, arranged.columns) if arranged.columns else _beside(blocks, GAP)


def _scaled(pixels: np.ndarray, tile: int) -> Image.Image:
    """Shrunk to fit a tile, or enlarged by a whole factor so that each pixel can be seen."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = tile / max(image.size)
    if scale >= 2:
        factor = int(scale)
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _font() -> Any:
    try:
        return ImageFont.load_default(size=11)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()


_FONT = _font()


def _written(text: str) -> Image.Image:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the font has
    left, _, right, _ = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, _FONT)
    image = Image.new("RGB", (max(1, int(right - left) + 1), LINE), PAPER)
    ImageDraw.Draw(image).text((0, 0), text, INK, _FONT)
    return image


def _titled(image: Image.Image, text: str) -> Image.Image:
    return _stacked([_written(text), image], 0)


def _grid(cells: Sequence[Image.Image], n: int) -> Image.Image:
    width = max(cell.width for cell in cells)
    rows = [_beside(cells[i * n : i * n + n], GAP // 2, width) for i in range(n)]
    return _stacked(rows, GAP // 2)


def _beside(images: Sequence[Image.Image], gap: int, width: Optional[int] = None) -> Image.Image:
    """Left to right, each in a column as wide as it is or of the given width."""
    widths = [width or image.width for image in images]
    size = (sum(widths) + gap * (len(images) - 1), max(image.height for image in images))
    result = Image.new("RGB", size, PAPER)
    x = 0
    for image, column in zip(images, widths):
        result.paste(image, (x, 0))
        x += column + gap
    return result


def _stacked(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """From top to bottom."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    result = Image.new("RGB", (max(image.width for image in images), height), PAPER)
    y = 0
    for image in images:
        result.paste(image, (0, y))
        y += image.height + gap
    return result


def _framed(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", (image.width + 4 * GAP, image.height + 4 * GAP), PAPER)
    result.paste(image, (2 * GAP, 2 * GAP))
    return result
