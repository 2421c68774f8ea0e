"""The steps that are named like torchvision's functions, against torchvision's own results.

`torchvision_values.py` wrote them, with torchvision 0.29.1.
"""

import pathlib
from collections import Counter

import numpy as np
import pytest
from pretexture.loader import _core
from pretexture.loader.backends.reference import renderer as reference
from pretexture.loader.epoch.draws import Draws, below, erased, random_resized_crop, uniform
from pretexture.loader.language import ops
from pretexture.loader.language.pipeline import Pipeline

VALUES = dict(np.load(str(pathlib.Path(__file__).with_name("torchvision_values.npz"))))
SEED = 11
PIPELINES = [name for name in VALUES if "(" in name or "|" in name]


def test_there_are_values_for_every_step():
    steps = {step.split("(")[0] for text in PIPELINES for step in text.split("|")}
    assert steps >= {"random_resized_crop", "color_jitter", "gray", "blur", "solarize", "erase"}


@pytest.mark.parametrize("renderer", [_core.Renderer, reference.Renderer])
@pytest.mark.parametrize("text", PIPELINES)
def test_pixels_are_those_of_torchvision(text, renderer):
    render = renderer(Pipeline(text).compile(True), seed=SEED, dtype="uint8", layout="NHWC")
    encoded = VALUES["image"].tobytes()
    for record, expected in enumerate(VALUES[text]):
        image, _ = render.views(encoded, 0, record, 0)
        apart = np.abs(image.astype(int) - expected)
        assert apart.max() <= 1
        assert apart.mean() < 0.01


def assert_same_distribution(ours, theirs):
    """The two-sample test of Kolmogorov and Smirnov, at a level of 1e-4.

    The seed is fixed, so the test gives the same answer every time.
    """
    ours, theirs = np.sort(ours), np.sort(theirs)
    at = np.concatenate([ours, theirs])
    shares = [np.searchsorted(x, at, side="right") / len(x) for x in (ours, theirs)]
    limit = np.sqrt(-np.log(1e-4 / 2) / 2) * np.sqrt(1 / len(ours) + 1 / len(theirs))
    assert np.abs(shares[0] - shares[1]).max() < limit


def windows_agree(ours, theirs, height, width):
    def measures(windows):
        top, left, rows, columns = windows.T.astype(float)
        area, aspect = rows * columns / (height * width), columns / np.maximum(rows, 1)
        return area, aspect, top, left, top + rows, left + columns

    for mine, other in zip(measures(ours), measures(theirs)):
        assert_same_distribution(mine, other)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (300, 900), (64, 64)])
def test_crops_are_distributed_as_those_of_torchvision(height, width):
    (op,) = Pipeline("random_resized_crop(224)").compile(True).ops
    ours = [
        random_resized_crop(
            Draws(SEED, 0, record), 0, 0, height, width, op.area, op.aspect, op.log_aspect
        )
        for record in range(2000)
    ]
    windows_agree(np.array(ours), VALUES[f"crop {height} {width}"], height, width)


def test_rectangles_are_distributed_as_those_of_torchvision():
    op = Pipeline("resize(224)|erase(1)").compile(True).ops[1]
    ours = [
        erased(Draws(SEED, 0, record), 0, 0, 224, 224, op.area, op.log_aspect)
        for record in range(2000)
    ]
    windows_agree(np.array(ours), VALUES["erase 224 224"], 224, 224)


def rendered(text, record):
    render = _core.Renderer(Pipeline(text).compile(True), seed=SEED, dtype="float32", layout="NHWC")
    return render.views(VALUES["image"].tobytes(), 0, record, 0)[0]


def test_the_order_of_color_jitter_is_uniform_like_that_of_torchvision():
    ours = Counter(below(Draws(SEED, 0, r).block(16, 0)[1], 24) for r in range(2400))
    theirs = Counter(map(tuple, VALUES["jitter order"].tolist()))
    assert len(ours) == len(theirs) == 24
    for counts in (ours, theirs):  # chi squared with 23 degrees of freedom, level 1e-4
        expected = sum(counts.values()) / 24
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 58.6


@pytest.mark.parametrize("part", range(4))
def test_the_amounts_of_color_jitter_are_distributed_as_those_of_torchvision(part):
    op = Pipeline("resize(9)|color_jitter(0.8, 0.8, 0.8, 0.2)").compile(True).ops[1]
    low, high = (op.brightness, op.contrast, op.saturation, op.hue)[part]
    words = [Draws(SEED, 0, r).block(op.stream, 0, 1)[part] for r in range(2000)]
    ours = low + (high - low) * np.array([uniform(word) for word in words])
    assert_same_distribution(ours, VALUES["jitter amounts"][:, part])


def test_the_widths_of_blurs_are_distributed_as_those_of_torchvision():
    op = Pipeline("resize(90)|blur").compile(True).ops[1]
    assert isinstance(op, ops.Blur)
    words = [Draws(SEED, 0, r).block(op.stream, 0)[1] for r in range(2000)]
    low, high = op.sigma
    ours = low + (high - low) * np.array([uniform(word) for word in words])
    assert_same_distribution(ours, VALUES["blur"])


@pytest.mark.parametrize(
    "step",
    [
        "color_jitter(brightness=(0.1, 0.2), p=0.3)",
        "blur(9, p=0.3, kernel_size=9)",
        "solarize(1, p=0.3)",
        "erase(0.3, value=(255, 0, 255))",
        "gray(0.3, weights='luma')",
    ],
)
def test_steps_are_taken_with_their_probability(step):
    plain = rendered("center_crop(40)", 0)
    taken = [
        not np.array_equal(rendered(f"center_crop(40)|{step}", record), plain)
        for record in range(1000)
    ]
    # Five standard deviations of a binomial distribution.
    assert abs(sum(taken) - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7)
