import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import value
from pretexture.trainers import networks
from pretexture.trainers.exports.saved_model import build_trained
from pretexture.trainers.networks.layers import Scope, l2_penalty
from pretexture.trainers.recipes import RECIPES, Network

RECIPE = RECIPES["rotation"].replace(architecture="resnet50", filters_factor=4.0)


def _build(outputs, image=(224, 224, 3), seed=0, **fields):
    scope = Scope(seed=seed)
    recipe = RECIPE.replace(**fields)
    decay = recipe.optimizer.weight_decay
    network = networks.build(recipe.network, scope, image, outputs, decay)
    return network, scope


# The networks are only built as graphs, because the sizes matter and not the values.
@pytest.mark.parametrize(
    "fields,outputs,parameters",
    [
        ({"mode": "v2"}, 1000, 25_549_352),
        ({"mode": "v1"}, 1000, 25_557_032),
        ({"mode": "v1", "filters_factor": 8.0, "patch_strides": True}, 1000, 98_004_072),
        ({"architecture": "revnet50"}, 4, 5_416_836),
        ({"architecture": "revnet50", "filters_factor": 16.0}, 4, 85_798_404),
        ({"architecture": "vgg19", "filters_factor": 8.0}, 1000, 143_680_936),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(fields, outputs, parameters):
    with tf.Graph().as_default():
        _, scope = _build(outputs, **fields)
        sizes = [int(np.prod(v.shape.as_list())) for v in scope.variables.values() if v.trainable]
    assert sum(sizes) == parameters


@pytest.mark.parametrize(
    "fields,convolutions,norms",
    [
        ({"mode": "v1"}, 54, 53),
        ({"mode": "v2"}, 54, 49),
        ({"architecture": "revnet50"}, 50, 49),
        ({"architecture": "vgg19"}, 19, 18),
    ],
)
def test_variables_are_numbered_as_tf_layers_numbered_them(fields, convolutions, norms):
    with tf.Graph().as_default():
        _, scope = _build(7, filters_factor=1.0, **fields)

    def numbered(kind, count):
        return [f"module/{kind}"] + [f"module/{kind}_{i}" for i in range(1, count)]

    expected = {f"{name}/kernel" for name in numbered("conv2d", convolutions)}
    expected |= {
        f"{name}/{variable}"
        for name in numbered("batch_normalization", norms)
        for variable in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    expected.add(f"module/conv2d_{convolutions - 1}/bias")
    assert set(scope.variables) == expected


@pytest.mark.parametrize("mode,first_norm", [("v1", "batch_normalization_1"), ("v2", None)])
def test_a_projected_shortcut_is_created_before_the_convolutions(mode, first_norm):
    with tf.Graph().as_default():
        _, scope = _build(7, filters_factor=1.0, mode=mode)
        shapes = {name: v.shape.as_list() for name, v in scope.variables.items()}
    assert shapes["module/conv2d/kernel"] == [7, 7, 3, 16]
    assert shapes["module/conv2d_1/kernel"] == [1, 1, 16, 64]
    assert shapes["module/conv2d_2/kernel"] == [1, 1, 16, 16]
    assert shapes["module/conv2d_3/kernel"] == [3, 3, 16, 16]
    assert shapes["module/batch_normalization/gamma"] == [16]
    if first_norm:
        assert shapes[f"module/{first_norm}/gamma"] == [64]


SIZES = {
    "usual": ({}, 224, (56, 56, 28, 14, 7)),
    "odd": ({}, 65, (17, 17, 9, 5, 3)),
    "patches": ({"patch_strides": True}, 64, (32, 32, 16, 8, 8)),
    "small": ({"small_root": True}, 32, (32, 32, 16, 8, 4)),
}


@pytest.mark.parametrize("architecture", ["resnet50", "revnet50"])
@pytest.mark.parametrize("case", SIZES)
def test_end_points_have_the_strides_of_their_blocks(architecture, case):
    fields, side, sides = SIZES[case]
    with tf.Graph().as_default():
        network, _ = _build(7, architecture=architecture, filters_factor=0.5, **fields)
        logits, points = network(tf.zeros([2, side, side, 3]), False)
    names = ["after_root", "block1", "block2", "block3", "block4", "pre_logits", "logits"]
    assert list(points) == names
    root = 32 if architecture == "revnet50" else 8
    widths = [root, 32, 64, 128, 256]
    for name, size, width in zip(names, sides, widths):
        assert points[name].shape.as_list() == [2, size, size, width]
    assert points["pre_logits"].shape.as_list() == [2, 256]
    assert points["logits"] is logits and logits.shape.as_list() == [2, 7]


def test_vgg19_creates_its_variables_in_the_order_of_its_layers():
    with tf.Graph().as_default():
        _, scope = _build(7, (64, 64, 3), architecture="vgg19", filters_factor=0.25)
        shapes = [v.shape.as_list() for name, v in scope.variables.items() if "kernel" in name]
        norms = [v.shape.as_list() for name, v in scope.variables.items() if "gamma" in name]
    filters = [2] * 2 + [4] * 2 + [8] * 4 + [16] * 8
    expected = [[3, 3, *pair] for pair in zip([3, *filters], filters)]
    expected += [[2, 2, 16, 128], [1, 1, 128, 128], [1, 1, 128, 7]]
    assert shapes == expected
    assert norms == [shape[3:] for shape in expected[:-1]]


@pytest.mark.parametrize(
    "built,side,sides,fc6",
    [(224, 224, (224, 112, 56, 28, 14), 1), (95, 95, (95, 47, 23, 11, 5), 1), (32, 65, None, 2)],
)
def test_vgg19_end_points_come_before_pooling_and_fc6_is_a_map_on_larger_images(
    built, side, sides, fc6
):
    with tf.Graph().as_default():
        network, _ = _build(7, (built, built, 3), architecture="vgg19", filters_factor=0.25)
        logits, points = network(tf.zeros([2, side, side, 3]), False)
    blocks = [f"block{number}" for number in range(1, 6)]
    assert list(points) == [*blocks, "fc6", "pre_logits", "logits"]
    for name, size, width in zip(blocks, sides or (), (2, 4, 8, 16, 16)):
        assert points[name].shape.as_list() == [2, size, size, width]
    assert points["fc6"].shape.as_list() == [2, fc6, fc6, 128]
    assert points["pre_logits"].shape.as_list() == [2, 128]
    assert points["logits"] is logits and logits.shape.as_list() == [2, 7]


def test_vgg19_pre_logits_are_the_spatial_mean_of_fc7():
    network, scope = _build(5, (32, 32, 3), architecture="vgg19", filters_factor=0.25)
    image = tf.random.stateless_normal([2, 64, 96, 3], seed=[1, 2])
    _, points = network(image, False)
    assert points["fc6"].shape.as_list() == [2, 2, 3, 128]
    fc6, pre_logits = value([points["fc6"], points["pre_logits"]])
    fc7 = fc6 @ value(scope.variables["module/conv2d_17/kernel"])[0, 0]
    fc7 = np.maximum(fc7 / np.sqrt(1 + 1e-3), 0)  # the averages of a new network
    assert fc7.max() > 0
    np.testing.assert_allclose(pre_logits, fc7.mean((1, 2)), rtol=1e-4, atol=1e-9)


def test_vgg19_with_free_image_sizes_is_built_for_the_recipes_training_views():
    vgg, scope = Network("vgg19", filters_factor=0.25), Scope()
    with tf.Graph().as_default():
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
        points = build_trained(vgg, "resize(80)|crop(70)|rotate", scope, 5)(image)
        assert scope.variables["module/conv2d_16/kernel"].shape.as_list() == [2, 2, 16, 128]
        logits = points["logits"]
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for shape, fc6 in (((2, 70, 70, 3), (2, 1, 1, 128)), ((1, 96, 64, 3), (1, 2, 1, 128))):
                values = session.run([logits, points["fc6"]], {image: np.ones(shape)})
                assert values[0].shape == (shape[0], 5) and values[1].shape == fc6


def test_vgg19_refuses_images_that_are_too_small():
    fields = {"architecture": "vgg19", "filters_factor": 0.25}
    with tf.Graph().as_default():
        with pytest.raises(ValueError, match="32 x 32 pixels or more, not 31 x 31"):
            _build(5, (31, 31, 3), **fields)
        with pytest.raises(ValueError, match="square images, not on 64 x 96"):
            _build(5, (64, 96, 3), **fields)
        with pytest.raises(ValueError, match="multiple of 1/8"):
            _build(5, **{**fields, "filters_factor": 0.3})
        network, _ = _build(5, (70, 70, 3), **fields)
        with pytest.raises(ValueError, match=r"64 x 64 pixels .* not 64 x 63: its fc6 .* 2 x"):
            network(tf.zeros([1, 64, 63, 3]), False)


def test_v1_and_v2_end_in_a_relu_unless_told_otherwise():
    image = tf.random.stateless_normal([2, 16, 16, 3], seed=[1, 2])
    for fields, smallest in (
        ({"mode": "v1"}, True),
        ({"mode": "v2"}, True),
        ({"mode": "v2", "last_relu": False}, False),
    ):
        network, _ = _build(3, filters_factor=0.25, **fields)
        points = value(network(image, True)[1])
        assert (points["pre_logits"].min() >= 0) == smallest
        # Blocks of v1 end in a ReLU, blocks of v2 in a sum.
        assert (points["block2"].min() >= 0) == (fields["mode"] == "v1")


def test_a_reversible_unit_can_be_undone():
    from pretexture.trainers.networks.revnet import ReversibleUnit

    unit = ReversibleUnit(Scope(), 4, 1e-4)
    x = tf.split(tf.random.stateless_normal([2, 6, 6, 8], seed=[1, 2]), 2, axis=3)
    y = unit(x, True, tf.float32)
    undone, _, _ = unit.backward(y, y, [], tf.float32)
    x, y, undone = value([x, y, undone])
    assert np.array_equal(y[0], x[1]) and not np.allclose(y[1], x[0], atol=0.1)
    np.testing.assert_allclose(undone, x, atol=1e-6)


def test_weight_decay_covers_every_kernel_but_a_revnets_root():
    for architecture in ("resnet50", "revnet50", "vgg19"):
        fields = {"architecture": architecture, "filters_factor": 0.25, "weight_decay": 0.1}
        network, scope = _build(5, (64, 64, 3), **fields)
        kernels = value({name: v for name, v in scope.variables.items() if "kernel" in name})
        if architecture == "revnet50":
            del kernels["module/conv2d/kernel"]
        expected = 0.1 / 2 * sum(np.sum(np.square(kernel)) for kernel in kernels.values())
        assert value(l2_penalty(network)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"architecture": "resnet51"}, "architecture must be one of resnet50, revnet50, vgg19"),
        ({"mode": "v3"}, "mode must be v1 or v2"),
        ({"mode": "v1", "last_relu": False}, "last_relu"),
        ({"filters_factor": 0.3}, "multiple of 1/16"),
    ],
)
def test_impossible_networks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        _build(4, **fields)
