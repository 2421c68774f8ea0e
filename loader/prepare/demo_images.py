"""The demo's images: about a thousand crops of the photographs in two Python packages.

The class of a crop is its photograph. The photographs are chosen so that rotation can be learned:
each has an up and a down, and the crops are large enough to show it. Pictures of textures, cells or
stars, and flowers seen from above, have no up and down.
"""

import importlib.util
import os
import random
import shutil
from typing import Callable, Dict, NamedTuple, Tuple

from .pillow import Image

TRAIN, VALIDATION = 128, 22  # number of crops of each photograph
SIDE = (96, 500)  # range of a crop's longer side, pixels

_Span = Tuple[float, float]
_WHOLE = {"train": (0.0, 1.0), "val": (0.0, 1.0)}


class Photograph(NamedTuple):
    """A photograph, and the part of its width that the crops of each split come from.

    If a narrow part is enough to tell up from down, the parts are disjoint, so that no training
    crop shows what validation sees. The other photographs show a single object; there, validation
    has other crops of the same part.

    Attributes:
        package: name of the Python package that has the photograph.
        path: path of the file, from the package's parent folder.
        spans: left and right end of the part for each split, as shares of the width.
    """

    package: str
    path: str
    spans: Dict[str, _Span] = _WHOLE


PHOTOGRAPHS = {
    "astronaut": Photograph("scikit-image", "skimage/data/astronaut.png"),
    "camera": Photograph(
        "scikit-image", "skimage/data/camera.png", {"train": (0.0, 0.64), "val": (0.64, 1.0)}
    ),
    "chelsea": Photograph("scikit-image", "skimage/data/chelsea.png"),
    "china": Photograph(
        "scikit-learn",
        "sklearn/datasets/images/china.jpg",
        {"train": (0.0, 0.6), "val": (0.6, 1.0)},
    ),
    "coffee": Photograph("scikit-image", "skimage/data/coffee.png"),
    "motorcycle": Photograph("scikit-image", "skimage/data/motorcycle_left.png"),
    "rocket": Photograph("scikit-image", "skimage/data/rocket.jpg"),
}


TOTAL = (TRAIN + VALIDATION) * len(PHOTOGRAPHS)


def make(folder: str, progress: Callable[[int], None]) -> None:
    """Writes `folder`/train/NAME/*.jpg and `folder`/val/NAME/*.jpg; always the same crops.

    The folder appears whole or not at all. The JPEGs vary in size, quality, chroma subsampling and
    whether they are progressive.

    Args:
        folder: folder to make; it must not exist.
        progress: function that is called with the number of images done, out of `TOTAL`.

    Raises: ImportError if a package is missing; OSError.
    """
    photographs = {name: _open(photograph) for name, photograph in PHOTOGRAPHS.items()}
    beside = f"{folder}.part"
    shutil.rmtree(beside, ignore_errors=True)
    done = 0
    for name, image in photographs.items():
        for split, count in (("train", TRAIN), ("val", VALIDATION)):
            chance = random.Random(f"{name} {split}")
            os.makedirs(os.path.join(beside, split, name))
            for number in range(count):
                crop = _crop(image, PHOTOGRAPHS[name].spans[split], chance)
                crop.save(
                    os.path.join(beside, split, name, f"{number:03d}.jpg"),
                    quality=chance.randint(60, 95),
                    subsampling=chance.choice((0, 1, 2)),  # 4:4:4, 4:2:2, 4:2:0
                    progressive=chance.random() < 0.1,
                )
                done += 1
                progress(done)
    os.rename(beside, folder)


def _open(photograph: Photograph) -> Image.Image:
    module, inside = photograph.path.split("/", 1)
    spec = importlib.util.find_spec(module)  # does not import it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the demo's photographs are in {photograph.package}: pip install 'pretexture[demo]'"
        )
    path = os.path.join(next(iter(spec.submodule_search_locations)), *inside.split("/"))
    if not os.path.exists(path):
        raise FileNotFoundError(f"the {photograph.package} installed here lacks {path}")
    image = Image.open(path)
    image.load()
    return image


def _crop(image: Image.Image, span: _Span, chance: random.Random) -> Image.Image:
    """A window of about half the photograph's height or more, within a part of its width."""
    left, right = span[0] * image.width, span[1] * image.width
    height = min(chance.uniform(0.5, 1) * image.height, (right - left) / 0.6)
    width = min(right - left, height * chance.uniform(3 / 4, 4 / 3))
    x = chance.uniform(left, right - width)
    y = chance.uniform(0, image.height - height)
    longer = min(max(width, height), chance.uniform(*SIDE))
    scale = longer / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, box=(x, y, x + width, y + height))
