"""FFCV as its documentation writes it, on CPU: a file of its own, compiled steps, threads.

    python -m pretexture.scripts.benchmarking.ffcv_loader CONTENDER FILE PROCESSES SHARD…

converts shards to such a file, and prints how many seconds that took. `ffcv` keeps the JPEGs as
they are; `ffcv-resized` follows FFCV's recipe for ImageNet. Colours are changed by factors, and
whole images are decoded.
"""

import io
import os
import sys
import time
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import (
    CenterCropRGBImageDecoder,
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    NormalizeImage,
    RandomBrightness,
    RandomHorizontalFlip,
    RandomSaturation,
    Squeeze,
    ToTensor,
)
from ffcv.writer import DatasetWriter
from PIL import Image
from pretexture.loader import TFRecords

from .jobs import Job, Source


def main() -> None:
    """Converts shards to a file."""
    contender, path, processes, *shards = sys.argv[1:]
    begin = time.perf_counter()
    if contender == "ffcv":
        images, field = _Encoded(shards), _Jpeg()
    else:
        # What its `write_imagenet.sh 500 0.50 90` does.
        images = _Decoded(shards)
        field = RGBImageField("proportion", 500, jpeg_quality=90, compress_probability=0.5)
    writer = DatasetWriter(path, {"image": field, "label": IntField()}, num_workers=int(processes))
    writer.from_indexed_dataset(images)
    print(time.perf_counter() - begin, flush=True)
    # FFCV's processes and threads sometimes never stop.
    os._exit(0)


class _Jpeg(RGBImageField):
    """Keeps a JPEG's bytes as they are; what FFCV cannot decode is compressed once more."""

    def encode(self, destination: Any, encoded: bytes, malloc: Any) -> None:
        image = Image.open(io.BytesIO(encoded))
        if image.format != "JPEG" or image.mode == "CMYK":
            file = io.BytesIO()
            image.convert("RGB").save(file, "JPEG", quality=90)
            encoded = file.getvalue()
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["width"], destination["height"] = image.size
        destination["data_ptr"], storage = malloc(len(encoded))
        storage[:] = np.frombuffer(encoded, np.uint8)


class _Encoded:
    """Pairs of an encoded image and a label."""

    def __init__(self, shards: List[str]):
        self._records = TFRecords(shards)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Tuple[Any, int]:
        record = self._records[int(number)]
        return record.image, record.label


class _Decoded(_Encoded):
    """Pairs of an image and a label."""

    def __getitem__(self, number: int) -> Tuple[Any, int]:
        encoded, label = super().__getitem__(number)
        return np.array(Image.open(io.BytesIO(encoded)).convert("RGB")), label


def open(job: Job) -> "_Batches":
    """The loader of a job, on the converted file."""
    return _Batches(job)


class _Batches(Source):
    def __init__(self, job: Job):
        # Compiled steps draw from NumPy's generator of the process that compiles them.
        np.random.seed(job.seed)
        scale = np.full(3, 127.5)
        finish: List[Any] = [NormalizeImage(scale, scale, np.float32), ToTensor()]
        self._loader = Loader(
            job.converted,
            batch_size=job.batch_size,
            num_workers=job.threads,
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            seed=job.seed,
            pipelines={
                "image": [*_STEPS[job.task](), *finish],
                "label": [IntDecoder(), ToTensor(), Squeeze()],
            },
            custom_fields={"image": RGBImageField},
        )

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            yield from self._loader


def _crop(side: int) -> List[Any]:
    return [
        RandomResizedCropRGBImageDecoder((side, side), scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3)),
        RandomHorizontalFlip(),
        RandomBrightness(32 / 255, p=1.0),
        RandomSaturation(0.5, p=1.0),
    ]


_STEPS: Dict[str, Any] = {
    "supervised": lambda: _crop(224),
    "small": lambda: _crop(32),
    "eval": lambda: [CenterCropRGBImageDecoder((224, 224), ratio=224 / 256)],
}


if __name__ == "__main__":
    main()
