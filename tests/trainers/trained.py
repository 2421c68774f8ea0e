"""Runs and checkpoints with random weights, and their networks.

Works on TensorFlow 1 too.
"""

import os
import signal

import numpy as np
import tensorflow as tf
from pretexture.loader import Pipeline
from pretexture.trainers import networks, tasks
from pretexture.trainers import run as run_module
from pretexture.trainers.networks.layers import Scope
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs import folder as workdir
from pretexture.trainers.runs.checkpoints import Checkpoints
from published_code import random_values

v1 = tf.compat.v1


def write_config(folder, recipe):
    """Writes the config.json of a run with a recipe."""
    counts = ("seed", "records", "steps_per_epoch", "steps", "parameters")
    config = workdir.Config(
        recipe, **dict.fromkeys(counts, 1), data="shards", tensorflow=tf.__version__
    )
    workdir.write_config(str(folder), config)


# The network that is quickest to build.
VGG = RECIPES["rotation"].replace(
    pipeline="resize(32)|range(-1, 1)|rotate",
    architecture="vgg19",
    filters_factor=0.125,
)


def _build(recipe, scope):
    """The network of a recipe."""
    plan = Pipeline(recipe.pipeline).compile(training=True)
    image = (plan.height, plan.width, 3)
    return networks.build(recipe.network, scope, image, tasks.build(recipe).outputs, 0.0)


def run(folder, recipe=VGG, steps=(7000,)):
    """Makes a run's folder with a checkpoint for each of the steps.

    Returns: the values of the last checkpoint, by name.
    """
    write_config(folder, recipe)
    with tf.Graph().as_default():
        scope = Scope()
        _build(recipe, scope)
        shapes = {name: variable.shape.as_list() for name, variable in scope.variables.items()}
    for step in steps:
        values = {**random_values(shapes, seed=step // 1000), "global_step": np.int64(step)}
        Checkpoints(str(folder)).save(step, values, {"epoch": 1})
    return values


def checkpoint(path, values):
    """Writes a checkpoint with `tf.compat.v1.train.Saver`."""
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [v1.Variable(value, name=name) for name, value in values.items()]
        session.run(v1.global_variables_initializer())
        return v1.train.Saver(variables).save(session, str(path), write_meta_graph=False)


def end_points(recipe, values, *images):
    """The end points of the network for each batch, by name, in inference mode."""
    with tf.Graph().as_default(), v1.Session() as session:
        scope = Scope(values=lambda name, shape: values[name], frozen=True)
        network = _build(recipe, scope)
        image = v1.placeholder(tf.float32, [None, None, None, 3])
        _, points = network(image, False)
        session.run(v1.local_variables_initializer())
        return [session.run(points, {image: batch}) for batch in images]


def use(module, *images, signature="representation"):
    """The outputs of a SavedModel's signature for each batch, by name."""
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = v1.saved_model.load(session, ["serve"], str(module)).signature_def
        inputs, outputs = signatures[signature].inputs, signatures[signature].outputs
        names = {name: info.name for name, info in outputs.items()}
        return [session.run(names, {inputs["image"].name: image}) for image in images]


def interrupt_after(monkeypatch, steps):
    """Interrupts runs after that number of steps, as Ctrl-C does."""
    wishes = run_module._Loop.wishes

    def interrupting(self):
        if self._training.engine.step == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return wishes(self)

    monkeypatch.setattr(run_module._Loop, "wishes", interrupting)


def jpeg(pixels, quality=95):
    """A JPEG of pixels [H, W, 3] from 0 to 255."""
    with tf.Graph().as_default(), v1.Session() as session:
        image = tf.constant(pixels.clip(0, 255), tf.uint8)
        return session.run(tf.io.encode_jpeg(image, quality=quality))


def images(*shape):
    return np.random.RandomState(1).randn(*shape).astype(np.float32)


def assert_agree(found, expected, tolerance=1e-4):
    """Names and shapes are equal, and values differ by at most a share of the largest one."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        difference = np.abs(found[name] - value).max() / np.abs(value).max()
        assert difference < tolerance, (name, difference)
