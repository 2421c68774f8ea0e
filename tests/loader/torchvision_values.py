"""Compares views with torchvision's, and writes what torchvision gives for test_torchvision.py.

It is run by hand, in an environment of its own (5 GB):

    python3.11 -m venv .venv-torchvision
    .venv-torchvision/bin/pip install torch==2.14.1 torchvision==0.29.1 .
    .venv-torchvision/bin/python tests/loader/torchvision_values.py compare 'data/validation-*'
    .venv-torchvision/bin/python tests/loader/torchvision_values.py write

`compare` renders views of real images with the Loader, and the same views with
`torchvision.transforms.v2.functional` on float32 tensors, from the same draws. `write` keeps
torchvision's pixels for one small image, and samples of its random parameters.
"""

import argparse
import io
import itertools
import pathlib
import sys
from typing import Any, Dict, List

import numpy as np
import torch
from PIL import Image
from pretexture.loader import Loader, Pipeline, TFRecords, _core, presets
from pretexture.loader.epoch.draws import Draws, below, erased, random_resized_crop, uniform
from pretexture.loader.language import ops
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

VALUES = pathlib.Path(__file__).with_name("torchvision_values.npz")
SEED = 11
SAMPLES = 2000
RECORDS = 3

PIPELINES = [
    "random_resized_crop(40, 56)",
    "random_resized_crop(24, area=(0.5, 1))",
    "random_resized_crop(90, area=(0.05, 0.2))",
    "random_resized_crop(40, method='bicubic')",
    "random_resized_crop(90, area=(0.05, 0.2), method='bicubic')",
    "random_resized_crop(48, antialias=False)",
    "crop(60)|color_jitter(brightness=(0.4, 1.6))",
    "crop(60)|color_jitter(contrast=0.8)",
    "crop(60)|color_jitter(saturation=(0, 3))",
    "crop(60)|color_jitter(hue=0.5)",
    "crop(60)|color_jitter(0.8, 0.8, 0.8, 0.2)",
    "crop(60)|gray(weights='luma')",
    "crop(60)|blur(sigma=0.3, kernel_size=5)",
    "crop(60)|blur(sigma=(0.5, 2), kernel_size=23)",
    "crop(60)|solarize",
    "crop(60)|erase(1, value=(10, 20, 30))",
]


class Renderer:
    """Makes the views of a plan with torchvision's functions, from the draws of the Loader."""

    def __init__(self, pipeline: Pipeline, training: bool):
        self.plan = pipeline.compile(training)

    def views(self, image: np.ndarray, record: int, epoch: int) -> List[np.ndarray]:
        """uint8 [V, H, W, 3] by branch, of a uint8 image."""
        whole = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        found = []
        for number, branch in enumerate(self.plan.branches):
            draws = Draws(SEED, epoch, record, number)
            views = [whole]
            for op in branch.ops:
                if isinstance(op, ops.Views):
                    views = views * op.n
                    continue
                views = [_change(op, view, v, draws) for v, view in enumerate(views)]
            stacked = torch.stack(views).mul(255).clamp(0, 255).round().to(torch.uint8)
            found.append(stacked.permute(0, 2, 3, 1).numpy())
        return found


