"""Views drawn for whole batches, against those that the reference makes one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cv2", reason="the reference backend is not installed")

from jpegs import jpeg
from pretexture.loader import Pipeline
from pretexture.loader.backends.dali.batch_draws import below, philox
from pretexture.loader.backends.dali.batch_views import Planner
from pretexture.loader.backends.reference import ops as reference_ops
from pretexture.loader.backends.reference import renderer as reference
from pretexture.loader.backends.reference.records import decode_image
from pretexture.loader.epoch import draws
from pretexture.loader.language import ops

SIZES = [(90, 120), (131, 77), (64, 64), (33, 200), (300, 250), (47, 31)]
SEED, EPOCH = 2**40 + 1, 3

PIPELINES = [
    "inception(24, 32)",
    "inception(24)|rotate",
    "gray(0.66)|inception(24, views=8)",
    "resize(73)|gray(0.66)|crop(64)|patches(3, jitter=5)",
    "crop(30, 20)|flip|resize(40, coords='tf1')",
    "inception_crop(area=(0.3, 0.6), aspect=(0.5, 2))|flip|resize(20, coords='tf1')|rotate",
    "resize(37, 61, 'nearest', 'tf1')|flip|crop(30)",
    "crop(20)|rotate|flip|crop(9)|gray(0.5)",
    "center_crop(24)|rotate|resize(31, 17)|flip",
    "resize(24)|distort|flip|gray(0.5)",
    "resize(48)|patches(3, jitter=3)|distort(fast=False)",
    "crop(30)|patches(3)|rotate|crop(8)",
    "resize(60)|patches(3, jitter=4)|flip|jigsaw",
    "gray(0.5)|inception(63, views=2)|patches(3)|jigsaw('maximal-7')|flip",
    "resize(60)|patches(5)|gray(0.5)|pair|flip",
]

CHANGES = {
    "brightness": np.add,
    "saturation": reference_ops._saturate,
    "hue": reference_ops._turn_hue,
    "contrast": reference_ops._contrast,
}


def sample(axis, start, end, size, image, method):
    """Resamples along an axis as the definition of a region of interest says."""
    at = start + (np.arange(size) + 0.5) * (float(end) - start) / size
    if method == "nearest":
        return image.take(np.clip(np.floor(at), 0, image.shape[axis] - 1).astype(int), axis)
    lower = np.floor(at - 0.5)
    weight = (at - 0.5 - lower).reshape([-1 if i == axis else 1 for i in range(3)])
    below, above = (
        image.take(np.clip(lower + i, 0, image.shape[axis] - 1).astype(int), axis) for i in (0, 1)
    )
    return below * (1 - weight) + above * weight


def rendered(plan, planner, views, place, image):
    """The views of one image, by the simplest means."""
    found = []
    for v, turned in enumerate(views.turned):
        (top, left), (height, width) = views.start[place, v], views.shape[place, v]
        view = image[top : top + height, left : left + width].astype(np.float64)
        size = (plan.width, plan.height) if turned else (plan.height, plan.width)
        method = ops.METHODS[views.method[place, v]]
        for axis in (0, 1):
            ends = views.roi_start[place, v, axis], views.roi_end[place, v, axis]
            view = sample(axis, *ends, size[axis], view, method)
        view = view.swapaxes(0, 1) if turned else view
        for kind, amount in views.colors:
            if kind == "clip":
                view = np.clip(view, 0, 255)
            elif kind == "gray":
                view = reference_ops.gray(view) if amount[place, v] else view
            else:
                view = CHANGES[kind](view, amount[place, v])
        turns = 4 if planner.in_turns else 1
        found += [np.rot90(view, turn) for turn in range(turns)]
    return np.stack(found).reshape((*plan.views, plan.height, plan.width, 3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", PIPELINES)
def test_a_batch_is_drawn_as_the_reference_draws_each_image(text, training):
    # Batch views leave normalisation out, so it is undone here.
    plan = Pipeline(text).compile(training)
    planner = Planner(plan, SEED)
    numbers = [7, 2**31, 0, 100, 5, 6]
    views = planner.draw(*zip(*SIZES), numbers, EPOCH)
    renderer = reference.Renderer(plan, seed=SEED, dtype="float32", layout="NHWC")
    normalize = [op for op in plan.ops if isinstance(op, ops.Normalize)]
    for place, ((height, width), number) in enumerate(zip(SIZES, numbers)):
        encoded = jpeg(height, width, "4:4:4", seed=place)
        try:
            expected, label = renderer.views(encoded, 12, number, EPOCH)
        except ValueError as error:
            assert views.refused[place] == str(error)
            continue
        assert place not in views.refused
        found = rendered(plan, planner, views, place, decode_image(encoded))
        for op in normalize:
            expected = (expected - op.bias) / op.scale
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)
        if views.label is None:
            assert label == 12
        else:
            np.testing.assert_array_equal(views.label[place], label.ravel())


def test_an_image_that_is_too_small_is_refused_with_its_own_size():
    planner = Planner(Pipeline("inception_crop|crop(20)").compile(False), 0)
    views = planner.draw([30, 19, 20], [40, 40, 8], [0, 1, 2], 0)
    assert views.refused == {
        1: "a crop of 20x20 does not fit in 19x40 pixels",
        2: "a crop of 20x20 does not fit in 20x8 pixels",
    }


def test_an_image_that_is_too_narrow_is_refused():
    planner = Planner(Pipeline("resize_small(500)|crop(3)").compile(False), 0)
    assert planner.draw([1, 9], [65535, 9], [0, 1], 0).refused == {
        0: "the image is too narrow to be resized"
    }


@given(
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.sampled_from([(0.05, 1.0), (0.2, 0.3), (0.9, 1.0), (1e-6, 1e-5)]),
    st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.01, 100.0)]),
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
def test_inception_crops_are_drawn_as_for_one_image(size, area, aspect, last, seed, record):
    text = f"inception_crop({area}, {aspect}, {last})|resize(8)"
    views = Planner(Pipeline(text).compile(True), seed).draw(
        [size[0], 50], [size[1], 60], [record, 1], 9
    )
    for place, (number, (height, width)) in enumerate([(record, size), (1, (50, 60))]):
        expected = draws.inception_crop(
            draws.Draws(seed, 9, number), 0, 0, height, width, area, aspect, last
        )
        assert (*views.start[place, 0], *views.shape[place, 0]) == expected


@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 4), min_size=1))
def test_words_are_those_of_philox(seed, counters):
    words = philox(seed, *np.array(counters, np.uint64).T)
    assert [tuple(map(int, row)) for row in np.stack(words, 1)] == [
        draws.philox(seed, counter) for counter in counters
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**31))
def test_whole_numbers_are_drawn_alike(word, n):
    assert below(np.array([word], np.uint64), n) == draws.below(word, n)


def test_changes_of_colour_keep_their_drawn_order():
    """Every order is a subsequence of what a batch goes through; the rest of it does nothing."""
    from pretexture.loader.backends.dali.colors import _FAST, _NEUTRAL, _SLOW

    for (sequence, places), orders in (
        (_FAST, reference_ops.DISTORT_FAST_ORDERS),
        (_SLOW, reference_ops.DISTORT_ORDERS),
    ):
        for taken, order in zip(places, orders):
            assert tuple(sequence[i] for i in taken) == order
            # A factor of 1 saturates negative values, so that nothing stands in for it.
            left_out = {sequence[i] for i in range(len(sequence)) if i not in taken}
            assert left_out <= {"brightness", "hue", "contrast"} <= set(_NEUTRAL)
