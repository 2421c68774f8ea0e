"""Trained networks as SavedModels, which any TensorFlow from 1.15 on writes and reads.

The graph is TensorFlow 1's on every TensorFlow, so there is one way to write it, and
`tf.saved_model.load(path).signatures` has both signatures on TensorFlow 2.
"""

import dataclasses
import os
import tempfile
from typing import Any, Dict, Optional, Tuple

import tensorflow as tf
from pretexture.loader import Pipeline
from pretexture.loader.console.files import sync, write_text
from pretexture.loader.console.paths import make_parent
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from .. import networks, tasks
from ..engines import sessions
from ..networks.layers import Scope
from ..recipes import Network, Recipe
from ..runs.checkpoints import Checkpoints, checkpoint_path, writing
from ..runs.folder import WorkdirError, read_config
from ..tasks.patches import PatchTask
from .description import DESCRIPTION, Description, ExportError, read_description
from .weights import Weights

SERVING = "serving_default"
REPRESENTATION = "representation"


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network.

    Attributes:
        weights: its variables.
        outputs: number of its logits.
        description: what its export says of it, without its end points.
    """

    weights: Weights
    outputs: int
    description: Description


def export_run(workdir: str, out: str, step: Optional[int] = None) -> str:
    """Writes a run's network as a SavedModel with a `pretexture.json`; see `write_saved_model`.

    Args:
        workdir: folder of the run.
        out: folder to make; an export that it holds is replaced.
        step: step of the checkpoint; None for the newest.

    Returns: `out`.

    Raises: WorkdirError if there is no run or no such checkpoint, CheckpointError, ExportError if
        `out` is something other than an export.
    """
    return write_saved_model(run_source(workdir, step), out)


def run_source(workdir: str, step: Optional[int] = None) -> Source:
    """The network of a run, from its newest checkpoint or that of a step. Raises WorkdirError."""
    config = read_config(workdir)
    recipe = config.recipe
    if config.module:
        raise WorkdirError(
            f"{workdir} holds an evaluation of {config.module}, which is an export already"
        )
    steps = Checkpoints(workdir).steps
    if not steps:
        raise WorkdirError(f"{workdir} has no checkpoint yet")
    if step is None:
        step = steps[-1]
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise WorkdirError(f"{workdir} has no checkpoint of step {step}, but of {known}")
    return checkpoint_source(recipe, checkpoint_path(workdir, step), step)


def checkpoint_source(recipe: Recipe, path: str, step: int) -> Source:
    """The network of a recipe, from a checkpoint of a step. Raises CheckpointError."""
    task = tasks.build(recipe)
    description = Description(
        network=recipe.network,
        pipeline=recipe.pipeline,
        representation_pipeline=recipe.representation_pipeline,
        step=step,
        patches=isinstance(task, PatchTask),
        end_points={},
        tensorflow=tf.__version__,
        recipe=dataclasses.asdict(recipe),
    )
    return Source(Weights(path), task.outputs, description)


def write_saved_model(source: Source, out: str) -> str:
    """Writes a SavedModel.

    Its signature `serving_default` maps `image`, float32 [N, H, W, 3], to `logits`; its signature
    `representation` maps it to all end points by name. Both run in inference mode. N, H and W are
    free.

    Args:
        source: the network.
        out: folder to make. It appears when it is complete. An export that it holds is replaced.

    Returns: `out`.

    Raises: CheckpointError if the checkpoint does not fit, ExportError if `out` is something other
        than an export.
    """
    out = os.path.abspath(out)
    if os.path.lexists(out) and not _replaceable(out):
        raise ExportError(f"{out} exists and is not an export: give another --out, or remove it")
    parent, name = os.path.split(make_parent(out))
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as beside:
        new = os.path.join(beside, "new")
        with writing(out):
            description = _write(source, new)
        write_text(os.path.join(new, DESCRIPTION), description.to_json())
        for folder, _, files in os.walk(new):
            for file in files:
                sync(os.path.join(folder, file))
        if os.path.exists(out):
            os.rename(out, os.path.join(beside, "old"))
        os.rename(new, out)
    return out


def inference(
    source: Source, image: tf.Tensor
) -> Tuple[Dict[str, tf.Variable], Dict[str, tf.Tensor]]:
    """Builds a network in the default graph, for `Source.weights` to restore.

    Args:
        source: the network.
        image: float32 [N, H, W, 3].

    Returns: the variables and the end points, by name.
    """
    # The initial values are never used. Zeros, unlike random values, are known to every TensorFlow.
    scope = Scope(values=lambda name, shape: tf.zeros(shape))
    described = source.description
    network = build_trained(described.network, described.pipeline, scope, source.outputs)
    return scope.variables, network(image)


def build_trained(network: Network, pipeline: str, scope: Scope, outputs: int) -> Any:
    """Builds a network that is not trained any more.

    Args:
        network: says what it is.
        pipeline: makes the views that it was trained on, whose size decides a VGG's variables.
        scope: makes the variables.
        outputs: number of the logits.

    Returns: a function from images, float32 [N, H, W, 3], to the end points by name.
    """
    plan = Pipeline(pipeline).compile(training=True)
    image = (plan.height, plan.width, 3)
    network = dataclasses.replace(network, reversible=False)  # only the backward pass needs it
    module: Any = networks.build(network, scope, image, outputs, weight_decay=0.0)
    return lambda image: module(image, False)[1]


def _write(source: Source, folder: str) -> Description:
    """Writes the SavedModel itself."""
    signature = tf.compat.v1.saved_model.predict_signature_def
    with tf.Graph().as_default():
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "image")
        variables, points = inference(source, image)
        with sessions.on_host() as session:
            source.weights.restore(session, variables)
            builder = tf.compat.v1.saved_model.Builder(folder)
            builder.add_meta_graph_and_variables(
                session,
                [tf.saved_model.SERVING],
                signature_def_map={
                    SERVING: signature({"image": image}, {"logits": points["logits"]}),
                    REPRESENTATION: signature({"image": image}, points),
                },
                strip_default_attrs=True,
            )
            builder.save()
        _forget_debug_names(os.path.join(folder, "saved_model.pb"))
        shapes = {name: tuple(point.shape.as_list()) for name, point in points.items()}
        return dataclasses.replace(source.description, end_points=shapes)


def _forget_debug_names(path: str) -> None:
    """Drops an attribute of variables that TensorFlow 1.15 does not know and nothing needs."""
    saved_model = SavedModel()
    with open(path, "rb") as file:
        saved_model.ParseFromString(file.read())
    for node in saved_model.meta_graphs[0].graph_def.node:
        node.attr.pop("debug_name", None)
    with open(path, "wb") as file:
        file.write(saved_model.SerializeToString())


def _replaceable(out: str) -> bool:
    if os.path.isdir(out) and not os.path.islink(out) and not os.listdir(out):
        return True
    try:
        read_description(out)
    except ExportError:
        return False
    return True
