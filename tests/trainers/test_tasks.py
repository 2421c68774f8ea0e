import dataclasses

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from pretexture import permutations  # noqa: E402
from pretexture.loader import Pipeline  # noqa: E402
from pretexture.trainers import models, tasks  # noqa: E402
from pretexture.trainers.layers import Scope, l2_penalty  # noqa: E402
from pretexture.trainers.recipes import RECIPES  # noqa: E402
from pretexture.trainers.tasks import patches  # noqa: E402
from pretexture.trainers.tasks.task import Batch, Model, objective  # noqa: E402

KEY = tf.constant([3, 7])


def _softmax_cross_entropy(logits, labels):
    """By definition, in float64."""
    logits = np.asarray(logits, np.float64)
    chosen = np.take_along_axis(logits, labels[..., np.newaxis], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


def _model(name, seed=0, **fields):
    recipe = dataclasses.replace(RECIPES[name], architecture="tiny", embed_dim=5, **fields)
    task = tasks.build(recipe)
    scope = Scope(seed=seed)
    network = models.build(recipe, scope, (12, 12, 3), task.outputs)
    return task, Model(network, task.head(scope)), scope


def _batch(views, labels):
    random = np.random.RandomState(0)
    image = random.randn(4, *views, 12, 12, 3)
    return Batch(
        tf.constant(image, tf.float32), tf.constant(labels, tf.int32), tf.range(4, dtype=tf.int64)
    )


def test_rotation_classifies_each_of_the_four_turns():
    task, model, _ = _model("rotation")
    labels = np.tile(np.arange(4), (4, 1))
    batch = _batch((4,), labels)
    values = task.loss(model, batch, training=False)
    logits = np.stack([model.network(batch.image[:, i], False)[0] for i in range(4)], 1)
    loss = _softmax_cross_entropy(logits, labels).mean(1)
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(values["accuracy"], (logits.argmax(-1) == labels).mean(1))


def test_embeddings_are_interleaved_channel_by_channel():
    embeddings = np.random.RandomState(0).randn(3, 9, 5)
    sequences = np.array([[8, 0, 3, 4], [1, 2, 3, 5]])
    found = patches.concatenate(tf.constant(embeddings), tf.constant(sequences)).numpy()
    assert found.shape == (3, 2, 20)
    for image in range(3):
        for number, sequence in enumerate(sequences):
            for place, patch in enumerate(sequence):
                for channel in range(5):
                    assert (
                        found[image, number, channel * 4 + place]
                        == embeddings[image, patch, channel]
                    )


def test_the_patch_head_is_two_layers_with_batch_norm_between():
    scope = Scope()
    head = patches.PatchHead(scope, 18, 4096, 7)
    v = scope.variables
    shapes = {name: variable.shape.as_list() for name, variable in v.items()}
    assert shapes["module/conv2d/kernel"] == [1, 1, 18, 4096]
    assert shapes["module/conv2d_1/kernel"] == [1, 1, 4096, 7]
    assert set(v["module/conv2d/bias"].numpy()) == {np.float32(0.1)}
    assert set(v["module/conv2d_1/bias"].numpy()) == {0}
    v["module/batch_normalization/moving_mean"].assign(tf.range(4096.0) / 4096)
    x = np.random.RandomState(0).randn(3, 18)
    hidden = x @ v["module/conv2d/kernel"].numpy()[0, 0] + 0.1
    mean = v["module/batch_normalization/moving_mean"].numpy()
    hidden = np.maximum((hidden - mean) / np.sqrt(1 + 1e-5), 0)
    expected = hidden @ v["module/conv2d_1/kernel"].numpy()[0, 0]
    np.testing.assert_allclose(head(tf.constant(x, tf.float32), False, None), expected, atol=1e-5)
    head(tf.constant(x, tf.float32), True, KEY)
    batch_mean = (x @ v["module/conv2d/kernel"].numpy()[0, 0] + 0.1).mean(0)
    np.testing.assert_allclose(
        v["module/batch_normalization/moving_mean"], 0.997 * mean + 0.003 * batch_mean, atol=1e-6
    )
    kernels = [v["module/conv2d/kernel"].numpy(), v["module/conv2d_1/kernel"].numpy()]
    squares = sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert float(l2_penalty(head)) == pytest.approx(5e-4 / 2 * squares, rel=1e-5)


def test_jigsaw_is_evaluated_on_the_whole_set():
    task, model, _ = _model("jigsaw")
    batch = _batch((9,), np.zeros(4))
    values = task.loss(model, batch, training=False)
    embeddings = np.stack([model.network(batch.image[:, i], False)[0] for i in range(9)], 1)
    losses, right = [], []
    for label, permutation in enumerate(permutations.maximal(100)):
        x = embeddings[:, permutation].transpose(0, 2, 1).reshape(4, -1)
        logits = model.head(tf.constant(x), False, None).numpy()
        losses.append(_softmax_cross_entropy(logits, np.full(4, label)))
        right.append(logits.argmax(-1) == label)
    np.testing.assert_allclose(values["loss"], np.mean(losses, 0), rtol=1e-5)
    np.testing.assert_allclose(values["accuracy"], np.mean(right, 0), atol=1e-6)


def test_jigsaw_trains_on_a_few_permutations_drawn_by_the_key():
    task, _, _ = _model("jigsaw", permutations_per_batch=8)
    drawn = [task.questions(True, tf.constant([0, step])).numpy() for step in range(300)]
    assert all(len(set(labels)) == 8 for labels in drawn)
    assert np.array_equal(drawn[5], task.questions(True, tf.constant([0, 5])))
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert counts.min() > 5 and counts.max() < 50  # 24 each, on average


def test_jigsaw_takes_the_published_set_by_name():
    task, _, _ = _model("jigsaw", permutations="published")
    np.testing.assert_array_equal(task.sequences, permutations.published())


def test_relative_patch_location_pairs_each_neighbour_with_the_centre():
    task, model, _ = _model("relative_patch_location")
    assert task.sequences.tolist() == [[i, 4] for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    batch = _batch((9,), np.zeros(4))
    values = task.loss(model, batch, training=False)
    embeddings = np.stack([model.network(batch.image[:, i], False)[0] for i in range(9)], 1)
    x = np.stack([embeddings[:, pair] for pair in task.sequences], 1)  # [N, 8, 2, channels]
    x = x.transpose(0, 1, 3, 2).reshape(32, -1)
    logits = model.head(tf.constant(x), False, None).numpy().reshape(4, 8, 8)
    loss = _softmax_cross_entropy(logits, np.tile(np.arange(8), (4, 1))).mean(1)
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-5)


@pytest.mark.parametrize("name", ["jigsaw", "relative_patch_location"])
def test_equal_keys_train_equally_and_others_do_not(name):
    task, model, _ = _model(name)
    batch = _batch((9,), np.zeros(4))
    first, again, other = (
        task.loss(model, batch, True, key)["loss"].numpy() for key in (KEY, KEY, KEY + 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_minimises_the_mean_loss_plus_weight_decay():
    task, model, scope = _model("rotation", weight_decay=0.1)
    batch = _batch((4,), np.tile(np.arange(4), (4, 1)))
    kernels = [v for name, v in scope.variables.items() if "kernel" in name]
    with tf.GradientTape(persistent=True) as tape:
        total, means = objective(task, model, batch, KEY)
        loss = tf.reduce_mean(task.loss(model, batch, True, KEY)["loss"])
    assert float(means["loss"]) == pytest.approx(float(loss), rel=1e-6)
    for kernel in kernels:
        decay = tape.gradient(total, kernel) - tape.gradient(loss, kernel)
        np.testing.assert_allclose(decay, 0.1 * kernel.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "name,pipeline,message",
    [
        ("rotation", "resize(32)|range(0, 1)", "rotation needs 4 views .* makes one"),
        ("rotation", "resize(30)|patches(3)", "makes 9"),
        ("jigsaw", "resize(32)|rotate", "jigsaw needs 9 views .* makes 4"),
        ("jigsaw", "resize(30)|patches(3)|jigsaw", "leave jigsaw.* out"),
        ("relative_patch_location", "resize(30)|patches(3)|pair", "needs 9 views"),
    ],
)
def test_a_pipeline_that_does_not_fit_its_task_is_refused(name, pipeline, message):
    with pytest.raises(ValueError, match=message):
        tasks.build(RECIPES[name]).check(Pipeline(pipeline))


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "relative_patch_location"])
def test_recipes_fit_their_tasks(name):
    tasks.build(RECIPES[name]).check(Pipeline(RECIPES[name].pipeline))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"task": "colorization"}, "task must be one of supervised, rotation"),
        ({"permutations_per_batch": 101}, "permutations_per_batch is 101, but .* has 100"),
        ({"permutations": "no-such-file"}, "no-such-file"),
    ],
)
def test_impossible_tasks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tasks.build(dataclasses.replace(RECIPES["jigsaw"], **fields))
