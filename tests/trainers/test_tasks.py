import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import assign, compiled, value
from pretexture import permutations
from pretexture.loader import Pipeline, imagenet
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.trainers import networks, tasks
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.networks.layers import Scope, l2_penalty
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.tasks import exemplar, patches
from pretexture.trainers.tasks.task import Batch, Model, objective

KEY = np.array([3, 7, 0], np.int32)


def _softmax_cross_entropy(logits, labels):
    """The loss by its definition, in float64."""
    logits = np.asarray(logits, np.float64)
    chosen = np.take_along_axis(logits, labels[..., np.newaxis], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


def _model(name, seed=0, **fields):
    recipe = RECIPES[name].replace(architecture="tiny", embed_dim=5, **fields)
    task = tasks.build(recipe)
    scope = Scope(seed=seed)
    decay = recipe.optimizer.weight_decay
    network = networks.build(recipe.network, scope, (12, 12, 3), task.outputs, decay)
    return task, Model(network, task.head(scope)), scope


def _batch(views, labels):
    random = np.random.RandomState(0)
    image = random.randn(4, *views, 12, 12, 3)
    return Batch(
        tf.constant(image, tf.float32), tf.constant(labels, tf.int32), tf.range(4, dtype=tf.int64)
    )


def _embeddings(model, batch):
    """The network's logits for each of nine patches, [N, 9, outputs]."""
    patches = [model.network(batch.image[:, i], False)[0] for i in range(9)]
    return np.stack(value(patches), 1)


def test_rotation_classifies_each_of_the_four_turns():
    task, model, _ = _model("rotation")
    labels = np.tile(np.arange(4), (4, 1))
    batch = _batch((4,), labels)
    values = value(task.loss(model, batch, training=False))
    logits = [model.network(batch.image[:, i], False)[0] for i in range(4)]
    logits = np.stack(value(logits), 1)
    loss = _softmax_cross_entropy(logits, labels).mean(1)
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(values["accuracy"], (logits.argmax(-1) == labels).mean(1))


def test_embeddings_are_interleaved_channel_by_channel():
    embeddings = np.random.RandomState(0).randn(3, 9, 5)
    sequences = np.array([[8, 0, 3, 4], [1, 2, 3, 5]])
    found = value(patches.concatenate(tf.constant(embeddings), tf.constant(sequences)))
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
    head = patches.RelativePatchLocation(9, 4096).head(scope)
    v = scope.variables
    shapes = {name: variable.shape.as_list() for name, variable in v.items()}
    assert shapes["module/conv2d/kernel"] == [1, 1, 18, 4096]
    assert shapes["module/conv2d_1/kernel"] == [1, 1, 4096, 8]
    assert set(value(v["module/conv2d/bias"])) == {np.float32(0.1)}
    assert set(value(v["module/conv2d_1/bias"])) == {0}
    mean = np.arange(4096, dtype=np.float32) / 4096
    assign(v["module/batch_normalization/moving_mean"], mean)
    kernels = value([v["module/conv2d/kernel"], v["module/conv2d_1/kernel"]])
    x = np.random.RandomState(0).randn(3, 18)
    before_norm = x @ kernels[0][0, 0] + 0.1
    hidden = np.maximum((before_norm - mean) / np.sqrt(1 + 1e-5), 0)
    expected = hidden @ kernels[1][0, 0]
    found = value(head(tf.constant(x, tf.float32), False, None))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    head(tf.constant(x, tf.float32), True, KEY)
    np.testing.assert_allclose(
        value(v["module/batch_normalization/moving_mean"]),
        0.997 * mean + 0.003 * before_norm.mean(0),
        atol=1e-6,
    )
    squares = sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert value(l2_penalty(head)) == pytest.approx(5e-4 / 2 * squares, rel=1e-5)


def test_jigsaw_is_evaluated_on_the_whole_set():
    task, model, _ = _model("jigsaw")
    batch = _batch((9,), np.zeros(4))
    values = value(task.loss(model, batch, training=False))
    embeddings = _embeddings(model, batch)
    answer = compiled(lambda x: model.head(x, False, None))
    losses, right = [], []
    for label, permutation in enumerate(permutations.maximal(100)):
        x = embeddings[:, permutation].transpose(0, 2, 1).reshape(4, -1)
        logits = answer(x)
        losses.append(_softmax_cross_entropy(logits, np.full(4, label)))
        right.append(logits.argmax(-1) == label)
    np.testing.assert_allclose(values["loss"], np.mean(losses, 0), rtol=1e-5)
    np.testing.assert_allclose(values["accuracy"], np.mean(right, 0), atol=1e-6)


def test_jigsaw_trains_on_a_few_permutations_drawn_by_the_key():
    task, _, _ = _model("jigsaw", permutations_per_batch=8)
    questions = compiled(lambda key: task.questions(True, key))
    drawn = [questions(np.array([0, step, 0], np.int32)) for step in range(300)]
    assert all(len(set(labels)) == 8 for labels in drawn)
    assert np.array_equal(drawn[5], value(task.questions(True, tf.constant([0, 5, 0]))))
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert counts.min() > 5 and counts.max() < 50  # on average 24 of each


def test_jigsaw_takes_the_published_set_by_name():
    task, _, _ = _model("jigsaw", permutations="published")
    np.testing.assert_array_equal(task.sequences, permutations.published())


def test_relative_patch_location_pairs_each_neighbour_with_the_centre():
    task, model, _ = _model("relative_patch_location")
    assert task.sequences.tolist() == [[i, 4] for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    batch = _batch((9,), np.zeros(4))
    values = value(task.loss(model, batch, training=False))
    embeddings = _embeddings(model, batch)
    x = np.stack([embeddings[:, pair] for pair in task.sequences], 1)  # [N, 8, 2, channels]
    x = x.transpose(0, 1, 3, 2).reshape(32, -1)
    logits = value(model.head(tf.constant(x), False, None)).reshape(4, 8, 8)
    loss = _softmax_cross_entropy(logits, np.tile(np.arange(8), (4, 1))).mean(1)
    np.testing.assert_allclose(values["loss"], loss, rtol=1e-5)


@pytest.mark.parametrize("name", ["jigsaw", "relative_patch_location"])
def test_training_depends_on_the_key(name):
    task, model, _ = _model(name)
    batch = _batch((9,), np.zeros(4))
    first, again, other = (
        value(task.loss(model, batch, True, key)["loss"]) for key in (KEY, KEY, KEY + 1)
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
        decays = [tape.gradient(total, k) - tape.gradient(loss, k) for k in kernels]
    assert value(means["loss"]) == pytest.approx(value(loss), rel=1e-6)
    for decay, kernel in zip(decays, kernels):
        np.testing.assert_allclose(value(decay), 0.1 * value(kernel), atol=1e-6)


@pytest.mark.parametrize(
    "name,pipeline,message",
    [
        ("rotation", "resize(32)|range(0, 1)", "rotation needs 4 views .* makes one"),
        ("rotation", "resize(30)|patches(3)", "makes 9"),
        ("jigsaw", "resize(32)|rotate", "jigsaw needs 9 views .* makes 4"),
        ("jigsaw", "resize(30)|patches(3)|jigsaw", "leave jigsaw.* out"),
        ("relative_patch_location", "resize(30)|patches(3)|pair", "needs 9 views"),
        ("supervised", "resize(32)|rotate", "supervised needs one views .* makes 4"),
        ("exemplar", "inception(32)", "two or more views of an image, and .* makes one"),
        ("exemplar", "inception(36, views=2)|rotate", "two or more views .* makes 2 x 4"),
    ],
)
def test_a_pipeline_that_does_not_fit_its_task_is_refused(name, pipeline, message):
    with pytest.raises(ValueError, match=message):
        tasks.build(RECIPES[name]).check(Pipeline(pipeline))


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("tiny")])
def test_pipelines_of_recipes_fit_their_tasks(name):
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
        tasks.build(RECIPES["jigsaw"].replace(**fields))


def _answering(values, labels=None, indexes=None):
    """A model whose logits are the values in its image, and a batch for it.

    Args:
        values: the logits, [N, views…, outputs].
    """
    values = np.asarray(values, np.float32)
    count = len(values)
    batch = Batch(
        tf.constant(values[..., np.newaxis, np.newaxis, :]),
        tf.constant(np.zeros(count) if labels is None else np.array(labels), tf.int32),
        tf.constant(np.arange(count) if indexes is None else indexes, tf.int64),
    )
    return Model(lambda image, training: (image[:, 0, 0, :], {})), batch


def _supervised(classes):
    return tasks.build(RECIPES["supervised"].replace(num_classes=classes))


def test_supervised_classifies_the_image():
    random = np.random.RandomState(0)
    logits, labels = 3 * random.randn(40, 12), random.randint(0, 12, 40)
    model, batch = _answering(logits, labels)
    task = _supervised(12)
    assert task.outputs == 12
    values = value(task.loss(model, batch, training=False))
    np.testing.assert_allclose(values["loss"], _softmax_cross_entropy(logits, labels), rtol=1e-5)
    ranks = [list(np.argsort(-row)).index(label) for row, label in zip(logits, labels)]
    assert values["accuracy"].tolist() == [rank < 1 for rank in ranks]
    assert values["top5"].tolist() == [rank < 5 for rank in ranks]
    assert 0 < sum(rank < 1 for rank in ranks) < sum(rank < 5 for rank in ranks) < 40


@pytest.mark.parametrize(
    "logits,label,right",
    [
        ([9, 8, 7, 6, 5, 4, 3], 4, 1),
        ([9, 8, 7, 6, 5, 4, 3], 5, 0),
        ([9, 8, 7, 6, 5, 5, 3], 4, 0),
        ([9, 8, 7, 5, 5, 4, 3], 4, 1),
        ([0, 0, 0, 0, 0, 0, 0], 0, 0),
        ([np.nan, 8, 7, 6, 5, 4, 3], 1, 0),
        ([np.nan, 8, 7, 6, 5, 4, 3], 0, 0),
    ],
)
def test_ties_and_nan_count_against_the_top_5(logits, label, right):
    model, batch = _answering([logits], [label])
    assert value(_supervised(7).loss(model, batch, False)["top5"]) == [right]


def test_nan_logits_are_wrong_answers():
    model, batch = _answering(np.full((7, 7), np.nan), range(7))
    values = value(_supervised(7).loss(model, batch, False))
    assert not np.any(values["accuracy"]) and not np.any(values["top5"])


def test_five_classes_have_no_top_5():
    model, batch = _answering(np.eye(5), range(5))
    assert set(_supervised(5).loss(model, batch, False)) == {"loss", "accuracy"}


@pytest.mark.parametrize(
    "labels,message",
    [
        ([0, 3, 2], "record 21 is of class 3, counted from 0, and --num-classes is 3: give "),
        ([0, 2, -1], "record 22 has no class label"),
    ],
)
def test_a_label_that_is_not_a_class_is_an_error_that_names_its_record(labels, message):
    with pytest.raises(ValueError, match=message):
        _supervised(3).check_labels(np.array(labels, np.int32), np.array([20, 21, 22]))
    _supervised(4).check_labels(np.array([0, 3, 2], np.int32), np.array([20, 21, 22]))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (8, "record 5 is of class 7"),
        (-1, "record 5 has no"),
        (0, r"\(record 5\): the label 0 less label_offset=1 is below 0"),
    ],
)
def test_training_and_evaluation_refuse_a_label_that_is_not_a_class(
    shards, tmp_path, stored, message
):
    recipe = RECIPES["supervised"].replace(
        pipeline="resize(12)",
        architecture="tiny",
        num_classes=7,
        batch_size=3,
        eval_batch_size=4,
    )
    good, bad = tmp_path / "good", tmp_path / "bad"
    image = imagenet(shards, "test")[0].image
    for folder, last in ((good, 7), (bad, stored)):
        folder.mkdir()
        for name in ("train-00000-of-00001", "validation-00000-of-00001"):
            with TFRecordWriter(folder / name) as writer:
                for label in (1, 7, 1, 7, 1, last):  # labels in the records count from 1
                    writer.write(example({"image/encoded": image, "image/class/label": label}))

    def train(data):
        options = Options(str(data), str(tmp_path / f"run-{data.name}"), steps=2, device="cpu")
        pretrain(recipe, options, say=lambda line: None)

    train(good)
    evaluate(str(tmp_path / "run-good"), str(good), device="cpu")
    with pytest.raises(ValueError, match=message):
        train(bad)
    with pytest.raises(ValueError, match=message):
        evaluate(str(tmp_path / "run-good"), str(bad), device="cpu")


