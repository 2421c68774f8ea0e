"""What each step stands for, in training and in evaluation."""

import pathlib
import pydoc

import numpy as np
import pytest
from pretexture import loader, permutations
from pretexture.loader.language import ops, steps
from pretexture.loader.language.steps import STEPS

STREAM = 32


def lowered(step):
    """The operations in training and in evaluation."""
    return step.ops(True, STREAM), step.ops(False, STREAM)


def same(*expected):
    return list(expected), list(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            steps.Resize(8),
            same(ops.Resize(STREAM, 8, 8, "bilinear", "half_pixel", False, False)),
        ),
        (
            steps.Resize(8, 9, "area", "tf1"),
            same(ops.Resize(STREAM, 8, 9, "area", "tf1", False, False)),
        ),
        (
            steps.Resize(8, method="nearest", randomize=True),
            (
                [ops.Resize(STREAM, 8, 8, "bilinear", "half_pixel", False, True)],
                [ops.Resize(STREAM, 8, 8, "bilinear", "half_pixel", False, False)],
            ),
        ),
        (steps.ResizeSmall(8), same(ops.ResizeSmall(STREAM, 8))),
        (
            steps.Crop(8, 9),
            ([ops.Crop(STREAM, 8, 9, True)], [ops.Crop(STREAM, 8, 9, False)]),
        ),
        (steps.CenterCrop(8), same(ops.Crop(STREAM, 8, 8, False))),
        (
            steps.InceptionCrop(area=[0.5, 1]),
            ([ops.InceptionCrop(STREAM, (0.5, 1.0), (3 / 4, 4 / 3), True)], []),
        ),
        (steps.Flip(), ([ops.Flip(STREAM)], [])),
        (steps.Gray(1), same(ops.Gray(STREAM, 1.0, False))),
        (steps.Distort(False), ([ops.Distort(STREAM, False)], [])),
        (
            steps.Patches(3, 4),
            ([ops.Patches(STREAM, 3, 4, True)], [ops.Patches(STREAM, 3, 4, False)]),
        ),
        (steps.Pair(), ([ops.Pair(STREAM, True)], [ops.Pair(STREAM, False)])),
        (steps.Rotate(), same(ops.Rotate(STREAM))),
        (steps.Standardize(), same(ops.Standardize(STREAM))),
        (
            steps.Range(-1, 1),
            same(ops.Normalize(STREAM, (2 / 255,) * 3, (-1.0,) * 3)),
        ),
    ],
)
def test_a_step_lowers_to_its_operations(step, expected):
    assert lowered(step) == expected


def test_inception_is_what_it_says_it_is():
    training, evaluation = lowered(steps.Inception(8, 9, views=2, fast=False, coords="tf1"))
    assert [type(op) for op in training] == [
        ops.Views,
        ops.InceptionCrop,
        ops.Resize,
        ops.Flip,
        ops.Distort,
        ops.Normalize,
    ]
    assert [type(op) for op in evaluation] == [
        ops.Views,
        ops.CentralFraction,
        ops.Resize,
        ops.Normalize,
    ]
    assert evaluation[1].fraction == 0.875
    assert len({op.stream for op in training}) == len(training)
    for plan in (training, evaluation):
        resize = next(op for op in plan if isinstance(op, ops.Resize))
        assert (resize.height, resize.width, resize.coords) == (8, 9, "tf1")
        assert plan[0].n == 2
        assert all(STREAM <= op.stream < STREAM + steps.STREAMS_PER_STEP for op in plan)


@pytest.mark.parametrize(
    "step",
    [
        steps.Normalize(),
        steps.Normalize("imagenet"),
        steps.Normalize((0.1, 0.2, 0.3), (0.5, 0.25, 2)),
        steps.Range(-3, 7),
    ],
)
def test_normalising_is_the_formula(step):
    (op,) = step.ops(True, 0)
    x = np.linspace(0, 255, 3 * 256).reshape(256, 3)
    if isinstance(step, steps.Range):
        expected = step.lo + x / 255 * (step.hi - step.lo)
    elif step.std is None:
        expected = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        expected = (x / 255 - step.mean) / step.std
    np.testing.assert_allclose(x * op.scale + op.bias, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maximal-100", lambda: permutations.maximal(100)),
        ("maximal-7", lambda: permutations.maximal(7)),
        ("published", permutations.published),
    ],
)
def test_jigsaw_takes_its_permutations_from_the_named_set(name, expected):
    (op,) = steps.Jigsaw(name).ops(True, STREAM)
    np.testing.assert_array_equal(op.permutations, expected())
    assert {type(place) for row in op.permutations for place in row} == {int}
    assert op.random
    (op,) = steps.Jigsaw(name).ops(False, STREAM)
    assert not op.random


def test_jigsaw_takes_its_permutations_from_a_file(tmp_path):
    path = str(tmp_path / "set.bin")
    permutations.save(path, permutations.maximal(5, 4))
    (op,) = steps.Jigsaw(path).ops(True, STREAM)
    np.testing.assert_array_equal(op.permutations, permutations.maximal(5, 4))


def test_every_step_has_a_name_and_a_docstring():
    for name, step in steps.STEPS.items():
        assert step.name == name
        assert step.__doc__


def test_a_page_describes_all_steps_and_the_documentation_lists_them():
    shown = pydoc.plain(pydoc.render_doc(steps))
    assert shown.count("\n") < 140  # it was 1,281 lines
    lines = steps.table().splitlines()
    assert len(lines) == 2 * len(STEPS) < 60
    page = (pathlib.Path(__file__).parents[2] / "docs" / "loader.md").read_text(encoding="utf-8")
    for name, line in zip(STEPS, lines[::2]):
        assert line.startswith(f"{name}(") and f"| `{name}" in page
        assert line in shown


def test_dir_lists_what_is_public():
    assert set(loader.__all__) < set(dir(loader))
    assert not {"moved", "console", "backends", "language", "_core"} & set(dir(loader))
