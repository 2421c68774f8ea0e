import dataclasses

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import scenes  # noqa: E402
from pretexture.loader import Loader, imagenet  # noqa: E402
from pretexture.trainers import engines, tasks  # noqa: E402
from pretexture.trainers.recipes import RECIPES  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of shards with scenes."""
    return scenes.write(tmp_path_factory.mktemp("scenes"))


class _Losses(list):
    """Notes the loss of each step, and looks at no images."""

    def shows(self, step):
        return False

    def __call__(self, step, values, *others):
        self.append(values["loss"])
        return True


def _losses(recipe, data, steps):
    losses = _Losses()
    with Loader(
        imagenet(data, recipe.train_split), recipe.pipeline, recipe.batch_size, training=True
    ) as loader:
        make = engines.choose().Engine
        engine = make(recipe, tasks.build(recipe), loader.element_spec, len(loader), 0)
        engine.fit(loader, steps, losses)
    return losses


# What the mean loss of the last ten steps is to fall below, as a share of that of the first ten. Of
# what fell when this was written, about half is left for other rounding.
FALLS = {
    "supervised": 0.8,
    "rotation": 0.5,
    "exemplar": 0.87,
    "jigsaw": 0.83,
    "relative_patch_location": 0.6,
}


@pytest.mark.parametrize("name", FALLS)
def test_a_small_recipe_learns(name, data):
    recipe = RECIPES[f"{name}-small"]
    recipe = dataclasses.replace(
        recipe,
        filters_factor=0.5,
        batch_size=8,
        lr_scale_batch_size=recipe.lr_scale_batch_size * 8 // recipe.batch_size,  # the same rate
        warmup_epochs=0.0,
        decay_epochs=(),
    )
    losses = _losses(recipe, data, 60)
    assert np.mean(losses[-10:]) < FALLS[name] * np.mean(losses[:10])


# Loss of a guess: of classes, of permutations, of positions; the margin for triplets.
GUESSES = {
    "supervised": np.log(1000),
    "rotation": np.log(4),
    "exemplar": 0.5,
    "jigsaw": np.log(100),
    "relative_patch_location": np.log(8),
}


@pytest.mark.parametrize("name", GUESSES)
def test_a_recipe_of_the_paper_trains_when_narrow(name, data):
    narrow = {"filters_factor": 0.25, "embed_dim": 100, "head_units": 64, "batch_size": 2}
    losses = _losses(dataclasses.replace(RECIPES[name], **narrow), data, 2)
    assert np.all(np.isfinite(losses))
    assert 0.5 * GUESSES[name] < losses[0] < 2 * GUESSES[name]


@pytest.mark.slow  # five minutes on two cores, and 9 GB
@pytest.mark.parametrize("name", GUESSES)
def test_a_recipe_of_the_paper_trains_as_it_is(name, data):
    losses = _losses(dataclasses.replace(RECIPES[name], batch_size=2), data, 3)
    assert np.all(np.isfinite(losses))
    assert 0.5 * GUESSES[name] < losses[0] < 2 * GUESSES[name]
