"""PyTorch's DataLoader with torchvision's own decoder, and its transforms v2 on tensors of bytes.

Both are what torchvision's documentation advises for speed. Processes take the place of threads,
each handing over its batches through shared memory. Channels come first, as PyTorch's users have
them; a batch's shape is that of a view.
"""

import io
from typing import Any, Iterator, List, Tuple

import torch
from PIL import Image, ImageFilter
from pretexture.loader import TFRecords
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from .jobs import PILLOW, Job, Source

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
            generator=torch.Generator().manual_seed(job.seed),
        )

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        while True:
            for image, label in self._loader:
                if isinstance(image, list):  # of several branches
                    yield tuple(views.movedim(-3, -1) for views in image), label
                else:
                    yield image.movedim(-3, -1), label


def _inception(side: int) -> List[Any]:
    return [
        v2.RandomResizedCrop(side, scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=32 / 255, saturation=0.5),
    ]


_TO_RANGE = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]


_TO_IMAGENET = [
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
]


class _PillowBlur(torch.nn.Module):
    """Pillow's blur, as the published code of SimCLR's and DINO's successors has it."""

    def forward(self, image: Image.Image) -> Image.Image:
        radius = 0.1 + 1.9 * torch.rand(()).item()
        return image.filter(ImageFilter.GaussianBlur(radius))


class _Contrastive:
    """Makes the views of SimCLR and DINO."""

    def __init__(self, pillow: bool):
        self._pillow = pillow
        crop = v2.RandomResizedCrop(224)
        self._simclr = self._view(crop, (0.8, 0.8, 0.8, 0.2), 0.5, 0, _TO_IMAGENET[:1])
        self._dino = [
            self._of_dino(224, (0.4, 1), 1, 0),
            self._of_dino(224, (0.4, 1), 0.1, 0.2),
            self._of_dino(96, (0.05, 0.4), 0.5, 0),
        ]

    def simclr(self, image: Any) -> torch.Tensor:
        return torch.stack([self._simclr(image) for _ in range(2)])

    def dino(self, image: Any) -> Tuple[torch.Tensor, ...]:
        first, second, small = self._dino
        return first(image), second(image), torch.stack([small(image) for _ in range(6)])

    def _of_dino(self, side: int, scale: Tuple[float, float], blur: float, solarize: float) -> Any:
        crop = v2.RandomResizedCrop(side, scale=scale, interpolation=v2.InterpolationMode.BICUBIC)
        return self._view(crop, (0.4, 0.4, 0.2, 0.1), blur, solarize, _TO_IMAGENET)

    def _view(
        self, crop: Any, jitter: Tuple[float, ...], blur: float, solarize: float, end: List[Any]
    ) -> Any:
        """A view, with the probabilities of blur and solarize."""
        gauss: Any = _PillowBlur()
        if not self._pillow:
            gauss = v2.GaussianBlur(crop.size[0] // 10 // 2 * 2 + 1, (0.1, 2.0))
        return v2.Compose(
            [
                crop,
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(*jitter)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([gauss], p=blur),
                v2.RandomSolarize(128, p=solarize),
                *([v2.ToImage()] if self._pillow else []),
                *end,
            ]
        )


class _Images(Dataset):
    def __init__(self, job: Job):
        self._records = TFRecords(job.paths)
        self._task = job.task
        self._crop = v2.Compose(_inception(224))
        self._supervised_steps = v2.Compose([*_inception(224), *_TO_RANGE])
        self._small_steps = v2.Compose([*_inception(32), *_TO_RANGE])
        self._eval_steps = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *_TO_RANGE])
        self._square = v2.Compose([v2.Resize(224), v2.CenterCrop(192)])
        self._pillow = job.contender == PILLOW
        contrastive = _Contrastive(self._pillow)
        self._simclr, self._dino = contrastive.simclr, contrastive.dino
        self._window = v2.Compose([v2.Resize((292, 292)), v2.RandomGrayscale(GRAY)])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Tuple[torch.Tensor, Any]:
        record = self._records[number]
        if self._pillow:
            image: Any = Image.open(io.BytesIO(record.image)).convert("RGB")
        else:
            encoded = torch.frombuffer(bytearray(record.image), dtype=torch.uint8)
            image = decode_image(encoded, ImageReadMode.RGB)
        views = getattr(self, "_" + self._task)(image)
        label = list(range(4)) if self._task == "rotation" else record.label
        return views, torch.tensor(label, dtype=torch.int32)

    def _supervised(self, image: torch.Tensor) -> torch.Tensor:
        return self._supervised_steps(image)

    def _small(self, image: torch.Tensor) -> torch.Tensor:
        return self._small_steps(image)

    def _rotation(self, image: torch.Tensor) -> torch.Tensor:
        view = self._supervised_steps(image)
        return torch.stack([torch.rot90(view, turns, (1, 2)) for turns in range(4)])

    def _exemplar(self, image: torch.Tensor) -> torch.Tensor:
        views = torch.stack([self._crop(image) for _ in range(VIEWS)])
        if torch.rand(()) < GRAY:
            views = functional.rgb_to_grayscale(views, num_output_channels=3)
        return _standardize(views)

    def _jigsaw(self, image: torch.Tensor) -> torch.Tensor:
        return _patches(functional.crop(self._window(image), *_below(38), 255, 255), 21)

    def _eval(self, image: torch.Tensor) -> torch.Tensor:
        return self._eval_steps(image)

    def _eval_patches(self, image: torch.Tensor) -> torch.Tensor:
        return _patches(self._square(image), 0)


def _below(n: int) -> List[int]:
    """Two whole numbers below n."""
    return torch.randint(n, (2,)).tolist()


def _patches(image: torch.Tensor, jitter: int) -> torch.Tensor:
    """The 3 x 3 patches of an image, each at a random place in its cell."""
    cell = image.shape[-1] // 3
    patches = []
    for row in range(3):
        for column in range(3):
            top, left = _below(jitter + 1)
            side = cell - jitter
            corner = row * cell + top, column * cell + left
            patches.append(functional.crop(image, *corner, side, side))
    return _standardize(torch.stack(patches))


def _standardize(views: torch.Tensor) -> torch.Tensor:
    views = views.to(torch.float32)
    deviation, mean = torch.std_mean(views, dim=(1, 2, 3), keepdim=True, correction=0)
    return views.sub_(mean).div_(deviation.clamp_(min=views[0].numel() ** -0.5))
