"""OpenCV as a script would use it: one image after the other, in Python threads if more than one.

It draws crops, patches and flips, resizes and normalises, but leaves the colours as they are.
"""

import concurrent.futures
import random
from typing import Any, Iterator, Tuple

import cv2
import numpy as np
from pretexture.loader import TFRecords

from .jobs import Job, Source
from .windows import Window, random_patch, random_window

_SHAPES = {
    "supervised": (224, 224, 3),
    "rotation": (4, 224, 224, 3),
    "exemplar": (8, 224, 224, 3),
    "jigsaw": (9, 64, 64, 3),
    "eval": (224, 224, 3),
    "eval_patches": (9, 64, 64, 3),
}


def open(job: Job) -> "_Images":
    """The images of a job."""
    return _Images(job)


class _Images(Source):
    def __init__(self, job: Job):
        cv2.setNumThreads(1)
        self._job = job
        self._records = TFRecords(job.paths)
        self._views = getattr(_Views(job.seed), job.task)

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        job = self._job
        random_order = np.random.default_rng(job.seed)
        with concurrent.futures.ThreadPoolExecutor(job.threads) as pool:
            run = map if job.threads == 1 else pool.map
            while True:
                order = random_order.permutation(len(self._records))
                for begin in range(0, len(order) - job.batch_size + 1, job.batch_size):
                    image = np.empty((job.batch_size, *_SHAPES[job.task]), np.float32)
                    labels = list(run(self._one, order[begin : begin + job.batch_size], image))
                    yield image, np.array(labels, np.int32)

    def _one(self, number: int, out: np.ndarray) -> Any:
        record = self._records[int(number)]
        self._views(cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR), out)
        return range(4) if self._job.task == "rotation" else record.label


class _Views:
    """One method a task: from a decoded image to its views."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def supervised(self, image: np.ndarray, out: np.ndarray) -> None:
        _to_range(self._crop(image), out)

    def rotation(self, image: np.ndarray, out: np.ndarray) -> None:
        self.supervised(image, out[0])
        for turns in (1, 2, 3):
            out[turns] = np.rot90(out[0], turns)

    def exemplar(self, image: np.ndarray, out: np.ndarray) -> None:
        for view in out:
            _standardize(self._crop(image), view)

    def jigsaw(self, image: np.ndarray, out: np.ndarray) -> None:
        image = cv2.resize(image, (292, 292))
        top, left = self._random.randint(0, 37), self._random.randint(0, 37)
        self._patches(image[top : top + 255, left : left + 255], 21, out)

    def eval(self, image: np.ndarray, out: np.ndarray) -> None:
        _to_range(_resize_centre(image, 256, 224), out)

    def eval_patches(self, image: np.ndarray, out: np.ndarray) -> None:
        self._patches(_resize_centre(image, 224, 192), 0, out)

    def _crop(self, image: np.ndarray) -> np.ndarray:
        crop = cv2.resize(_part(image, random_window(self._random, *image.shape[:2])), (224, 224))
        return cv2.flip(crop, 1) if self._random.random() < 0.5 else crop

    def _patches(self, image: np.ndarray, jitter: int, out: np.ndarray) -> None:
        for number, view in enumerate(out):
            window = random_patch(self._random, number, len(image) // 3, jitter)
            _standardize(_part(image, window), view)


def _part(image: np.ndarray, window: Window) -> np.ndarray:
    top, left, height, width = window
    return image[top : top + height, left : left + width]


def _resize_centre(image: np.ndarray, smaller: int, side: int) -> np.ndarray:
    """Area resize of the smaller side, then the central square."""
    height, width = (round(s * smaller / min(image.shape[:2])) for s in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _part(image, Window((height - side) // 2, (width - side) // 2, side, side))


def _to_range(view: np.ndarray, out: np.ndarray) -> None:
    np.multiply(cv2.cvtColor(view, cv2.COLOR_BGR2RGB), np.float32(2 / 255), out=out)
    out -= 1


def _standardize(view: np.ndarray, out: np.ndarray) -> None:
    mean, deviation = cv2.meanStdDev(view.reshape(-1, 1))
    scale = np.float32(1 / max(deviation.item(), view.size**-0.5))
    np.multiply(cv2.cvtColor(view, cv2.COLOR_BGR2RGB), scale, out=out)
    out -= np.float32(mean.item()) * scale
