"""Features in files for other programs: NumPy's `.npz`, or Parquet.

Both are written part by part, so that memory does not grow with the number of images.
"""

import contextlib
import dataclasses
import os
import tempfile
import zipfile
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
from pretexture.loader import Pipeline
from pretexture.loader.console.paths import make_parent
from pretexture.loader.console.printable import printable
from pretexture.loader.console.progress import Bar
from pretexture.loader.shards.imagenet import class_names
from pretexture.loader.shards.record_options import DEFAULT_RECORDS, RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage

from .. import engines
from ..engines.npu_options import DEFAULTS, NpuOptions
from ..recipes import Recipe
from .features import Rows
from .labelled import LabelledSplit, Vectors
from .representation import FrozenFeatures, Representation

ENDINGS = (".npz", ".parquet")

Add = Callable[[Vectors], None]


@contextlib.contextmanager
def writing(
    path: str, count: int, sizes: Mapping[str, int], classes: Sequence[str]
) -> Iterator[Add]:
    """A function that adds images to a file, which appears at the end if there was no error.

    Args:
        path: path of the file; its ending gives the format.
        count: largest possible number of images.
        sizes: number of features by end point.
        classes: names of the classes in the order of their labels; may be empty.

    Raises: ValueError for another ending, ImportError without pyarrow, OSError.
    """
    _, ending = os.path.splitext(path)
    if ending not in ENDINGS:
        raise ValueError(f"{path} must end in {' or '.join(ENDINGS)}, which gives its format")
    parent, name = os.path.split(os.path.abspath(make_parent(path)))
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as beside:
        new = os.path.join(beside, name)
        write = _npz if ending == ".npz" else _parquet
        with write(new, count, sizes, classes) as add:
            yield add
        os.replace(new, path)


@contextlib.contextmanager
def _npz(path: str, count: int, sizes: Mapping[str, int], classes: Sequence[str]) -> Iterator[Add]:
    """Writes an array for each end point, and `record`, `label` and, if known, `classes`.

    The arrays are files beside the archive until their lengths are known.
    """
    types: Dict[str, Any] = {"record": (np.int64, ()), "label": (np.int32, ())}
    types.update({name: (np.float32, (size,)) for name, size in sizes.items()})
    folder = os.path.dirname(path)
    rows = {
        name: Rows(os.path.join(folder, f"{number}.npy"), dtype, (count, *shape))
        for number, (name, (dtype, shape)) in enumerate(types.items())
    }
    done = 0
    for part in rows.values():
        part.make()

    def add(some: Vectors) -> None:
        nonlocal done
        for name, values in _columns(some).items():
            rows[name].write(done, values)
        done += len(some.record)

    yield add
    # Arrays of NumPy are read whole, so compression would cost time and hardly save space.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, part in rows.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                part.copy(file, done)
            part.remove()
        if classes:
            with archive.open("classes.npy", "w") as file:
                np.lib.format.write_array(file, np.array(classes, dtype=str), allow_pickle=False)


