"""Draws a contact sheet of what a network sees: each row a source image and its views.

Written on it are the labels that the pipeline gives: degrees of a rotation, counter-clockwise; the
original places of patches, counted row by row from 0, and the number of their permutation; the
number of a patch's neighbour. Views are shown as they are before normalisation. Of data at a URL
the images are those of a few shards.

    python scripts/preview.py --data shards/ --pipeline ROTATION --out sheet.png
    python scripts/preview.py --data 'shards/train-*' --pipeline 'resize(96)|patches(3)|jigsaw' \\
        --out sheet.png
"""

import argparse
import os
import random
import sys
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from pretexture.loader import Loader, Pipeline, TFRecords, _core, imagenet, presets
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.paths import make_parent
from pretexture.loader.language import ops
from pretexture.loader.language.pipeline import Plan
from pretexture.loader.shards.records import DATASET
from pretexture.loader.shards.remote import Remote, Storage, is_url, join
from pretexture.scripts.flags import (
    add_storage_flags,
    add_traceback_flag,
    local,
    short_errors,
    storage,
    whole,
)

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    sys.exit(f"error: {error}; pip install 'pretexture[demo]'")

GAP = 6
LINE = 14  # height of a line of writing, pixels
INK, PAPER = "black", "white"
SHARDS = 4  # that are fetched where the data are at a URL


class Split(NamedTuple):
    """What one dimension of the views stands for.

    Attributes:
        kind: "view", "turn", "patch", "jigsaw" or "pair".
        n: views that it has.
        permutations: of "jigsaw".
    """

    kind: str
    n: int
    permutations: Tuple[Tuple[int, ...], ...] = ()


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    flags = _parser().parse_args(arguments)
    with short_errors(flags.traceback):
        pipeline = presets.find(flags.pipeline)
        records, folder = _records(flags.data, flags.split, storage(flags), flags.seed)
        classes = _classes(folder, storage(flags))
        sheet = contact_sheet(
            records,
            pipeline,
            training=not flags.eval,
            count=flags.count,
            seed=flags.seed,
            tile=flags.tile,
            classes=classes,
        )
        sheet.save(make_parent(flags.out))
    print(f"{flags.out}: {sheet.width}x{sheet.height} pixels")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|PATTERN|URL",
        help="folder of shards, or their pattern",
    )
    parser.add_argument(
        "--pipeline",
        required=True,
        metavar="NAME|TEXT",
        help=f"{', '.join(presets.ALL)}, or step(args)|step(args)|…",
    )
    parser.add_argument("--out", required=True, type=local, metavar="PNG", help="the sheet")
    parser.add_argument(
        "--split",
        choices=("train", "val", "trainval", "test"),
        default="train",
        help="of a folder of shards (default: train)",
    )
    parser.add_argument("--count", type=whole, default=8, metavar="N", help="images (default: 8)")
    parser.add_argument("--eval", action="store_true", help="as evaluation sees them")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all random draws (default: 0)"
    )
    parser.add_argument(
        "--tile", type=whole, default=160, metavar="N", help="side of a view, pixels (default: 160)"
    )
    add_storage_flags(parser)
    add_traceback_flag(parser)
    return parser


def contact_sheet(
    records: TFRecords,
    pipeline: Pipeline,
    *,
    training: bool,
    count: int,
    seed: int,
    tile: int,
    classes: Sequence[str],
) -> Image.Image:
    """A row for each of `count` random records: the source, and its views with their labels.

    Args:
        records: where the images come from.
        pipeline: what is done to them.
        training: as training sees them, or as evaluation does.
        count: rows, at most one a record.
        seed: of the choice of images and of the views.
        tile: side of a view on the sheet, pixels.
        classes: names of the classes, as far as they are known.
    """
    plan = pipeline.compile(training)
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
    splits = _splits(plan)
    title = f"{pipeline}  ({'training' if training else 'evaluation'}, seed {seed})"
    sources = [_source(records, int(index), tile, classes) for index in batch.index]
    width = max(source.width for source in sources)
    rows = [_written(title)]
    for source, views, label in zip(sources, batch.image, batch.label):
        left = _beside([source], 0, width)
        rows.append(_beside([left, _block(views, splits, label, tile)], 3 * GAP))
    return _framed(_stacked(rows, GAP))


def _records(data: str, split: str, storage: Storage, seed: int) -> Tuple[TFRecords, str]:
    """The records of a folder's split or of a pattern, and the folder."""
    options = vars(storage)
    if os.path.isdir(data) or (is_url(data) and not set("*[") & set(data)):
        records, folder = imagenet(data, split, **options), data
    else:
        records = TFRecords(data, **options)
        folder = os.path.dirname(records.paths[0])
    if records.remote and len(records.paths) > SHARDS:
        paths = random.Random(seed).sample(records.paths, SHARDS)
        records = TFRecords(sorted(paths), **options)
    return records, folder


def _classes(folder: str, storage: Storage) -> List[str]:
    """As dataset.json, which prepare.py writes, names them."""
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


def _splits(plan: Plan) -> List[Split]:
    splits: List[Split] = []
    for op in plan.ops:
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


def _source(records: TFRecords, number: int, tile: int, classes: Sequence[str]) -> Image.Image:
    record = records[number]
    pixels = _core.decode_jpeg(record.image)
    height, width = pixels.shape[:2]
    label = f"class {record.label}"
    if 0 <= record.label < len(classes):
        label += f", {classes[record.label]}"
    image = _scaled(pixels, tile)
    return _stacked([image, _written(f"record {number}, {height} x {width}"), _written(label)], 0)


def _block(views: np.ndarray, splits: Sequence[Split], label: np.ndarray, tile: int) -> Image.Image:
    """The views of an image, or of a part of it, laid out as what they stand for.

    Args:
        views: uint8 [*dimensions of splits, H, W, 3].
        splits: outermost first.
        label: of one view or of a dimension for each split, as far as labels have one.
        tile: side of a view, pixels.
    """
    if not splits:
        return _scaled(views, tile)
    split, inner = splits[0], splits[1:]
    side = {"patch": tile // 2, "jigsaw": tile // 2, "pair": tile // 2}.get(split.kind, tile)
    # Where the label has this dimension, too, every view has its own.
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


if __name__ == "__main__":
    sys.exit(main())
