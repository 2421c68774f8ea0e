"""PyTorch's DataLoader with the transforms that torchvision applies to Pillow images.

torchvision is not needed: what its transforms do to an image is a line of Pillow each. Processes
take the place of threads, each handing over its batches through shared memory.
"""

import io
import random
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pretexture.loader import TFRecords
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .jobs import Job, Source
from .windows import Window, random_patch, random_window

GRAY = 0.66
VIEWS = 8


def open(job: Job) -> "_Batches":
    """The DataLoader of a job."""
    return _Batches(job)


class _Batches(Source):
    def __init__(self, job: Job):
        torch.set_num_threads(1)
        self._loader = DataLoader(
            _Images(job),
            batch_size=job.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=job.threads,
            prefetch_factor=2,
            persistent_workers=True,
            worker_init_fn=_seed_worker,
            generator=torch.Generator().manual_seed(job.seed),
        )

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            yield from self._loader


def _seed_worker(worker: int) -> None:
    """Each process has a copy of the dataset, and draws of its own."""
    info: Any = get_worker_info()
    info.dataset.random.seed(info.seed)


class _Images(Dataset):
    def __init__(self, job: Job):
        self._records = TFRecords(job.paths)
        self._task = job.task
        self.random = random.Random(job.seed)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Tuple[torch.Tensor, Any]:
        record = self._records[number]
        image = Image.open(io.BytesIO(record.image)).convert("RGB")
        views = getattr(self, "_" + self._task)(image)
        label = list(range(4)) if self._task == "rotation" else record.label
        return views, torch.tensor(label, dtype=torch.int32)

    def _supervised(self, image: Image.Image) -> torch.Tensor:
        return _to_range(self._crop(image))

    def _rotation(self, image: Image.Image) -> torch.Tensor:
        view = self._supervised(image)
        return torch.stack([torch.rot90(view, turns) for turns in range(4)])

    def _exemplar(self, image: Image.Image) -> torch.Tensor:
        gray = self.random.random() < GRAY
        views = [self._crop(image) for _ in range(VIEWS)]
        return _standardize([_gray(view) if gray else view for view in views])

    def _jigsaw(self, image: Image.Image) -> torch.Tensor:
        image = image.resize((292, 292), Image.Resampling.BILINEAR)
        if self.random.random() < GRAY:
            image = _gray(image)
        top, left = self.random.randint(0, 37), self.random.randint(0, 37)
        return self._patches(_part(image, Window(top, left, 255, 255)), 21)

    def _eval(self, image: Image.Image) -> torch.Tensor:
        return _to_range(_resize_centre(image, 256, 224))

    def _eval_patches(self, image: Image.Image) -> torch.Tensor:
        return self._patches(_resize_centre(image, 224, 192), 0)

    def _crop(self, image: Image.Image) -> Image.Image:
        view = _part(image, random_window(self.random, image.height, image.width))
        view = view.resize((224, 224), Image.Resampling.BILINEAR)
        if self.random.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        brightness = self.random.uniform(1 - 32 / 255, 1 + 32 / 255)
        view = ImageEnhance.Brightness(view).enhance(brightness)
        return ImageEnhance.Color(view).enhance(self.random.uniform(0.5, 1.5))

    def _patches(self, image: Image.Image, jitter: int) -> torch.Tensor:
        windows = [random_patch(self.random, n, image.width // 3, jitter) for n in range(9)]
        return _standardize([_part(image, window) for window in windows])


def _part(image: Image.Image, window: Window) -> Image.Image:
    top, left, height, width = window
    return image.crop((left, top, left + width, top + height))


def _gray(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _resize_centre(image: Image.Image, smaller: int, side: int) -> Image.Image:
    shortest = min(image.size)
    width, height = (round(s * smaller / shortest) for s in image.size)
    image = image.resize((width, height), Image.Resampling.BOX)
    return _part(image, Window((height - side) // 2, (width - side) // 2, side, side))


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).to(torch.float32)


def _to_range(image: Image.Image) -> torch.Tensor:
    return _tensor(image).div_(127.5).sub_(1)


def _standardize(views: List[Image.Image]) -> torch.Tensor:
    tensor = torch.stack([_tensor(view) for view in views])
    deviation, mean = torch.std_mean(tensor, dim=(1, 2, 3), keepdim=True, correction=0)
    return tensor.sub_(mean).div_(deviation.clamp_(min=tensor[0].numel() ** -0.5))