def _change(op: Any, view: torch.Tensor, v: int, draws: Draws) -> torch.Tensor:
    words = draws.block(op.stream, v)
    height, width = view.shape[-2:]
    if isinstance(op, (ops.Normalize, ops.Standardize)):
        return view
    if isinstance(op, ops.RandomResizedCrop):
        window = random_resized_crop(
            draws, op.stream, v, height, width, op.area, op.aspect, op.log_aspect
        )
        mode = getattr(v2.InterpolationMode, op.method.upper())
        size = [op.height, op.width]
        return F.resized_crop(view, *window, size, mode, antialias=op.antialias).clamp(0, 1)
    if isinstance(op, ops.CentralResizedCrop):
        mode = getattr(v2.InterpolationMode, op.method.upper())
        view = F.resize(view, [op.size], mode, antialias=op.antialias).clamp(0, 1)
        return F.center_crop(view, [op.height, op.width])
    if isinstance(op, ops.Crop):
        top, left = (height - op.height) // 2, (width - op.width) // 2
        if op.random:
            top = below(words[0], height - op.height + 1)
            left = below(words[1], width - op.width + 1)
        return F.crop(view, top, left, op.height, op.width)
    if isinstance(op, ops.Flip):
        return F.horizontal_flip(view) if uniform(words[0]) < 0.5 else view
    if uniform(words[0]) >= op.probability:
        return view
    if isinstance(op, ops.Gray):
        assert op.luma
        return F.rgb_to_grayscale(view, 3)
    if isinstance(op, ops.ColorJitter):
        amounts = draws.block(op.stream, v, 1)
        change = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        ranges = (op.brightness, op.contrast, op.saturation, op.hue)
        for part in list(itertools.permutations(range(4)))[below(words[1], 24)]:
            low, high = ranges[part]
            if (low, high) != ((0, 0) if part == 3 else (1, 1)):
                view = change[part](view, low + (high - low) * uniform(amounts[part]))
        return view
    if isinstance(op, ops.Blur):
        sigma = op.sigma[0] + (op.sigma[1] - op.sigma[0]) * uniform(words[1])
        size = op.kernel_size or 2 * (height // 10 // 2) + 1
        return F.gaussian_blur(view, [size, size], [sigma, sigma])
    if isinstance(op, ops.Solarize):
        return F.solarize(view, op.threshold / 255)
    assert isinstance(op, ops.Erase)
    window = erased(draws, op.stream, v, height, width, op.area, op.log_aspect)
    return F.erase(view, *window, torch.tensor(op.value)[:, None, None] / 255)


def compare(pattern: str) -> int:
    """Prints how far views of real images are from torchvision's; 1 if that is too far."""
    records = TFRecords(pattern)
    far = False
    for name in ("SIMCLR", "MOCO_V2", "BYOL", "SWAV", "DINO", "MAE", "TORCHVISION"):
        for training in (True, False) if name == "TORCHVISION" else (True,):
            pipeline = presets.ALL[name]
            renderer = Renderer(pipeline, training)
            most, total, count = 0, 0.0, 0
            options = {"training": training, "seed": SEED, "shuffle": False, "dtype": "uint8"}
            with Loader(records, pipeline, 1, drop_remainder=False, **options) as loader:
                for batch in loader:
                    number = int(batch.index[0])
                    image = _core.decode_jpeg(records[number].image)
                    images = batch.image if isinstance(batch.image, tuple) else (batch.image,)
                    for mine, theirs in zip(images, renderer.views(image, number, 0)):
                        apart = np.abs(mine.reshape(theirs.shape).astype(int) - theirs)
                        most, total = max(most, apart.max()), total + apart.sum()
                        count += apart.size
            mode = "training" if training else "evaluation"
            print(f"{name:12} {mode:10} at most {most} grey levels, {total / count:.5f} on average")
            far = far or most > 1 or total / count > 0.1
    return int(far)


def small_image() -> np.ndarray:
    """uint8 [75, 101, 3]: colours that change smoothly, edges and noise."""
    y, x = np.mgrid[:75, :101].astype(float)
    noise = np.random.default_rng(0).normal(0, 12, (75, 101, 3))
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((9, 17), (-13, 8), (23, -11))]
    image = np.stack(waves, 2) + noise
    image[20:40, 30:60] = (250, 30, 90)
    return np.clip(image, 0, 255).astype(np.uint8)


def write() -> None:
    """Writes torchvision's pixels and samples of its random parameters."""
    torch.manual_seed(0)
    image = small_image()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    kept: Dict[str, np.ndarray] = {"image": np.frombuffer(file.getvalue(), np.uint8)}
    for text in PIPELINES:
        (views,) = zip(*(Renderer(Pipeline(text), True).views(image, r, 0) for r in range(RECORDS)))
        kept[text] = np.concatenate(views)
    for height, width in ((375, 500), (300, 900), (64, 64)):
        size = torch.zeros(3, height, width)
        crops = [
            v2.RandomResizedCrop(224, scale=(0.08, 1)).make_params([size]) for _ in range(SAMPLES)
        ]
        kept[f"crop {height} {width}"] = np.array(
            [[c[k] for k in ("top", "left", "height", "width")] for c in crops], np.int16
        )
    erasing = v2.RandomErasing(p=1)
    found = [erasing.make_params([torch.zeros(3, 224, 224)]) for _ in range(SAMPLES)]
    kept["erase 224 224"] = np.array([[f["i"], f["j"], f["h"], f["w"]] for f in found], np.int16)
    jitter = v2.ColorJitter(0.8, 0.8, 0.8, 0.2)
    drawn = [jitter.make_params([]) for _ in range(SAMPLES)]
    kept["jitter order"] = np.array([[int(i) for i in d["fn_idx"]] for d in drawn], np.int8)
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    kept["jitter amounts"] = np.array([[d[n] for n in names] for d in drawn], np.float32)
    blur = v2.GaussianBlur(23, (0.1, 2))
    kept["blur"] = np.array([blur.make_params([])["sigma"][0] for _ in range(SAMPLES)], np.float32)
    np.savez_compressed(VALUES, **kept)
    print(f"{VALUES}: {VALUES.stat().st_size} bytes")


def main() -> int:
    """Runs the command that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("compare").add_argument("pattern")
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.pattern)
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
