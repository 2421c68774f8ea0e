import functools

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import resumed
import tiny
from learned import learned
from pretexture.trainers import tasks
from pretexture.trainers.engines import (
    optimization,
    tf2,
)
from pretexture.trainers.engines.engine import Place
from pretexture.trainers.engines.optimization import LossScale
from pretexture.trainers.engines.places import Strategy
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.networks.layers import Scope
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.checkpoints import Checkpoints

if not tf.executing_eagerly() or tf.config.list_physical_devices("GPU"):
    pytest.skip("what TensorFlow 2 does on a CPU", allow_module_level=True)

with_bfloat16 = pytest.mark.usefixtures("bfloat16")

RECIPE = tiny.ROTATION.replace(warmup_epochs=0.0, decay_epochs=(), lr=1.0)


def _engine(recipe=RECIPE, seed=0):
    return tf2.Engine(recipe, tasks.build(recipe), tiny.specification(6), 6, seed, Place())


def _train(engine, name, steps):
    """Makes a step with the batch of each number; returns the values of that name."""
    return [values[name] for values in tiny.train(engine, [tiny.turned(step) for step in steps])]


def _values(engine):
    """The model's variables and the optimiser's, without the step and the loss scale."""
    counts = ("global_step", "loss_scale", "good_steps")
    return {name: v.numpy() for name, v in engine.state().items() if name not in counts}


@pytest.fixture
def half(monkeypatch):
    """half(initial, interval): computes in float16 as on a GPU, with that `LossScale`."""

    def make(initial, interval):
        monkeypatch.setattr(
            tf2, "compute_dtype", lambda p: tf.float16 if p == "mixed" else tf.float32
        )
        scale = functools.partial(LossScale, initial=initial, interval=interval)
        monkeypatch.setattr(optimization, "LossScale", scale)
        return RECIPE.replace(precision="mixed")

    return make


@with_bfloat16
def test_on_a_cpu_mixed_is_bfloat16():
    assert tf2.compute_dtype("mixed") == tf.bfloat16
    assert tf2.compute_dtype("float32") == tf.float32


@with_bfloat16
@pytest.mark.parametrize("architecture", ["resnet50", "revnet50", "vgg19"])
def test_only_activations_have_16_bits(architecture):
    side = 32
    recipe = RECIPE.replace(architecture=architecture, filters_factor=0.5, precision="mixed")
    logits = {}
    for precision in ("float32", "mixed"):
        recipe = recipe.replace(precision=precision)
        dtype = tf2.compute_dtype(precision)
        scope = Scope("module", 0)
        model = tasks.build(recipe).model(recipe, scope, (side, side, 3), dtype)
        image = tf.constant(np.random.RandomState(0).randn(6, side, side, 3), tf.float32)
        logits[precision] = model.logits(image, False)
        points = model.network(tf.cast(image, dtype), False)[1]
        blocks = {points[name].dtype for name in points if name.startswith("block")}
        # The sums in a RevNet's units are float32, so that the units can be undone.
        assert blocks == {tf.float32 if architecture == "revnet50" else dtype}
        assert points["logits"].dtype == tf.float32
        assert {v.dtype.base_dtype for v in scope.variables.values()} == {tf.float32}
    scale = np.std(logits["float32"])
    assert 0 < np.std(logits["float32"] - logits["mixed"]) < 0.1 * scale


@with_bfloat16
def test_bfloat16_learns_as_float32_does():
    losses = {}
    for precision in ("float32", "mixed"):
        engine = _engine(RECIPE.replace(precision=precision))
        losses[precision] = _train(engine, "loss", range(60))
    assert losses["mixed"] != losses["float32"]
    np.testing.assert_allclose(losses["mixed"], losses["float32"], rtol=0.05, atol=0.01)
    assert np.mean(losses["mixed"][-10:]) < 0.6 * np.mean(losses["mixed"][:10])


@with_bfloat16
def test_a_run_in_mixed_precision_is_resumed_and_evaluated(shards, tmp_path):
    recipe = RECIPE.replace(precision="mixed")

    def train(folder, steps):
        options = Options(shards, str(folder), steps=steps, log_steps=1, device="cpu")
        pretrain(recipe, options, say=lambda line: None)

    train(tmp_path / "whole", 8)
    train(tmp_path / "parts", 3)
    train(tmp_path / "parts", 8)
    assert learned(tmp_path / "parts") == learned(tmp_path / "whole")
    assert np.isfinite(evaluate(str(tmp_path / "parts"), shards, device="cpu")["loss"])
    names = tf.train.load_checkpoint(str(tmp_path / "whole" / "model.ckpt-8"))
    types = names.get_variable_to_dtype_map()
    assert {types[name] for name in types if name.startswith("module/")} == {tf.float32}
    assert "loss_scale" not in types