def _triplets(embeddings, counted, margin):
    """The semi-hard triplet loss and accuracy of each image, computed pair by pair in float64."""
    embeddings = np.asarray(embeddings, np.float64)
    count, views, _ = embeddings.shape
    losses, right = np.zeros(count), np.zeros(count)
    for image in range(count):
        others = [o for o in range(count) if o != image and counted[o]]
        for a in range(views):
            anchor = embeddings[image, a]
            negatives = [np.sum((anchor - n) ** 2) for o in others for n in embeddings[o]]
            distances = []
            for p in range(views):
                if p == a:
                    continue
                positive = np.sum((anchor - embeddings[image, p]) ** 2)
                distances.append(positive)
                farther = [negative for negative in negatives if negative > positive]
                if negatives:
                    negative = min(farther) if farther else max(negatives)
                    losses[image] += max(0, positive - negative + margin) / views / (views - 1)
            right[image] += (min(distances) < min([*negatives, np.inf])) / views
    return losses, right


def _close(random, count, views, channels, spread):
    """Embeddings of length 1; those of an image's views differ by at most about `spread`."""
    x = random.randn(count, 1, channels) + spread * random.randn(count, views, channels)
    return x / np.linalg.norm(x, axis=2, keepdims=True)


@pytest.mark.parametrize("margin", [0.5, 0.05])
@pytest.mark.parametrize("spread", [0.3, 1, 5])
@pytest.mark.parametrize("missing", [(), (1, 4)])
def test_triplets_use_the_nearest_of_the_farther_negatives(margin, spread, missing):
    embeddings = _close(np.random.RandomState(0), 6, 3, 4, spread)
    counted = np.array([image not in missing for image in range(6)], np.float32)
    tensors = tf.constant(embeddings, tf.float32), tf.constant(counted)
    found = value(exemplar.triplets(*tensors, margin))
    loss, accuracy = _triplets(embeddings, counted, margin)
    np.testing.assert_allclose(found["loss"], loss, atol=1e-5)
    np.testing.assert_allclose(found["accuracy"], accuracy, atol=1e-6)
    if spread == 1:
        assert loss.max() > 0 and 0 < accuracy.mean() < 1


