import math

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import compiled
from pretexture.trainers.engines.optimization import Schedule, optimizer, schedule, state
from pretexture.trainers.recipes import RECIPES


def _published(step, base, steps_per_epoch, warmup, decays, factor):
    """The published schedule: a linear warm-up, then piecewise constant."""
    if step < warmup * steps_per_epoch:
        return step * base / (warmup * steps_per_epoch)
    return base * factor ** sum(step > epoch * steps_per_epoch for epoch in decays)


def _rates(rate, steps):
    """The rates at the given steps."""
    function = compiled(rate)
    return [function(np.int64(step)) for step in steps]


@pytest.mark.parametrize(
    "steps_per_epoch,warmup,decays",
    [(10, 5, (15, 25)), (7, 0, ()), (7, 0.5, (1.25, 2.5)), (3, 1.1, (1.1, 1.2))],
)
def test_the_rate_rises_then_drops_as_the_formula_says(steps_per_epoch, warmup, decays):
    rate = Schedule(0.3, steps_per_epoch, warmup, decays, 0.1)
    steps = range(30 * steps_per_epoch)
    for step, found in zip(steps, _rates(rate, steps)):
        expected = _published(step, 0.3, steps_per_epoch, warmup, decays, 0.1)
        assert found == pytest.approx(expected, rel=1e-6), step


def test_the_rate_starts_at_zero_and_drops_one_step_after_the_decay_epoch():
    rate = Schedule(1.0, 100, 5.0, (15.0,), 0.1)
    found = _rates(rate, (0, 250, 499, 500, 1500, 1501))
    np.testing.assert_allclose(found, [0, 0.5, 0.998, 1, 1, 0.1], atol=1e-6)


def test_the_rate_is_scaled_to_the_batch_size():
    recipe = RECIPES["rotation"].replace(batch_size=64, lr=0.1)
    assert schedule(recipe, 10).base == pytest.approx(0.025)


def _updates(recipe, gradients):
    """The values of a variable that starts at 1, after each of the gradients."""
    step = tf.compat.v1.Variable(0, trainable=False, dtype=tf.int64, use_resource=True)
    variable = tf.compat.v1.Variable(1.0, name="module/conv2d/kernel", use_resource=True)
    chosen = optimizer(recipe, schedule(recipe, 4), step)

    @compiled
    def update(gradient):
        updated = chosen.apply_gradients([(gradient, variable)], global_step=step)
        with tf.control_dependencies([updated]):
            return variable.read_value()

    values = [update(np.float32(gradient)) for gradient in gradients]
    return values, sorted(state(chosen, {"module/conv2d/kernel": variable}))


RECIPE = RECIPES["rotation"].replace(
    batch_size=256,
    lr=0.1,
    warmup_epochs=0.5,
    decay_epochs=(1.0,),
)
RATES = [0, 0.05, 0.1, 0.1, 0.1, 0.01, 0.01]
GRADIENTS = [1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 2.0]


def test_sgd_has_a_momentum_of_0_9_at_the_rate_of_each_step():
    values, names = _updates(RECIPE, GRADIENTS)
    weight, momentum, expected = 1.0, 0.0, []
    for rate, gradient in zip(RATES, GRADIENTS):
        momentum = 0.9 * momentum + gradient
        weight -= rate * momentum
        expected.append(weight)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert names == ["module/conv2d/kernel/Momentum"]


def test_adam_follows_kingma_and_ba():
    values, names = _updates(RECIPE.replace(optimizer="adam"), GRADIENTS)
    weight, m, v, expected = 1.0, 0.0, 0.0, []
    for t, (rate, gradient) in enumerate(zip(RATES, GRADIENTS), 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weight -= rate * corrected * m / (math.sqrt(v) + 1e-8)
        expected.append(weight)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert names == [
        "beta1_power",
        "beta2_power",
        "module/conv2d/kernel/Adam",
        "module/conv2d/kernel/Adam_1",
    ]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer must be sgd or adam, not lamb"):
        RECIPE.replace(optimizer="lamb")