def test_float16_learns_as_float32_does(half):
    losses = {}
    for precision in ("float32", "mixed"):
        engine = _engine(half(2.0**10, 2000).replace(precision=precision))
        losses[precision] = _train(engine, "loss", range(30))
    assert losses["mixed"] != losses["float32"]
    np.testing.assert_allclose(losses["mixed"], losses["float32"], rtol=0.02, atol=0.01)


def test_the_scale_is_doubled_after_a_number_of_good_steps(half):
    engine = _engine(half(8.0, 3))
    scales = _train(engine, "loss_scale", range(8))
    assert scales == [8, 8, 8, 16, 16, 16, 32, 32]
    assert engine.state()["loss_scale"].numpy() == 32
    assert engine.state()["good_steps"].numpy() == 2


def test_an_overflowing_step_is_skipped_and_halves_the_scale(half):
    engine = _engine(half(2.0**40, 5))  # far above 65504, the largest float16
    before = _values(engine)
    (first,) = tiny.train(engine, [tiny.turned(0)])
    after = _values(engine)
    assert first["loss_scale"] == 2.0**40 and np.isfinite(first["loss"])
    assert engine.step == 1
    state = engine.state()
    assert (state["loss_scale"].numpy(), state["good_steps"].numpy()) == (2.0**39, 0)
    for name, value in before.items():
        if "moving" not in name:
            assert np.array_equal(value, after[name]), name
    assert any(name.endswith("/Momentum") for name in before)
    assert all(np.all(np.isfinite(value)) for value in after.values())

    scales = _train(engine, "loss_scale", range(1, 60))
    assert engine.step == 60
    halved = [after < before for before, after in zip(scales, scales[1:])]
    assert halved[:15] == [True] * 15 and not all(halved)
    assert all(b in (2 * a, a, a / 2) for a, b in zip(scales, scales[1:]))
    trained = _values(engine)
    assert all(
        not np.array_equal(before[name], trained[name]) for name in before if "kernel" in name
    )
    assert all(np.all(np.isfinite(value)) for value in trained.values())


def test_a_bad_step_resets_the_count_of_good_ones():
    scale = LossScale(initial=8.0, interval=2)
    seen = []
    for finite in (True, False, True, True, False, False, False, False, False):
        scale.update(tf.constant(finite))
        seen.append((float(scale.value), int(scale.good_steps)))
    assert seen[:4] == [(8, 1), (4, 0), (4, 1), (8, 0)]
    assert seen[-1] == (1, 0)  # never below 1


def test_the_scale_is_part_of_the_checkpoint(half, tmp_path):
    recipe = half(2.0**6, 3)
    whole, first = _engine(recipe), _engine(recipe)
    batches = [tiny.turned(step) for step in range(8)]
    expected = tiny.train(whole, batches)
    tiny.train(first, batches[:4])
    path = Checkpoints(str(tmp_path)).save(4, first.state(), {"batch": 4})
    names = dict(tf.train.list_variables(path))
    assert names["loss_scale"] == names["good_steps"] == []
    second = _engine(recipe, seed=0)
    assert second.restore(path) == {"batch": 4}
    assert second.state()["loss_scale"].numpy() == 2.0**7
    assert tiny.train(second, batches[4:]) == expected[4:]


@pytest.mark.parametrize("strategy", [False, True])
@pytest.mark.parametrize("optimizer,loss_scale", resumed.KINDS)
def test_every_optimizer_resumes(tmp_path, optimizer, loss_scale, strategy):
    recipe = RECIPE.replace(optimizer=optimizer, loss_scale=loss_scale or 0.0, lr=0.1)
    place = Strategy(tf.distribute.MirroredStrategy(["CPU:0"]), "CPU") if strategy else Place()
    scaled = loss_scale is not None
    place.loss_scale = lambda *how: LossScale(recipe.loss_scale, 8.0, 2) if scaled else None

    def engine():
        return tf2.Engine(recipe, tasks.build(recipe), tiny.specification(6), 6, 0, place)

    resumed.assert_resumes(engine, tmp_path, optimizer)