@contextlib.contextmanager
def _parquet(
    path: str, count: int, sizes: Mapping[str, int], classes: Sequence[str]
) -> Iterator[Add]:
    """Writes columns `record`, `label`, `class` if the names are known, and the end points.

    An end point is a column of lists of fixed size.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'pretexture[parquet]'") from error
    fields = [("record", pyarrow.int64()), ("label", pyarrow.int32())]
    if classes:
        fields.append(("class", pyarrow.string()))
    fields += [(name, pyarrow.list_(pyarrow.float32(), size)) for name, size in sizes.items()]
    schema = pyarrow.schema(fields)
    waiting: List[Any] = []

    def table(some: Vectors) -> Any:
        columns: Dict[str, Any] = dict(_columns(some))
        for name, size in sizes.items():
            flat = pyarrow.array(np.ravel(columns[name]))
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, size)
        columns["class"] = [
            classes[label] if 0 <= label < len(classes) else None for label in some.label
        ]
        return pyarrow.table({name: columns[name] for name, _ in fields}, schema=schema)

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def write(least: int) -> None:
            if sum(map(len, waiting)) >= least:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()

        def add(some: Vectors) -> None:
            waiting.append(table(some))
            write(4096)

        yield add
        write(1)


def _columns(some: Vectors) -> Dict[str, np.ndarray]:
    return {"record": some.record, "label": some.label, **some.end_points}


@dataclasses.dataclass(frozen=True)
class Picture:
    """Which picture is drawn of features.

    Attributes:
        path: path of the picture.
        method: "tsne" or "umap".
        end_point: name of the end point; "" for `pre_logits`, or else the last one.
        images: largest number of images in it; if there are more, they are drawn at random.
    """

    path: str
    method: str = "tsne"
    end_point: str = ""
    images: int = 2000


def write_features(
    recipe: Recipe,
    data: str,
    split: str,
    representation: Representation,
    out: str,
    *,
    end_points: Sequence[str] = (),
    picture: Optional[Picture] = None,
    device: str = "auto",
    threads: Optional[int] = None,
    npu: NpuOptions = DEFAULTS,
    storage: Storage = DEFAULT_STORAGE,
    records: RecordOptions = DEFAULT_RECORDS,
    say: Callable[[str], None] = print,
) -> int:
    """Writes the end points of a frozen network for all images of a split.

    Args:
        recipe: recipe like `recipes.KNN`, with the export's pipeline.
        data: folder of shards; a path or a URL.
        split: name of the split.
        representation: the frozen network.
        out: path of the file; see `writing`.
        end_points: names of the end points; () for all.
        picture: a picture to draw as well.
        device, threads, npu, storage, records: as in `run.Options`.
        say: function that is told, line by line, what has been written.

    Returns: the number of images.

    Raises: ValueError, ImportError, OSError.
    """
    engines.require_one_process("the writing of features")
    engines.choose().open_device(device, npu=npu)
    frozen = FrozenFeatures(representation, recipe, Pipeline(recipe.pipeline), end_points, npu)
    images = LabelledSplit(data, split, recipe, storage, records, threads)
    classes = class_names(images.records, data, storage)
    count, done = len(images), 0
    shown: List[Vectors] = []
    name, chosen = "", np.empty(0, np.int64)
    if picture:
        from .projection import library, plane, scatter

        library(picture.method)  # an error now, not at the end
        name = picture.end_point or ("pre_logits" if "pre_logits" in frozen.sizes else "")
        name = name or list(frozen.sizes)[-1]
        if name not in frozen.sizes:
            raise ValueError(f"there is no end point {name}, but {', '.join(frozen.sizes)}")
        make_parent(picture.path)
        random = np.random.RandomState(0)
        chosen = np.sort(random.permutation(count)[: picture.images])
    bar = Bar(count, "images")
    with contextlib.closing(bar), writing(out, count, frozen.sizes, classes) as add:
        for some in images.vectors(frozen, False, lambda done, total: bar.update(done, "features")):
            add(some)
            done += len(some.record)
            if picture:
                rows = np.isin(some.record, chosen)
                shown.append(
                    Vectors(
                        some.record[rows],
                        some.label[rows],
                        {name: some.end_points[name][rows]},
                    )
                )
    sizes = ", ".join(f"{point} {size:,}" for point, size in frozen.sizes.items())
    say(printable(f"{out}: {done:,} images of split {split}; features: {sizes}"))
    if images.skipped:
        say(f"skipped {images.skipped:,} records that could not be used")
    if picture:
        vectors = np.concatenate([some.end_points[name] for some in shown])
        labels = np.concatenate([some.label for some in shown])
        title = f"{name} of {len(labels):,} images, split {split}, {picture.method}"
        scatter(plane(vectors, picture.method), labels, classes, picture.path, title)
        say(printable(f"{picture.path}: {title}"))
    return done