def test_if_no_negative_is_farther_the_farthest_one_is_used():
    # The two views of image 0 are opposite each other, and those of image 1 lie between them.
    embeddings = np.array([[[1, 0], [-1, 0]], [[0.6, 0.8], [0, 1]]])
    found = value(exemplar.triplets(tf.constant(embeddings, tf.float32), tf.ones(2), 0.5))
    # d(a, p) = 4; the farthest negatives are at distances 2 and 3.2 from the two views.
    assert found["loss"][0] == pytest.approx((4 - 2 + 0.5 + 4 - 3.2 + 0.5) / 2)
    np.testing.assert_allclose(found["loss"], _triplets(embeddings, [1, 1], 0.5)[0], atol=1e-6)
    assert found["accuracy"].tolist() == [0, 1]


def test_an_image_alone_has_no_triplet_loss():
    embeddings = tf.constant(_close(np.random.RandomState(0), 3, 4, 5, 1), tf.float32)
    found = value(exemplar.triplets(embeddings, tf.constant([0.0, 1.0, 0.0]), 0.5))
    assert found["loss"][1] == 0
    assert np.all(np.isfinite(found["loss"]))


def test_the_triplet_loss_has_the_gradient_of_its_formula():
    embeddings = _close(np.random.RandomState(1), 3, 2, 3, 1)
    counted = np.array([1, 1, 1])
    variable = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss = tf.reduce_sum(exemplar.triplets(variable, tf.ones(3), 0.5)["loss"])
    found = value(tape.gradient(loss, variable))
    expected = np.zeros_like(embeddings)
    for place in np.ndindex(*embeddings.shape):
        step = np.zeros_like(embeddings)
        step[place] = 1e-6
        rise = _triplets(embeddings + step, counted, 0.5)[0]
        rise -= _triplets(embeddings - step, counted, 0.5)[0]
        expected[place] = rise.sum() / 2e-6
    assert np.all(np.abs(expected).max(axis=(1, 2)) > 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _exemplar(**fields):
    return tasks.build(RECIPES["exemplar"].replace(embed_dim=5, **fields))


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_exemplar_normalises_each_embedding_or_each_channel(axis, padding):
    values = np.random.RandomState(3).randn(6, 4, 5)
    indexes = [-1 if image >= 6 - padding else image for image in range(6)]
    model, batch = _answering(values, indexes=indexes)
    found = value(_exemplar(normalize_axis=axis).loss(model, batch, training=False))
    kept = values[: 6 - padding]
    if axis == 1:
        kept = kept / np.linalg.norm(kept, axis=2, keepdims=True)
    else:
        rows = kept.reshape(-1, 5)  # the norm is over all views of all images
        kept = (rows / np.sqrt(np.sum(rows**2, axis=0))).reshape(kept.shape)
    loss, accuracy = _triplets(kept, np.ones(len(kept)), 0.5)
    np.testing.assert_allclose(found["loss"][: len(kept)], loss, atol=1e-5)
    np.testing.assert_allclose(found["accuracy"][: len(kept)], accuracy, atol=1e-6)
    assert np.all(np.isfinite(found["loss"]))


def test_exemplar_uses_the_margin_of_the_recipe():
    values = np.random.RandomState(3).randn(6, 4, 5)
    model, batch = _answering(values)
    found = value(_exemplar(margin=0.1).loss(model, batch, training=False)["loss"])
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    np.testing.assert_allclose(found, _triplets(values, np.ones(6), 0.1)[0], atol=1e-5)


def test_exemplar_refuses_a_batch_of_one():
    model, batch = _answering(np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match=r"^exemplar compares the images of a batch: give it two"):
        _exemplar().loss(model, batch, training=False)


def test_exemplar_is_evaluated_on_random_views_that_stay_the_same(shards, tmp_path):
    recipe = RECIPES["exemplar-small"].replace(
        pipeline="inception(12, views=3)|standardize",
        architecture="tiny",
        batch_size=4,
        eval_batch_size=4,
    )
    options = Options(shards, str(tmp_path), steps=2, device="cpu")
    pretrain(recipe, options, say=lambda line: None)
    first, again = (evaluate(str(tmp_path), shards, "test", device="cpu") for _ in range(2))
    assert first == again and first["images"] == 13
    assert first["loss"] > 0.05  # the loss of equal views, which would mean that nothing is drawn
    assert 0 < first["accuracy"] < 1


@pytest.mark.parametrize("flag", ["batch_size", "eval_batch_size"])
def test_runs_of_exemplar_refuse_a_batch_of_one(shards, tmp_path, flag):
    recipe = RECIPES["exemplar-small"].replace(
        pipeline="inception(12, views=3)|standardize",
        architecture="tiny",
        batch_size=4,
    )
    recipe = recipe.replace(**{flag: 1})
    options = Options(shards, str(tmp_path), steps=1, device="cpu")
    with pytest.raises(ValueError, match=r"^exemplar compares the images of a batch"):
        pretrain(recipe, options, say=lambda line: None)
        evaluate(str(tmp_path), shards, device="cpu")
