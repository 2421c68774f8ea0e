"""Graphs for the device keep the rules of Ascend NPUs."""

import contextlib

import pytest

tf = pytest.importorskip("tensorflow")

from device_rules import broken
from pretexture.loader import ArraySpec, Batch, Pipeline
from pretexture.trainers import engines, tasks
from pretexture.trainers.engines import optimization
from pretexture.trainers.engines.engine import Place
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs import checkpoints

v1 = tf.compat.v1

_SMALL = ("supervised", "rotation", "exemplar", "jigsaw", "relative_patch_location")
CASES = {name: RECIPES[f"{name}-small"].replace(filters_factor=0.25) for name in _SMALL}
CASES["revnet"] = CASES["rotation"].replace(architecture="revnet50", reversible=True)
CASES["adam"] = CASES["jigsaw"].replace(optimizer="adam")


def _engine(recipe):
    plan = Pipeline(recipe.pipeline).compile(training=True)
    spec = Batch(
        ArraySpec((4, *plan.views, plan.height, plan.width, 3), "float32"),
        ArraySpec((4, *plan.label_dims), "int32"),
        ArraySpec((4,), "int64"),
    )
    place = Place()
    if tf.executing_eagerly():
        place.loss_scale = lambda *how: optimization.LossScale()  # has a condition
    return engines.choose().Engine(recipe, tasks.build(recipe), spec, 10, 0, place)


def _fetches(engine, training):
    """The tensors and operations that a step needs."""
    if tf.executing_eagerly():
        if training:
            graph = engine._compiled().get_concrete_function().graph
        else:
            spec = tasks.Batch(*(tf.TensorSpec(part.shape, part.dtype) for part in engine._spec))
            graph = engine._evaluate_step.get_concrete_function(spec).graph
        return [*graph.outputs, *graph.control_outputs]
    from pretexture.trainers.engines import estimator

    batch = {
        name: v1.placeholder(part.dtype, part.shape)
        for name, part in engine._spec._asdict().items()
    }
    modes = tf.estimator.ModeKeys
    if training:
        spec = engine._model_fn(*estimator._features_and_label(batch), modes.TRAIN)
        return tf.nest.flatten([spec.loss, spec.train_op, v1.global_variables_initializer()])
    engine._path = "any"
    engine._model_fn(*estimator._features_and_label(batch), modes.EVAL)
    return tf.nest.flatten(v1.get_collection(estimator._FETCHES))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_graphs_of_every_task_keep_the_rules(name, training, monkeypatch):
    monkeypatch.setattr(checkpoints, "fitting", lambda path, variables: variables)
    eager = tf.executing_eagerly()
    with contextlib.nullcontext() if eager else tf.Graph().as_default():
        assert broken(_fetches(_engine(CASES[name]), training)) == []


def _double(x):
    return tf.cast(x, tf.float64) * 2


def _where(x):
    return tf.where(x > 0)


def _queue(x):
    queue = tf.queue.FIFOQueue(3, [tf.float32], shapes=[[2]])
    queue.enqueue(x)
    return queue.dequeue()


def _within_a_condition(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.cast(_double(x), tf.float32), lambda: x)


@pytest.mark.parametrize(
    "function,shape,rules",
    [
        (_double, [2], ["Cast (Cast): it has no float64", "mul (Mul): it has no float64"]),
        (_double, [None], ["Cast (Cast): it has no float64"]),
        (tf.square, [None], ["Square (Square): the shape (None,) is not static"]),
        (_where, [2], ["Where (Where): the device lacks this operation"]),
        (_queue, [2], ["fifo_queue (FIFOQueueV2): the device lacks this operation"]),
        (_within_a_condition, [2], ["Cast (Cast): it has no float64"]),
    ],
)
def test_a_node_that_breaks_a_rule_is_reported_with_the_rule(function, shape, rules):
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, shape)
        found = broken([function(x)])
    for rule in rules:
        name, rest = rule.split(" ", 1)
        assert any(
            line.split(" ", 1)[1].replace("(?,)", "(None,)") == rest and name in line.split(" ")[0]
            for line in found
        ), found


def test_a_graph_that_keeps_the_rules_gives_an_empty_report():
    with tf.Graph().as_default():
        # It gives an int64, through variants.
        dataset = tf.data.Dataset.range(10).batch(2, drop_remainder=True)
        x = v1.data.make_initializable_iterator(dataset).get_next()
        assert broken([x + 1]) == []
