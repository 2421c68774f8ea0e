"""SPDL as its documentation writes an image pipeline: threads, and FFmpeg's filters for the views.

Crop, resize, flip and colour are one description of FFmpeg filters for each image, which works on
YUV before the conversion to RGB, as SPDL's guide to augmentation advises. So saturation is that of
YUV. Several views of an image are stacked into one frame, which is decoded once.
"""

import random
from typing import Any, Iterator, List, Tuple

import spdl.io
import spdl.io.utils
import torch
from pretexture.loader import TFRecords
from spdl.pipeline import PipelineBuilder

from .jobs import Job, Source
from .windows import random_patch, random_window

GRAY = 0.66
VIEWS = 8


def open(job: Job) -> "_Batches":
    """The pipeline of a job. Raises: ImportError if SPDL does not find FFmpeg's libraries."""
    try:
        spdl.io.utils.get_ffmpeg_versions()
    except RuntimeError:
        raise ImportError("SPDL does not find FFmpeg's libraries, version 4 or later") from None
    return _Batches(job)


class _Batches(Source):
    def __init__(self, job: Job):
        torch.set_num_threads(1)
        self._task = job.task
        self._records = TFRecords(job.paths)
        self._filters = _Filters(job.seed)
        self._pipeline = (
            PipelineBuilder()
            .add_source(self._numbers(job.seed))
            .pipe(self._decode, concurrency=job.threads)
            .aggregate(job.batch_size)
            .pipe(self._batch)
            .add_sink(2)
            .build(num_threads=job.threads)
        )

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        with self._pipeline.auto_stop():
            yield from self._pipeline

    def _numbers(self, seed: int) -> Iterator[int]:
        order, shuffled = list(range(len(self._records))), random.Random(seed)
        while True:
            shuffled.shuffle(order)
            yield from order

    def _decode(self, number: int) -> Tuple[Any, int]:
        record = self._records[number]
        packets = spdl.io.demux_image(record.image)
        filters = getattr(self._filters, self._task)(packets.height, packets.width)
        description = spdl.io.get_video_filter_desc(filter_desc=filters, pix_fmt="rgb24")
        return spdl.io.decode_packets(packets, filter_desc=description), record.label

    def _batch(self, items: List[Tuple[Any, int]]) -> Tuple[torch.Tensor, torch.Tensor]:
        frames, labels = zip(*items)
        image = spdl.io.to_torch(spdl.io.convert_frames(list(frames))).float()
        label = torch.tensor(labels, dtype=torch.int32)
        if self._task in ("exemplar", "jigsaw", "eval_patches"):
            side = image.shape[2]
            return _standardize(image.view(len(image), -1, side, side, 3)), label
        image = image.div_(127.5).sub_(1)
        if self._task == "rotation":
            image = torch.stack([torch.rot90(image, turns, (1, 2)) for turns in range(4)], 1)
            label = torch.arange(4, dtype=torch.int32).expand(len(image), 4)
        return image, label


def _standardize(views: torch.Tensor) -> torch.Tensor:
    deviation, mean = torch.std_mean(views, dim=(2, 3, 4), keepdim=True, correction=0)
    return views.sub_(mean).div_(deviation.clamp_(min=views[0, 0].numel() ** -0.5))


class _Filters:
    """One method a task: from an image's height and width to a description of filters."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def supervised(self, height: int, width: int) -> str:
        return self._crop(height, width, 224)

    rotation = supervised

    def small(self, height: int, width: int) -> str:
        return self._crop(height, width, 32)

    def exemplar(self, height: int, width: int) -> str:
        gray = self._random.random() < GRAY
        return _stacked([self._crop(height, width, 224, gray) for _ in range(VIEWS)])

    def jigsaw(self, height: int, width: int) -> str:
        left, top = self._random.randint(0, 37), self._random.randint(0, 37)
        resized = f"scale=292:292:flags=bilinear,format=pix_fmts=rgb24,crop=255:255:{left}:{top}"
        if self._random.random() < GRAY:
            resized = f"hue=s=0,{resized}"
        return f"{resized},{self._patches(85, 21)}"

    def eval(self, height: int, width: int) -> str:
        return f"{_covering(256)},crop=224:224"

    def eval_patches(self, height: int, width: int) -> str:
        return f"{_covering(224)},format=pix_fmts=rgb24,crop=192:192,{self._patches(64, 0)}"

    def _crop(self, height: int, width: int, side: int, gray: bool = False) -> str:
        window = random_window(self._random, height, width)
        flip = "hflip," if self._random.random() < 0.5 else ""
        brightness = self._random.uniform(-32 / 255, 32 / 255)
        saturation = 0.0 if gray else self._random.uniform(0.5, 1.5)
        return (
            f"crop={window.width}:{window.height}:{window.left}:{window.top},"
            f"scale={side}:{side}:flags=bilinear,{flip}"
            f"eq=brightness={brightness:.4f}:saturation={saturation:.4f}"
        )

    def _patches(self, cell: int, jitter: int) -> str:
        windows = [random_patch(self._random, number, cell, jitter) for number in range(9)]
        return _stacked([f"crop={w.width}:{w.height}:{w.left}:{w.top}" for w in windows])


def _covering(side: int) -> str:
    """Area resize of the smaller side."""
    return f"scale={side}:{side}:flags=area:force_original_aspect_ratio=increase"


def _stacked(chains: List[str]) -> str:
    """Several chains of filters for the same frame, whose results lie below one another."""
    number = len(chains)
    begin = f"split={number}" + "".join(f"[in{n}]" for n in range(number))
    middle = [f"[in{n}]{chain}[out{n}]" for n, chain in enumerate(chains)]
    end = "".join(f"[out{n}]" for n in range(number)) + f"vstack=inputs={number}"
    return ";".join([begin, *middle, end])
