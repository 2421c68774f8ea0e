import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import value
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.chance import chance, class_chance
from pretexture.trainers.tasks.exemplar import triplets
from pretexture.trainers.tasks.supervised import class_metrics


@pytest.mark.parametrize(
    "name,share",
    [
        ("rotation", 1 / 4),  # four turns
        ("relative_patch_location", 1 / 8),  # eight neighbours
        ("jigsaw", 1 / 100),  # permutations
        ("jigsaw-small", 1 / 24),
        ("jigsaw-paper", 1 / 100),
    ],
)
def test_chance_is_one_of_the_possible_answers(name, share):
    assert chance(RECIPES[name], 16) == {"accuracy": pytest.approx(share)}


@pytest.mark.parametrize("name", RECIPES)
def test_the_chance_of_each_recipe_is_known(name):
    assert 0 < chance(RECIPES[name], 16)["accuracy"] < 1


def test_the_chance_of_an_unknown_task_is_not_made_up():
    with pytest.raises(ValueError, match="guessing is not known for task 'colours'"):
        chance(RECIPES["rotation"].replace(task="colours"), 16)


def test_random_logits_are_right_as_often_as_chance_says():
    random = np.random.RandomState(0)
    logits = random.randn(20000, 10).astype(np.float32)
    labels = random.randint(0, 10, 20000).astype(np.int32)
    metrics = value(class_metrics(tf.constant(logits), tf.constant(labels)))
    expected = chance(RECIPES["supervised"].replace(num_classes=10), 64)
    assert set(expected) == {"accuracy", "top5"}
    for name, share in expected.items():
        assert np.mean(metrics[name]) == pytest.approx(share, abs=0.015)
    assert class_chance(5) == {"accuracy": 0.2}


def test_random_embeddings_find_their_image_as_often_as_chance_says():
    recipe = RECIPES["exemplar-small"]  # four views
    random = np.random.RandomState(0)
    right = []
    for _ in range(60):
        embeddings = tf.constant(random.randn(8, 4, 16), tf.float32)
        embeddings = tf.nn.l2_normalize(embeddings, 2)
        right.append(value(triplets(embeddings, tf.ones([8]), 0.5))["accuracy"].mean())
    assert np.mean(right) == pytest.approx(chance(recipe, 8)["accuracy"], abs=0.02)
