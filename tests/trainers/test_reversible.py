import argparse

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from pretexture.scripts import run_flags
from pretexture.trainers import networks
from pretexture.trainers.networks import revnet
from pretexture.trainers.networks.layers import Scope, l2_penalty
from pretexture.trainers.recipes import RECIPES

RECIPE = RECIPES["rotation"].replace(filters_factor=0.5, small_root=True, weight_decay=0.1)
N, SIDE = 10, 16  # no other size in the network is N

eagerly = pytest.mark.skipif(not tf.executing_eagerly(), reason="TensorFlow 1 has no tapes")


@pytest.fixture(autouse=True)
def few_units(monkeypatch):
    """A network that is quick to build, with a block of one unit and one of several."""
    monkeypatch.setattr(revnet, "UNITS", (1, 3, 1, 2))


def _network(reversible):
    scope = Scope(seed=1)
    recipe = RECIPE.replace(reversible=reversible)
    network = networks.build(recipe.network, scope, (SIDE, SIDE, 3), 4, 1e-4)
    trained = [v for v in scope.variables.values() if v.trainable]
    averages = [v for v in scope.variables.values() if not v.trainable]
    return network, trained, averages


def _image():
    return tf.random.stateless_normal([N, SIDE, SIDE, 3], seed=[1, 2])


def _loss(logits, network):
    labels = tf.range(N) % 4
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses) + l2_penalty(network)


def _taped(reversible, function, dtype):
    """Loss, gradients of image and variables, and averages after a step, from a `GradientTape`.

    Args:
        function: part that is compiled as a `tf.function`: "step", "network" or None.
    """
    network, trained, averages = _network(reversible)

    def forward(image):
        return network(tf.cast(image, dtype), True)[0]

    if function == "network":
        forward = tf.function(forward)

    def step(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = _loss(forward(image), network)
        return loss, tape.gradient(loss, [image, *trained])

    if function == "step":
        step = tf.function(step)
    loss, gradients = step(_image())
    return loss.numpy(), [g.numpy() for g in gradients], [v.numpy() for v in averages]


def _in_a_graph(reversible):
    """The same as `_taped`, from a graph of TensorFlow 1."""
    with tf.Graph().as_default():
        network, trained, averages = _network(reversible)
        image = _image()
        loss = _loss(network(image, True)[0], network)
        gradients = tf.gradients(loss, [image, *trained])
        updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            loss, gradients, _ = session.run([loss, gradients, updates])
            return loss, gradients, session.run(averages)


def _difference(gradients, plain):
    """The largest difference of gradients, as a share of the largest gradient."""
    image = np.abs(gradients[0] - plain[0]).max() / np.abs(plain[0]).max()
    largest = max(np.abs(b).max() for b in plain[1:])
    others = max(np.abs(a - b).max() for a, b in zip(gradients[1:], plain[1:])) / largest
    return max(image, others)


def _check(recomputed, kept, tolerance):
    assert recomputed[0] == kept[0]
    assert _difference(recomputed[1], kept[1]) < tolerance
    for recomputed_average, average in zip(recomputed[2], kept[2]):
        np.testing.assert_array_equal(recomputed_average, average)


@eagerly
@pytest.mark.parametrize("function", [None, "step", "network"])
def test_recomputing_keeps_loss_and_averages_and_changes_gradients_by_rounding_only(function):
    results = [_taped(reversible, function, tf.float32) for reversible in (True, False)]
    _check(*results, tolerance=1e-5)


def test_recomputing_works_in_a_tensorflow_1_graph():
    _check(_in_a_graph(True), _in_a_graph(False), tolerance=1e-5)


@eagerly
def test_units_can_be_undone_in_16_bits(bfloat16):
    results = [_taped(reversible, "step", tf.bfloat16) for reversible in (True, False)]
    _check(*results, tolerance=1e-2)  # the resolution of bfloat16 is 2**-8


def _graph(reversible):
    """The operations of the forward and the backward pass, and the gradient of the logits."""
    graph = tf.Graph()
    with graph.as_default():
        network, trained, _ = _network(reversible)
        logits = network(tf.compat.v1.placeholder(tf.float32, [N, SIDE, SIDE, 3]), True)[0]
        gradient = tf.compat.v1.placeholder(tf.float32, [N, 4])
        forward = graph.get_operations()
        tf.gradients(logits, trained, gradient)
        return forward, graph.get_operations()[len(forward) :], gradient.op


def _kept(reversible):
    """Size of the activations of the forward pass that the backward pass needs, in bytes."""
    forward, backward, _ = _graph(reversible)
    made = {output.name: output.shape for op in forward for output in op.outputs}
    reading = [op for op in backward if op.type not in ("Shape", "ShapeN", "ZerosLike")]
    read = {tensor.name for op in reading for tensor in op.inputs} & set(made)
    shapes = [made[name].as_list() for name in read if made[name].rank == 4]
    return 4 * sum(int(np.prod(shape)) for shape in shapes if shape[0] == N)


def test_memory_of_the_backward_pass_does_not_grow_with_the_units_of_a_block(monkeypatch):
    plain, reversible = [], []
    for units in (2, 3, 4):
        monkeypatch.setattr(revnet, "UNITS", (units,) * 4)
        plain.append(_kept(False))
        reversible.append(_kept(True))
    assert plain[2] - plain[1] == plain[1] - plain[0] > 0

    # Of each block, the backward pass needs both halves of its output and x2 of the first unit. It
    # also needs the image, the last normalisation's input, its ReLU's output and the mean.
    blocks = sum((SIDE >> number) ** 2 * (32 << number) for number in range(4))
    last = (SIDE >> 3) ** 2 * 256
    assert reversible == [4 * N * (3 * blocks // 2 + SIDE**2 * 3 + 2 * last + 256)] * 3


def _ancestors(op, known):
    """Names of all operations that must run before another one.

    Args:
        op: the other operation.
        known: results by operation, to which new ones are added.
    """
    todo = [op]
    while todo:
        before = [tensor.op for tensor in todo[-1].inputs] + list(todo[-1].control_inputs)
        missing = [one for one in before if one.name not in known]
        if missing:
            todo += missing
        else:
            known[todo.pop().name] = set().union(*({b.name} | known[b.name] for b in before))
    return known[op.name]


def test_a_graph_recomputes_one_unit_at_a_time():
    _, backward, gradient = _graph(True)
    kernels = {op.name for op in backward if op.type == "Conv2DBackpropFilter"}
    known = {}
    recomputed = [_ancestors(op, known) for op in backward if op.type == "Conv2D"]
    assert all(gradient.name in before for before in recomputed)
    # There are seven units of three kernels each.
    through = sorted(len(kernels & before) for before in recomputed)
    assert through == [3 * unit for unit in range(7) for _ in range(3)]


@pytest.mark.parametrize("architecture", ["resnet50", "vgg19"])
def test_other_networks_cannot_be_reversible(architecture):
    recipe = RECIPE.replace(architecture=architecture, reversible=True)
    with pytest.raises(ValueError, match=f"needs architecture revnet50: .* of {architecture} "):
        networks.build(recipe.network, Scope(), (SIDE, SIDE, 3), 4, 1e-4)


def test_reversible_is_a_flag_without_a_value():
    parser = argparse.ArgumentParser()
    run_flags.add_recipe_flags(parser, ["reversible", "lr"], "")
    for words, expected in (
        ("", None),
        ("--reversible", True),
        ("--reversible --lr 1", True),
        ("--reversible true", True),
        ("--reversible false", False),
    ):
        assert parser.parse_args(words.split()).reversible is expected
