import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from pretexture.trainers.runs.events import png, view_grid


def _decode(data):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(tf.io.decode_png(data, channels=0))


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 300)])
def test_pictures_are_encoded_without_loss(shape):
    pixels = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    found = _decode(png(pixels))
    assert found.shape == (*shape, 3) and np.array_equal(found, pixels)


def _stretched(view):
    low, high = view.min(), view.max()
    return np.round((view - low) / (high - low) * 255)


def _assert_grid(grid, cells):
    """The grid of the views in `cells`, [rows][columns], with two white pixels between them."""
    height, width = cells[0][0].shape[:2]
    left = np.ones(grid.shape[:2], bool)
    assert grid.shape == (len(cells) * (height + 2) - 2, len(cells[0]) * (width + 2) - 2, 3)
    assert grid.dtype == np.uint8
    for row, views in enumerate(cells):
        for column, view in enumerate(views):
            if view is not None:
                at = np.s_[
                    row * (height + 2) : row * (height + 2) + height,
                    column * (width + 2) : column * (width + 2) + width,
                ]
                np.testing.assert_allclose(grid[at], _stretched(view), atol=1)
                left[at] = False
    assert np.all(grid[left] == 255)


def test_views_of_an_image_form_a_row():
    image = np.random.RandomState(0).randn(5, 3, 4, 6, 3).astype(np.float32)
    _assert_grid(view_grid(image), image)
    _assert_grid(view_grid(image, images=2), image[:2])


def test_single_views_form_two_columns():
    image = np.random.RandomState(0).randn(9, 4, 6, 3).astype(np.float32)
    cells = [[image[2 * row], image[2 * row + 1]] for row in range(4)]
    _assert_grid(view_grid(image), [*cells, [image[8], None]])
    _assert_grid(view_grid(image, images=3), cells[:3])


def test_a_grid_of_views_forms_one_row():
    image = np.random.RandomState(0).randn(2, 4, 9, 4, 6, 3).astype(np.float32)
    _assert_grid(view_grid(image), image.reshape(2, 36, 4, 6, 3))


def test_integers_and_float16_are_shown_too():
    image = np.random.RandomState(0).randint(0, 200, (2, 2, 4, 6, 3))
    _assert_grid(view_grid(image.astype(np.uint8)), image)
    _assert_grid(view_grid(image.astype(np.float16)), image)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 0.5, -3, 255])
def test_a_constant_view_is_black(value):
    image = np.full((1, 2, 4, 6, 3), value, np.float32)
    image[0, 1, 0] += 1
    grid = view_grid(image)
    assert not np.any(grid[:, :6])
    assert np.all(grid[0, 8:] == 255) and not np.any(grid[1:, 8:])
