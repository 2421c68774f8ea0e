"""A contact sheet of what a network sees: a row for each image, with its views and their labels."""

import os
import random
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import _core
from .console.json_text import parse_object
from .language import ops
from .language.check import BranchPlan
from .language.pipeline import Pipeline
from .loader import Loader
from .prepare.pillow import Image, ImageDraw, ImageFont
from .shards.imagenet import DATASET, is_folder, open_records, options_for
from .shards.remote import DEFAULT_STORAGE, Remote, Storage, is_url, join
from .shards.source import Records

SHARDS = 4  # number of shards that are fetched if the data are at a URL
GAP = 6
LINE = 14  # height of a line of text, pixels
INK, PAPER = "black", "white"


class Split(NamedTuple):
    """What one dimension of the views means.

    Attributes:
        kind: "view", "turn", "patch", "jigsaw" or "pair".
        n: size of the dimension.
        permutations: the set of permutations, if `kind` is "jigsaw".
    """

    kind: str
    n: int
    permutations: Tuple[Tuple[int, ...], ...] = ()


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
    records = _records(data, split, seed, {**vars(storage), **(features or {})})
    folder = data if is_folder(data) else os.path.dirname(records.paths[0])
    return contact_sheet(
        records,
        pipeline,
        training=training,
        count=count,
        seed=seed,
        tile=tile,
        classes=records.classes or _classes(folder, storage),
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
            _block(
                image[row],
                _splits(branch),
                label if branch.sets_label else np.int32(-1),
                # The views of all branches are shown at the same scale.
                max(1, tile * max(branch.height, branch.width) // largest),
            )
            for branch, image in zip(branches, images)
        ]
        rows.append(_beside([_beside([source], 0, width), *blocks], 3 * GAP))
    return _framed(_stacked(rows, GAP))


def _records(data: str, split: str, seed: int, options: Dict[str, Any]) -> Records:
    """The records of a split of a folder, or of a pattern; at a URL, those of a few shards."""
    records = open_records(data, split, **options)
    if records.remote and len(records.paths) > SHARDS:
        paths = random.Random(seed).sample(records.paths, SHARDS)
        kind: Any = type(records)
        records = kind(sorted(paths), **options_for(kind, options))
    return records


def _classes(folder: str, storage: Storage) -> List[str]:
    """The names of the classes in the folder's dataset.json; [] if there is none."""
    description = join(folder, DATASET)
    try:
        if is_url(folder):
            text = Remote(folder, storage).read(description)
        else:
            with open(description, "rb") as file:
                text = file.read()
        classes = parse_object(text, description).get("classes", [])
        if not isinstance(classes, list):
            raise ValueError(f"{description}: its classes are not a list")
        return list(map(str, classes))
    except FileNotFoundError:
        return []


def _splits(branch: BranchPlan) -> List[Split]:
    splits: List[Split] = []
    for op in branch.ops:
        if isinstance(op, ops.Views):
            splits.append(Split("view", op.n))
        elif isinstance(op, ops.Rotate):
            splits.append(Split("turn", 4))
        elif isinstance(op, ops.Patches):
            splits.append(Split("patch", op.n**2))
        elif isinstance(op, ops.Jigsaw):
            splits[-1] = Split("jigsaw", splits[-1].n, op.permutations)
        elif isinstance(op, ops.Pair):
            splits[-1] = Split("pair", splits[-1].n)
    return splits


def _source(records: Records, number: int, tile: int, classes: Sequence[str]) -> Image.Image:
    record = records[number]
    pixels = _core.decode_jpeg(record.image)
    height, width = pixels.shape[:2]
    label = f"class {record.label}"
    if 0 <= record.label < len(classes):
        label += f", {classes[record.label]}"
    image = _scaled(pixels, tile)
    return _stacked([image, _written(f"record {number}, {height} x {width}"), _written(label)], 0)


def _block(views: np.ndarray, splits: Sequence[Split], label: np.ndarray, tile: int) -> Image.Image:
    """Arranges the views of an image, or of a part of it, by what each dimension means.

    Args:
        views: uint8 [*splits, H, W, 3].
        splits: the meaning of each leading dimension, outermost first.
        label: label of the image, or labels with the first of these dimensions.
        tile: side of a view, pixels.
    """
    if not splits:
        return _scaled(views, tile)
    split, inner = splits[0], splits[1:]
    side = {"patch": tile // 2, "jigsaw": tile // 2, "pair": tile // 2}.get(split.kind, tile)
    # If the label has this dimension too, every view has its own label.
    labels = label if np.ndim(label) else [label] * len(views)
    blocks = [_block(view, inner, each, side) for view, each in zip(views, labels)]

    if split.kind == "turn":
        turned = [np.ravel(each)[0] for each in labels]
        return _beside(
            [_titled(block, f"{90 * turn}°") for block, turn in zip(blocks, turned)], GAP
        )
    if split.kind == "view":
        return _beside([_titled(block, f"view {i}") for i, block in enumerate(blocks)], GAP)
    if split.kind == "patch":
        return _grid([_titled(block, str(i)) for i, block in enumerate(blocks)])
    if split.kind == "jigsaw":
        number = int(label)
        places = split.permutations[number]
        grid = _grid([_titled(block, str(place)) for block, place in zip(blocks, places)])
        return _titled(grid, f"permutation {number}")
    neighbour, middle = int(label), split.n // 2
    place = neighbour + (neighbour >= middle)
    empty = Image.new("RGB", blocks[0].size, "gainsboro")
    cells = [_titled(empty, "")] * split.n
    cells[middle] = _titled(blocks[0], "centre")
    cells[place] = _titled(blocks[1], f"neighbour {neighbour}")
    return _grid(cells)


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


def _grid(cells: Sequence[Image.Image]) -> Image.Image:
    n = round(len(cells) ** 0.5)
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
