import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import published_code
import trained
from evaluated import value
from pretexture.loader import Loader, imagenet
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.trainers import networks
from pretexture.trainers.exports import published
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.exports.saved_model import ExportError, export_run
from pretexture.trainers.networks.layers import Scope, l2_penalty
from pretexture.trainers.recipes import LINEAR_EVAL, RECIPES, Network
from pretexture.trainers.run import Options
from pretexture.trainers.runs import mirror as remote_workdir
from pretexture.trainers.runs.checkpoints import Checkpoints
from pretexture.trainers.runs.folder import WorkdirError
from pretexture.trainers.runs.metrics import TIMINGS, read_metrics
from pretexture.trainers.tasks.linear import Linear
from pretexture.trainers.tasks.task import Batch
from pretexture.trainers.transfer import extraction, features, linear, representation
from pretexture.trainers.transfer.representation import Representation, combine, pool

CLASSES, TRAIN, TEST = 7, 42, 13
RECIPE = LINEAR_EVAL.replace(
    pipeline="resize(32)|range(-1, 1)",
    num_classes=CLASSES,
    batch_size=6,
    eval_batch_size=5,
    epochs=2.0,
    max_features=48,
    lr=0.5,
    decay_epochs=(),
)
POINTS = ("block1", "fc6", "logits")

