import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import assign, value
from pretexture.trainers.networks.layers import (
    AVERAGES,
    BatchNorm,
    Conv,
    Scope,
    dropout,
    fold,
    l2_penalty,
    max_pool,
    truncated_normal,
)


def _convolve(x, kernel, stride):
    """A convolution with fixed padding by its definition, in float64."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    x = np.pad(x, [(0, 0), (before, size - 1 - before), (before, size - 1 - before), (0, 0)])
    rows = range(0, x.shape[1] - size + 1, stride)
    columns = range(0, x.shape[2] - size + 1, stride)
    windows = np.array([[x[:, r : r + size, c : c + size] for c in columns] for r in rows])
    return np.einsum("rcnijk,ijkl->nrcl", windows, kernel)


@pytest.mark.parametrize("size,stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (2, 1), (4, 2)])
def test_a_convolution_pads_less_before_than_after_whatever_its_stride(size, stride):
    x = np.random.RandomState(0).randn(2, 9, 8, 3)
    conv = Conv(Scope(), 3, 5, size, stride, bias=0.25)
    expected = _convolve(x, value(conv.kernel).astype(np.float64), stride) + 0.25
    np.testing.assert_allclose(value(conv(tf.constant(x, tf.float32))), expected, atol=1e-5)


def test_max_pooling_pads_with_zeros():
    x = -np.ones((1, 4, 4, 1), np.float32)
    expected = [[0, 0], [0, -1]]  # the padding is larger than every pixel
    found = value(max_pool(tf.constant(x), 3, 2))
    np.testing.assert_array_equal(found[0, :, :, 0], expected)


def test_layers_are_named_and_numbered_by_kind_in_order_of_creation():
    scope = Scope("module")
    Conv(scope, 3, 4, 1, bias=0)
    BatchNorm(scope, 4)
    Conv(scope, 4, 4, 1)
    BatchNorm(scope, 4)
    assert list(scope.variables) == [
        "module/conv2d/kernel",
        "module/conv2d/bias",
        "module/batch_normalization/gamma",
        "module/batch_normalization/beta",
        "module/batch_normalization/moving_mean",
        "module/batch_normalization/moving_variance",
        "module/conv2d_1/kernel",
        "module/batch_normalization_1/gamma",
        "module/batch_normalization_1/beta",
        "module/batch_normalization_1/moving_mean",
        "module/batch_normalization_1/moving_variance",
    ]
    assert all(variable.name == f"{name}:0" for name, variable in scope.variables.items())
    trained = [name for name, variable in scope.variables.items() if variable.trainable]
    assert len(trained) == 7 and not any("moving" in name for name in trained)


def test_in_training_batch_norm_normalises_by_the_batch_and_updates_its_averages():
    x = np.random.RandomState(0).randn(6, 5, 4, 3) * [1, 2, 3] + [0, 5, -5]
    norm = BatchNorm(Scope(), 3, momentum=0.9, epsilon=1e-3)
    assign(norm.gamma, [1.0, 2.0, 0.5])
    assign(norm.beta, [0.0, 1.0, -1.0])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-3) * [1, 2, 0.5] + [0, 1, -1]
    found = value(norm(tf.constant(x, tf.float32), True))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    n = 6 * 5 * 4  # the running variance is the sample variance
    found_mean, found_variance = value([norm.moving_mean, norm.moving_variance])
    np.testing.assert_allclose(found_mean, 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(found_variance, 0.9 + 0.1 * variance * n / (n - 1), rtol=1e-5)


def test_in_evaluation_batch_norm_normalises_by_its_averages_and_keeps_them():
    x = np.random.RandomState(0).randn(2, 3, 3, 2)
    norm = BatchNorm(Scope(), 2)
    assign(norm.moving_mean, [1.0, -1.0])
    assign(norm.moving_variance, [4.0, 9.0])
    expected = (x - [1, -1]) / np.sqrt(np.array([4, 9]) + 1e-3)
    found = value(norm(tf.constant(x, tf.float32), False))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(value(norm.moving_mean), [1, -1])


def test_in_a_tensorflow_1_graph_batch_norm_adds_its_updates_to_update_ops():
    with tf.Graph().as_default():
        norm = BatchNorm(Scope(), 2)
        norm(tf.ones([1, 2, 2, 2]), True)
        assert len(tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)) == 2


def test_kernels_start_uniform_within_glorot_and_bengios_limit():
    kernel = value(Conv(Scope(seed=3), 30, 50, 3).kernel)
    limit = np.sqrt(6 / (9 * 30 + 9 * 50))
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


def test_a_truncated_normal_stays_within_two_deviations():
    conv = Conv(Scope(), 30, 50, 3, initializer=truncated_normal(0.005))
    kernel = value(conv.kernel)
    assert 0.0095 < np.abs(kernel).max() <= 0.01
    # The deviation of a normal distribution that is cut at 2 sigma.
    assert kernel.std() == pytest.approx(0.005 * 0.8796, rel=0.02)


def test_initial_values_depend_only_on_seed_and_name():
    first, second, third = Scope(seed=1), Scope(seed=1), Scope(seed=2)
    BatchNorm(second, 4)
    scopes = [first, second, first, third, third]
    one, same, next_name, _, other_seed = (value(Conv(s, 3, 4, 3).kernel) for s in scopes)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, next_name)
    assert not np.array_equal(next_name, other_seed)


def test_dropout_keeps_the_mean_and_depends_on_its_key():
    x = tf.ones([100, 100])
    key = tf.constant([1, 2, 0])
    dropped = value(dropout(x, 0.25, key))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert np.array_equal(dropped, value(dropout(x, 0.25, key)))
    assert not np.array_equal(dropped, value(dropout(x, 0.25, fold(key, 1))))


def test_weight_decay_is_half_the_sum_of_squares_of_kernels_alone():
    scope = Scope()
    module = tf.Module()
    module.layers = [
        Conv(scope, 3, 4, 3, weight_decay=0.1, bias=5),
        BatchNorm(scope, 4),
        Conv(scope, 4, 2, 1, weight_decay=0.01),
        Conv(scope, 4, 2, 1),
    ]
    squares = [
        np.sum(np.square(value(layer.kernel)))
        for layer in module.layers
        if hasattr(layer, "kernel")
    ]
    expected = 0.1 * squares[0] / 2 + 0.01 * squares[1] / 2
    assert value(l2_penalty(module)) == pytest.approx(expected, rel=1e-6)
    assert value(l2_penalty(tf.Module())) == 0


@pytest.mark.parametrize("updates", [1, 3, 60])
def test_averages_of_few_updates_are_those_of_the_batches_they_have_seen(updates):
    scope = Scope()
    layer = BatchNorm(scope, 3)
    batch = (np.random.RandomState(0).randn(4, 5, 6, 3) * (0.1, 1, 20) + (0, -3, 50)).astype("f")
    for _ in range(updates):
        layer(tf.constant(batch), training=True)
        value(layer.moving_mean)  # in a graph, this makes the update
    # Averages of equal batches are the batch's own moments, whatever the averages began with.
    moments = {"mean": batch.mean((0, 1, 2)), "variance": batch.var((0, 1, 2), ddof=1)}
    for name, expected in moments.items():
        full_name = f"module/batch_normalization/moving_{name}"
        found = value(scope.variables[full_name])
        assert np.abs(found - expected).max() > 1  # what it began with is still in it
        unbiased = scope.averages[full_name].unbiased(found, updates)
        np.testing.assert_allclose(unbiased, expected, rtol=1e-3, atol=1e-4)
        assert unbiased.dtype == np.float32


def test_averages_of_no_updates_or_of_many_are_left_as_they_are():
    values = np.random.RandomState(0).rand(7).astype(np.float32)
    for average in AVERAGES.values():
        for updates in (0, 2000, 665_000):
            assert average.unbiased(values, updates) is values