RESNET = RECIPES["supervised-small"].replace(
    pipeline="resize(32)", filters_factor=0.25, small_root=True
)
PATCHES = trained.VGG.replace(
    task="jigsaw",
    pipeline="resize(96)|patches(3)",
    representation_pipeline="resize(96)|patches(3)|range(-1, 1)",
    embed_dim=4,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of shards of 40 x 40 images whose colour depends on their class."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.RandomState(0)
    colours = 50 + 150 * np.array(list(itertools.product((0, 1), repeat=3)))
    for name, count in {"train-00000-of-00001": TRAIN, "validation-00000-of-00001": TEST}.items():
        with TFRecordWriter(folder / name) as writer:
            for number in range(count):
                pixels = colours[number % CLASSES] + random.uniform(-40, 40, (40, 40, 3))
                encoded = trained.jpeg(pixels)
                label = number % CLASSES + 1
                writer.write(example({"image/encoded": encoded, "image/class/label": label}))
    return str(folder)


def _export(folder, recipe):
    trained.run(folder / "run", recipe)
    return export_run(str(folder / "run"), str(folder / "module"))


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """An export of a small VGG, which tests must not change."""
    return _export(tmp_path_factory.mktemp("vgg"), trained.VGG)


@pytest.fixture(scope="module")
def patches_module(tmp_path_factory):
    """An export of a small VGG for patches, which tests must not change."""
    return _export(tmp_path_factory.mktemp("patches"), PATCHES)


def _run(data, folder, module, recipe=RECIPE, end_points=POINTS, cache=False, **options):
    settings = Options(data, str(folder), **{"log_steps": 1, "device": "cpu", **options})
    return linear.linear_eval(
        recipe,
        settings,
        Representation(module, settings.storage),
        end_points,
        cache,
        say=lambda line: None,
    )


def _cut(x, rows, columns, reduce):
    parts = [reduce(x[:, row][:, :, column], axis=(1, 2)) for row in rows for column in columns]
    return np.stack(parts, 1).reshape(len(x), len(rows), len(columns), -1)


def _pool(x, mode, target):
    """The same as `pool`, value by value in NumPy."""
    _, height, width, channels = x.shape
    if x[0].size <= target:
        return x
    reduce = np.max if mode.endswith("max") else np.mean
    if mode.startswith("adaptive"):
        side = min(range(1, 200), key=lambda n: (abs(target - channels * n**2), -n))
        counts = [min(size, side) for size in (height, width)]
        cuts = [
            [range(i * size // n, (i + 1) * size // n) for i in range(n)]
            for size, n in zip((height, width), counts)
        ]
    else:
        window = 1
        while window**2 * target < x[0].size:
            window += 1
        window = min(window, height, width)
        cuts = [
            np.split(np.arange(size // window * window), size // window) for size in x.shape[1:3]
        ]
    return _cut(x, *cuts, reduce)


# Shapes of maps, and their sides once they are pooled to 9000 values by `adaptive_pool` of the
# published code on TensorFlow 1.15.5: with adaptive pooling, and with `max` or `avg`.
PUBLISHED_SIDES = {
    (56, 56, 64): (12, 11),
    (56, 56, 256): (6, 5),
    (56, 56, 1024): (3, 2),
    (28, 28, 512): (4, 4),
    (28, 28, 2048): (2, 2),
    (14, 14, 1024): (3, 2),
    (14, 14, 4096): (1, 1),
    (7, 7, 2048): (2, 1),
    (7, 7, 8192): (1, 1),
    (224, 224, 64): (12, 11),
    (1, 1, 12288): (1, 1),
}


@pytest.mark.parametrize("shape", PUBLISHED_SIDES)
def test_pooled_maps_have_the_sides_of_the_published_code(shape):
    x = np.random.RandomState(0).randn(1, *shape).astype(np.float32)
    adaptive, plain = PUBLISHED_SIDES[shape]
    for mode, side in {
        **dict.fromkeys(("adaptive_max", "adaptive_avg"), adaptive),
        **dict.fromkeys(("max", "avg"), plain),
    }.items():
        found = value(pool(tf.constant(x), mode, 9000))
        assert found.shape == (1, side, side, shape[2]), mode
        published = value(published_code.pooled(tf.constant(x), 9000, mode))
        assert published.shape == found.shape
        if not mode.startswith("adaptive") or shape[0] % side == 0:  # no cut is drawn at random
            np.testing.assert_allclose(found, published, atol=1e-5)


@pytest.mark.parametrize("mode", ["adaptive_max", "max"])
@pytest.mark.parametrize(
    "recipe,side",
    [
        *((name, 224) for name in ("supervised", "rotation", "exemplar")),
        ("jigsaw", 64),
        ("vgg", 224),
    ],
)
def test_every_end_point_has_the_published_number_of_features(recipe, side, mode):
    vgg = RECIPES["supervised"].replace(architecture="vgg19", filters_factor=8.0)
    recipe = RECIPES.get(recipe, vgg)
    recipe = recipe.replace(reversible=False)
    with tf.Graph().as_default():
        image = tf.compat.v1.placeholder(tf.float32, [1, side, side, 3])
        network = networks.build(recipe.network, Scope("module", 0), (side, side, 3), 1000, 0.0)
        _, points = network(image, False)
        assert len(points) >= 6
        for name, point in points.items():
            x = point if len(point.shape) == 4 else point[:, None, None, :]
            published = published_code.pooled(x, 9000, mode).shape
            assert pool(x, mode, 9000).shape.as_list() == published.as_list(), name


@pytest.mark.parametrize("mode", ["adaptive_max", "adaptive_avg", "max", "avg"])
@pytest.mark.parametrize(
    "shape,target",
    [
        ((7, 7, 3), 30),
        ((7, 7, 3), 147),
        ((8, 6, 2), 40),
        ((5, 11, 1), 20),
        ((4, 4, 10), 9),
        ((1, 1, 20), 9),
        ((12, 12, 5), 80),
        ((13, 2, 3), 4),
    ],
)
def test_pooled_values_come_from_their_parts_of_the_map(mode, shape, target):
    x = np.random.RandomState(0).randn(2, *shape).astype(np.float32)
    found = value(pool(tf.constant(x), mode, target))
    expected = _pool(x, mode, target)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_adaptive_pooling_cuts_a_map_evenly():
    for size in range(1, 30):
        for count in range(1, size + 1):
            cuts = [list(range(*cut)) for cut in representation._cuts(size, count)]
            assert list(itertools.chain(*cuts)) == list(range(size))
            assert {len(cut) for cut in cuts} <= {size // count, -(-size // count)}


@pytest.mark.parametrize("how", ["avg_pool", "max_pool", "concat"])
def test_maps_of_patches_are_combined(how):
    x = np.random.RandomState(0).randn(2, 9, 3, 4, 5).astype(np.float32)
    recipe = RECIPE.replace(combine_patches=how)
    found = value(combine(tf.constant(x), recipe))
    expected = {
        "avg_pool": sum(x[:, patch] for patch in range(9)) / 9,
        "max_pool": x.max(1),
        "concat": np.moveaxis(x, 1, -1).reshape(2, 3, 4, 45),
    }
    np.testing.assert_allclose(found, expected[how], atol=1e-6)


def _points(module, *batches):
    """The end points of the frozen network for each batch."""
    network = Representation(module).network
    return value([network()(tf.constant(batch)) for batch in batches])


@pytest.mark.parametrize("recipe", [trained.VGG, RESNET], ids=["vgg19", "resnet50"])
def test_frozen_network_gives_the_exports_end_points_in_inference_mode(recipe, tmp_path):
    module = _export(tmp_path, recipe)
    frozen = Representation(module)
    images = trained.images(4, 32, 32, 3)
    # Also one image at a time: batch normalisation by the batch would give other values.
    points, *alone = _points(module, images, *np.split(images, 4))
    together = {name: np.concatenate([each[name] for each in alone]) for name in points}
    trained.assert_agree(points, trained.use(module, images)[0])
    trained.assert_agree(points, together)
    assert frozen.end_points == list(together)
    assert (frozen.step, frozen.patches) == (7000, False)
    assert frozen.pipeline == recipe.representation_pipeline


def test_a_published_hub_module_can_be_evaluated(tmp_path):
    values = trained.run(tmp_path / "run")
    bare = {name.replace("module/", ""): value for name, value in values.items()}
    trained.checkpoint(tmp_path / "hub" / "variables" / "variables", bare)
    source = published.source(
        published.Published(
            str(tmp_path / "hub"),
            Network("vgg19", filters_factor=0.125),
            num_classes=4,
            pipeline="resize(32)|range(-1, 1)",
        )
    )
    module = export.write_saved_model(source, str(tmp_path / "module"))
    images = trained.images(2, 32, 32, 3)
    (points,) = _points(module, images)
    trained.assert_agree(points, trained.use(module, images)[0])


def test_a_vgg_is_shown_larger_images_than_it_was_trained_on(module):
    images = trained.images(2, 64, 96, 3)
    (points,) = _points(module, images)
    assert points["fc6"].shape[1:3] == (2, 3)
    trained.assert_agree(points, trained.use(module, images)[0])


def _by_hand(data, folder, step, module, recipe, end_points):
    """The results of a run, computed in NumPy from its checkpoint and the SavedModel."""
    with Loader(imagenet(data, "test"), recipe.pipeline, TEST, training=False) as loader:
        (batch,) = [Batch(*map(np.array, batch)) for batch in loader]
    images = batch.image
    patches = images.shape[1] if images.ndim == 5 else 1
    (points,) = trained.use(module, images.reshape(-1, *images.shape[-3:]))
    heads = tf.train.load_checkpoint(os.path.join(str(folder), f"model.ckpt-{step}"))
    found = {}
    for name in end_points:
        x = points[name]
        x = x if x.ndim == 4 else x[:, None, None]
        x = _pool(x, recipe.pooling, recipe.max_features)
        x = np.moveaxis(x.reshape(TEST, patches, *x.shape[1:]), 1, -1)
        x = x.reshape(TEST, -1)  # several patches are concatenated
        layers = ["conv2d", "conv2d_1"] if recipe.hidden_units else ["conv2d"]
        for number, layer in enumerate(layers):
            x = np.maximum(x, 0) if number else x
            kernel, bias = (
                heads.get_tensor(f"linear/{name}/{layer}/{v}") for v in ("kernel", "bias")
            )
            x = x.astype(np.float64) @ kernel[0, 0] + bias
        x -= x.max(1, keepdims=True)
        order = np.argsort(-x, axis=1)
        chosen = x[range(TEST), batch.label]
        found[name] = {
            "top1": np.mean(order[:, 0] == batch.label),
            "top5": np.mean([label in row[:5] for label, row in zip(batch.label, order)]),
            "loss": np.mean(np.log(np.exp(x).sum(1)) - chosen),
            "features": heads.get_tensor(f"linear/{name}/conv2d/kernel").shape[2],
        }
    return found


def _assert_same(found, expected, tolerance=1e-4):
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=tolerance, abs=1e-6), name


@pytest.fixture(scope="module")
def wider_module(tmp_path_factory):
    """An export of a VGG whose first block has enough channels to distinguish colours."""
    recipe = trained.VGG.replace(filters_factor=1.0)
    return _export(tmp_path_factory.mktemp("wider"), recipe)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("hidden", [0, 100])
def test_heads_learn_and_results_agree_with_numpy(data, wider_module, tmp_path, hidden, cache):
    recipe = RECIPE.replace(hidden_units=hidden, epochs=20.0, lr=1.0, pooling="adaptive_avg")
    points = ("block1", "logits")
    results = _run(data, tmp_path, wider_module, recipe, points, cache)
    steps = 20 * TRAIN // 6
    by_hand = _by_hand(data, tmp_path, steps, wider_module, recipe, points)
    _assert_same(results.end_points, by_hand)
    assert results.images == TEST and results.step == 7000
    assert results.end_points["block1"]["top1"] > 0.75  # chance is 1 / 7
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == dataclasses.asdict(results)
    assert (written["data"], written["split"], written["module"]) == (data, "test", wider_module)


# Results for `wider_module` after 42 steps on TensorFlow 2.21 without cache: numbers of images that
# count for top-1 and for top-5, and loss. With cache, images have the same order, and the pipeline
# draws nothing, so the results are the same.
FOUND = {"block1": (9, 13, 0.933052), "block3": (6, 13, 1.595371), "logits": (2, 11, 1.889402)}


@pytest.mark.parametrize("cache", [False, True])
def test_results_are_the_same_on_every_tensorflow(data, wider_module, tmp_path, cache):
    recipe = RECIPE.replace(epochs=6.0, pooling="adaptive_avg")
    found = _run(data, tmp_path, wider_module, recipe, ("block1", "block3", "logits"), cache)
    for name, (top1, top5, loss) in FOUND.items():
        values = found.end_points[name]
        assert (TEST * values["top1"], TEST * values["top5"]) == pytest.approx((top1, top5))
        assert values["loss"] == pytest.approx(loss, abs=1e-4), name


def test_the_network_is_not_trained(data, module, tmp_path, monkeypatch):
    scopes = []
    build = networks.build

    def remember(network, scope, *how, **more):
        scopes.append(scope)
        return build(network, scope, *how, **more)

    monkeypatch.setattr(networks, "build", remember)
    _run(data, tmp_path, module, steps=6)
    exported = tf.train.load_checkpoint(os.path.join(module, "variables", "variables"))
    assert scopes  # one network, or one for each graph, because variables end with their session
    for scope in scopes:
        assert set(scope.variables) == set(exported.get_variable_to_shape_map())
        for name, variable in scope.variables.items():
            assert not variable.trainable
            if tf.executing_eagerly():
                assert np.array_equal(variable.numpy(), exported.get_tensor(name)), name
    names = dict(tf.train.list_variables(str(tmp_path / "model.ckpt-6")))
    heads = {f"linear/{point}/conv2d/{v}" for point in POINTS for v in ("kernel", "bias")}
    momenta = {f"{name}/Momentum" for name in heads}
    assert set(names) == heads | momenta | {"global_step", "loader_state"}


def test_loss_is_the_sum_over_end_points(data, module, tmp_path):
    _run(data, tmp_path, module, steps=3)
    lines = read_metrics(str(tmp_path))
    assert len(lines) == 3
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[f"{name}/loss"] for name in POINTS))
        assert {f"{name}/{m}" for name in POINTS for m in ("accuracy", "top5")} <= set(line)
    # Before training, a head with small weights gives all classes the same probability.
    assert lines[0]["loss"] > 0.5 * len(POINTS) * np.log(CLASSES)


def test_weight_decay_covers_the_kernels_of_all_heads():
    recipe = RECIPE.replace(weight_decay=0.1, hidden_units=3)
    task = Linear(recipe, lambda image: {"a": image, "b": 2 * image}, {"a": 4, "b": 4})

    def penalty():
        scope = Scope(task.scope)
        model = task.model(recipe, scope, (1, 1, 4), tf.float32)
        kernels = [v.read_value() for name, v in scope.variables.items() if name.endswith("kernel")]
        return l2_penalty(model), kernels

    found, kernels = value(penalty())
    assert len(kernels) == 4
    expected = 0.1 / 2 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_dropout_of_hidden_units_depends_on_the_key():
    recipe = RECIPE.replace(hidden_units=50)
    task = Linear(recipe, lambda image: {"a": image, "b": image}, {"a": 4, "b": 4})

    def losses(image):
        model = task.model(recipe, Scope(task.scope), (1, 1, 4), tf.float32)
        model.head.heads["b"] = model.head.heads["a"]
        batch = Batch(image, tf.range(6), tf.range(6))
        keys = [tf.constant(key) for key in ([0, 1, 0], [0, 1, 0], [0, 2, 0])]
        return [task.loss(model, batch, True, key) for key in keys], task.loss(model, batch, False)

    image = np.random.RandomState(0).randn(6, 4).astype(np.float32)
    (first, again, other), calm = value(losses(tf.constant(image)))
    assert np.array_equal(first["loss"], again["loss"])
    assert not np.array_equal(first["loss"], other["loss"])
    assert not np.array_equal(first["a/loss"], first["b/loss"])  # each head drops other units
    assert np.array_equal(calm["a/loss"], calm["b/loss"])


@pytest.mark.parametrize("cache", [False, True])
def test_a_resumed_run_has_the_same_results(data, module, tmp_path, monkeypatch, cache):
    recipe = RECIPE.replace(hidden_units=5)
    whole = _run(data, tmp_path / "whole", module, recipe, ["block1"], cache)
    with monkeypatch.context() as patched:
        trained.interrupt_after(patched, 9)
        stopped = _run(data, tmp_path / "parts", module, recipe, ["block1"], cache)
    assert stopped == signal.SIGINT
    assert Checkpoints(str(tmp_path / "parts")).steps == [9]
    assert not (tmp_path / "parts" / "results.json").exists()
    parts = _run(data, tmp_path / "parts", module, recipe, ["block1"], cache)
    assert parts == whole
    learned = [
        [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(str(folder))]
        for folder in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert learned[0] == learned[1] and len(learned[0]) == 14


def test_heads_learn_the_same_with_and_without_cache(data, module, tmp_path):
    # All images in one batch, so that their order does not matter.
    recipe = RECIPE.replace(batch_size=TRAIN, epochs=20.0)
    pair = [_run(data, tmp_path / str(c), module, recipe, cache=c) for c in (False, True)]
    _assert_same(pair[1].end_points, pair[0].end_points, 1e-3)


@pytest.fixture
def computed(monkeypatch):
    """A list of the number of images in each call of the network during caching."""
    counts = []
    compute = representation.FrozenFeatures.compute

    def counting(self, image):
        counts.append(len(image))
        return compute(self, image)

    monkeypatch.setattr(representation.FrozenFeatures, "compute", counting)
    return counts


def test_features_are_computed_once(data, module, tmp_path, computed):
    _run(data, tmp_path, module, cache=True, steps=2)
    assert computed == [5] * 8 + [2] + [5, 5, 3]  # 42 training and 13 evaluation images
    before = {path: path.read_bytes() for path in tmp_path.glob("features/*/*.npy")}
    assert len(before) == 4
    _run(data, tmp_path, module, cache=True, steps=4)
    assert len(computed) == 12
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("change", ["pipeline", "max_features", "module", "end_points"])
def test_features_are_recomputed_if_what_decides_them_changes(
    data, module, tmp_path, computed, change
):
    folder = tmp_path / "work"
    _run(data, folder, module, cache=True, steps=0, end_points=["block1"])
    del computed[:]
    for path in folder.glob("[!f]*"):
        path.unlink()  # another run in the same workdir
    how = {"recipe": RECIPE, "module": module, "end_points": ["block1"]}
    if change == "module":
        how["module"] = _export(tmp_path, trained.VGG)
    elif change == "end_points":
        how["end_points"] = ["block2"]
    else:
        value = {"pipeline": "resize(40)|range(-1, 1)", "max_features": 20}[change]
        how["recipe"] = RECIPE.replace(**{change: value})
    _run(data, folder, cache=True, steps=0, **how)
    assert sum(computed) == TRAIN + TEST


def test_features_are_recomputed_for_another_export_at_the_same_path(
    data, module, tmp_path, computed
):
    """Both exports have the same description."""
    used, folder = tmp_path / "module", tmp_path / "work"
    trained.run(tmp_path / "run", trained.VGG, steps=(8,))
    other = export_run(str(tmp_path / "run"), str(tmp_path / "other"))
    shutil.copytree(module, str(used))
    _run(data, folder, str(used), cache=True, steps=0, end_points=["block1"])
    del computed[:]
    for path in folder.glob("[!f]*"):
        path.unlink()
    for path in (used / "variables").iterdir():
        shutil.copyfile(os.path.join(other, "variables", path.name), str(path))
    _run(data, folder, str(used), cache=True, steps=0, end_points=["block1"])
    assert sum(computed) == TRAIN + TEST


def test_features_are_recomputed_if_the_data_change(data, module, tmp_path, computed):
    own, folder = tmp_path / "data", tmp_path / "work"
    shutil.copytree(data, str(own))
    _run(str(own), folder, module, cache=True, steps=0, end_points=["block1"])
    del computed[:]
    _run(str(own), folder, module, cache=True, steps=0, end_points=["block1"])
    assert computed == []
    shard = own / "validation-00000-of-00001"
    records = list(imagenet(data, "test"))
    with TFRecordWriter(shard) as writer:  # other labels, which take as many bytes
        for record in records:
            label = 1 + (record.label + 1) % CLASSES
            writer.write(example({"image/encoded": record.image, "image/class/label": label}))
    assert shard.stat().st_size == os.path.getsize(os.path.join(data, shard.name))
    _run(str(own), folder, module, cache=True, steps=0, end_points=["block1"])
    assert sum(computed) == TEST
    labels = np.load(str(folder / "features" / "eval" / "labels.npy"))
    assert labels.tolist() == [(record.label + 1) % CLASSES for record in records]


@pytest.mark.parametrize("cache", [True, False])
def test_heads_are_not_evaluated_on_another_export_at_the_same_path(data, module, tmp_path, cache):
    used, folder = tmp_path / "module", tmp_path / "work"
    trained.run(tmp_path / "run", trained.VGG, steps=(8,))
    other = export_run(str(tmp_path / "run"), str(tmp_path / "other"))
    shutil.copytree(module, str(used))
    how = {"cache": cache, "steps": 1, "end_points": ["block1"]}
    before = _run(data, folder, str(used), **how)
    # What is not a weight may differ between two exports of the same checkpoint.
    (used / "saved_model.pb").write_bytes(b"")
    assert _run(data, folder, str(used), **how).end_points == before.end_points
    for path in (used / "variables").iterdir():
        shutil.copyfile(os.path.join(other, "variables", path.name), str(path))
    message = f"evaluates an earlier export, which was at {used} before: give another --workdir"
    with pytest.raises(WorkdirError, match=message):
        _run(data, folder, str(used), **how)
    assert json.loads((folder / "results.json").read_text())["end_points"] == before.end_points


def test_a_node_with_another_export_is_an_error(module, data, tmp_path):
    contents = remote_workdir.contents(module)
    job = extraction.Job(
        module, contents, ["block1"], RECIPE, data, "test", DEFAULT_STORAGE, 1, RecordOptions()
    )
    extraction._check_sight(job)
    shutil.copytree(module, str(tmp_path / "module"))
    for path in (tmp_path / "module" / "variables").iterdir():
        path.write_bytes(b"")
    for folder, what in ((tmp_path / "module", "another"), (tmp_path / "none", "no")):
        elsewhere = dataclasses.replace(job, module=str(folder))
        with pytest.raises(OSError, match=f"{folder} holds {what} export; all nodes must see "):
            extraction._check_sight(elsewhere)


class Killed(BaseException):
    """An exception with which a test ends an extraction."""


def _loader(data, batch_size):
    return Loader(
        imagenet(data, "trainval"),
        "resize(8)|range(-1, 1)",
        batch_size,
        training=False,
        shuffle=False,
        drop_remainder=False,
    )


@pytest.fixture(scope="module")
def means(data):
    """The means of each training image by channel, in file order."""
    with _loader(data, TRAIN) as loader:
        return next(iter(loader)).image.mean((1, 2))


def _extract(data, folder, calls, fail_after=None, key="a", batch_size=5):
    def compute(image):
        if len(calls) == fail_after:
            raise Killed
        calls.append(len(image))
        return image.mean((1, 2))

    with _loader(data, batch_size) as loader:
        parts = features.in_order(loader, compute)
        arrays = features.extract(str(folder), TRAIN, batch_size, 3, parts, {"key": key})
    return [np.array(array) for array in arrays]


def _assert_means(arrays, means):
    np.testing.assert_allclose(arrays[0], means, atol=1e-6)
    assert arrays[1].tolist() == [i % CLASSES for i in range(TRAIN)]


def test_a_stopped_extraction_is_resumed(data, tmp_path, means):
    calls = []
    with pytest.raises(Killed):
        _extract(data, tmp_path, calls, fail_after=4)
    _assert_means(_extract(data, tmp_path, calls), means)
    assert calls == [5] * 8 + [2]
    _assert_means(_extract(data, tmp_path, [], 0), means)


def test_progress_of_an_extraction_is_saved_regularly(data, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_SECONDS", -1.0)
    noted = []

    def parts(ranges):
        for number in range(9):
            noted.append(json.loads((tmp_path / "features.json").read_text()).get("ranges"))
            images = 5 if number < 8 else 2
            yield number, np.zeros((images, 1)), np.zeros(images)

    features.extract(str(tmp_path), TRAIN, 5, 1, parts, {})
    assert noted == [None] + [[[0, 5 * batches]] for batches in range(1, 9)]


def test_only_missing_batches_are_extracted(data, tmp_path, means):
    asked = []

    def parts(ranges, order):
        asked.append(ranges)
        for number in order:
            if number is None:
                raise Killed
            begin = 5 * number
            yield number, means[begin : begin + 5], np.arange(begin, min(begin + 5, TRAIN))

    for order in ([3, 8, 1, 2, None], [0, 6, None], [7, 4, 5]):
        with contextlib.suppress(Killed):
            found = features.extract(str(tmp_path), TRAIN, 5, 3, lambda r, o=order: parts(r, o), {})
    assert asked == [[(0, 9)], [(0, 1), (4, 8)], [(4, 6), (7, 8)]]
    assert np.array_equal(found[0], means) and found[1].tolist() == list(range(TRAIN))


def test_a_stopped_extraction_with_another_batch_size_starts_over(data, tmp_path, means):
    with pytest.raises(Killed):
        _extract(data, tmp_path, [], fail_after=4)
    calls = []
    _assert_means(_extract(data, tmp_path, calls, batch_size=4), means)
    assert calls == [4] * 10 + [2]


def test_partly_replaced_features_do_not_count_as_complete(data, tmp_path, means):
    calls = []
    _extract(data, tmp_path, calls, key="a")
    with pytest.raises(Killed):
        _extract(data, tmp_path, [], fail_after=4, key="b")
    _assert_means(_extract(data, tmp_path, calls, key="a"), means)
    assert len(calls) == 2 * 9


def test_the_order_of_cached_features_changes_each_epoch():
    values = np.arange(10, dtype=np.float32)[:, np.newaxis]
    loader = features.FeatureLoader(values, np.arange(10, dtype=np.int32), 4, True, seed=3)
    epochs = [[batch.index.tolist() for batch in loader] for _ in range(3)]
    assert all(len(epoch) == len(loader) == 2 for epoch in epochs)
    assert all(len({i for batch in epoch for i in batch}) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = features.FeatureLoader(values, np.arange(10, dtype=np.int32), 4, True, seed=3)
    again.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 1})
    (batch,) = again
    assert batch.index.tolist() == epochs[1][1]
    assert batch.image[:, 0].tolist() == batch.label.tolist() == epochs[1][1]
    # A state that an earlier version with another order wrote has two entries.
    again.load_state_dict({"epoch": 1, "batch": 1})
    assert [batch.index.tolist() for batch in again] == [epochs[1][1]]
    with pytest.raises(ValueError, match="the state was taken with seed=4, this Loader has 3"):
        again.load_state_dict({**loader.state_dict(), "seed": 4})
    with pytest.raises(ValueError, match="has 10 records, fewer than batch_size 11"):
        features.FeatureLoader(values, np.arange(10, dtype=np.int32), 11, True)


@pytest.mark.parametrize("training", [False, True])
def test_cached_features_have_the_order_of_a_loader(data, training):
    records = imagenet(data, "trainval")
    with Loader(records, "resize(32)", 4, training=training, seed=5) as loader:
        count = loader.num_records
        values = np.arange(count, dtype=np.float32)[:, np.newaxis]
        found = features.FeatureLoader(values, np.arange(count, dtype=np.int32), 4, training, 5)
        assert found.state_dict() == loader.state_dict()
        for _ in range(2):
            expected = [batch.index.tolist() for batch in loader]
            assert [batch.index.tolist() for batch in found] == expected
        assert found.state_dict() == loader.state_dict()
        assert found.shard == loader.shard and len(found) == len(loader)


@pytest.mark.parametrize("cache", [False, True])
def test_a_network_of_patches_is_evaluated_on_patches(data, patches_module, tmp_path, cache):
    recipe = RECIPE.replace(
        pipeline=PATCHES.representation_pipeline, combine_patches="concat", pooling="avg"
    )
    results = _run(data, tmp_path, patches_module, recipe, ["block5", "logits"], cache, steps=5)
    assert results.end_points["logits"]["features"] == 9 * 4
    _assert_same(
        results.end_points,
        _by_hand(data, tmp_path, 5, patches_module, recipe, ["block5", "logits"]),
    )


@pytest.mark.parametrize(
    "fields,options,message",
    [
        ({"pipeline": "gray(0.5)|resize(32)"}, {"cache": True}, r"--cache needs .* gray\(0\.5\)"),
        ({"pipeline": "resize(96)|patches(3)"}, {}, "takes one view of an image, and .* makes 9"),
        ({"pipeline": "resize(32)|rotate"}, {}, "takes one view of an image, and .* makes 4"),
        ({}, {"end_points": ["block9", "fc6"]}, "no end point block9, but block1, block2"),
        ({"num_classes": 5}, {}, "is of class [56], counted from 0, and --num-classes is 5"),
        ({"num_classes": 5}, {"cache": True}, "is of class [56], counted from 0"),
        ({"batch_size": 43}, {"cache": True}, "has 42 records, fewer than batch_size 43"),
        ({"pipeline": "resize(16)"}, {}, "images of 32 x 32 pixels or more, not 16 x 16"),
    ],
)
def test_impossible_evaluations_are_refused(data, module, tmp_path, fields, options, message):
    with pytest.raises(ValueError, match=message):
        _run(data, tmp_path, module, RECIPE.replace(**fields), **options)


def test_one_view_is_refused_for_a_network_of_patches(data, patches_module, tmp_path):
    with pytest.raises(ValueError, match="takes the patches of an image, as EVAL_PATCHES makes"):
        _run(data, tmp_path, patches_module)


def test_gray_with_probability_1_can_be_cached(data, module, tmp_path):
    recipe = RECIPE.replace(pipeline="gray(1)|resize(32)|range(-1, 1)")
    assert _run(data, tmp_path, module, recipe, ["block1"], cache=True, steps=1).images == TEST


def test_a_run_of_another_module_is_not_resumed(data, module, patches_module, tmp_path):
    _run(data, tmp_path, module, end_points=["logits"], cache=True, steps=1)
    recipe = RECIPE.replace(pipeline=PATCHES.representation_pipeline)
    with pytest.raises(WorkdirError, match=f"evaluates {module}: give another --workdir"):
        _run(data, tmp_path, patches_module, recipe, ["logits"], steps=2)


def test_a_folder_without_an_export_is_refused(data, tmp_path):
    with pytest.raises(ExportError, match=r"is not an export of pretexture export"):
        _run(data, tmp_path / "work", str(tmp_path))
    assert not (tmp_path / "work").exists()


def test_the_plan_names_the_module(data, module, tmp_path):
    said = []
    options = Options(data, str(tmp_path), steps=1, device="cpu")
    linear.linear_eval(RECIPE, options, Representation(module), ["logits"], say=said.append)
    assert f"heads     {4 * CLASSES + CLASSES} parameters on the frozen {module}" in said
    assert not any(line.startswith("model") for line in said)


def test_the_table_marks_the_best_end_point():
    points = {
        "block1": {"top1": 0.25, "top5": 0.5, "loss": 2.0, "features": 9000},
        "logits": {"top1": 0.125, "top5": 0.75, "loss": 1.0, "features": 10},
    }
    results = linear.Results("m", None, "d", "test", 8, 0, points)
    assert results.best == "block1"
    assert linear.table(results) == [
        "end point    features    top1    top5",
        "block1          9,000   25.0%   50.0%  best",
        "logits             10   12.5%   75.0%",
    ]
    few = {name: {"top1": v["top1"], "loss": 1.0, "features": 7} for name, v in points.items()}
    assert linear.table(linear.Results("m", None, "d", "test", 8, 0, few))[0].split()[-1] == "top1"
