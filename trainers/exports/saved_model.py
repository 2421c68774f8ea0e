"""Trained networks as SavedModels, which any TensorFlow from 1.15 on writes and reads.

The graph is TensorFlow 1's on every TensorFlow, so there is one way to write it, and
`tf.saved_model.load(path).signatures` has both signatures on TensorFlow 2.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Tuple

import tensorflow as tf
from pretexture.loader.console.files import sync, write_text
from pretexture.loader.console.json_text import parse_object
from pretexture.loader.console.paths import make_parent
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from .. import networks, tasks
from ..engines import sessions
from ..networks.layers import Initializer, Scope, constant
from ..recipes import Recipe
from ..runs.checkpoints import CheckpointError, Checkpoints, checkpoint_path
from ..runs.disk import reason, writing
from ..runs.folder import WorkdirError, made_of, read_config
from ..tasks.patches import PatchTask

DESCRIPTION = "pretexture.json"
SERVING = "serving_default"
REPRESENTATION = "representation"
PREFIX = "module/"

Shape = Tuple[Optional[int], ...]


class ExportError(ValueError):
    """A folder that is no export, or that an export may not replace."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network: what it is built from.

    Attributes:
        checkpoint: its path, without the files' endings.
        prefix: of its variables' names; the model's own is "module/".
        recipe: describes the network.
        outputs: units of the logits.
        described: the fields of the recipe that are known.
        step: how many it was trained for, if that is known.
        patches: whether it embeds patches of an image, not whole images.
    """

    checkpoint: str
    prefix: str
    recipe: Recipe
    outputs: int
    described: Dict[str, Any]
    step: Optional[int]
    patches: bool


@dataclasses.dataclass(frozen=True)
class Description:
    """What stands in an export's `pretexture.json`.

    Attributes:
        recipe: the recipe's fields; of a published checkpoint those that describe the network, and
            `representation_pipeline`.
        step: how many the network was trained for, if that is known.
        patches: whether it embeds patches of an image, not whole images.
        channels: of the input `image`.
        end_points: shapes by name, None where a size is free.
        tensorflow: the version that wrote the export.
    """

    recipe: Dict[str, Any]
    step: Optional[int]
    patches: bool
    channels: int
    end_points: Dict[str, Shape]
    tensorflow: str

    @property
    def representation_pipeline(self) -> str:
        """How an image becomes what the network takes."""
        return self.recipe["representation_pipeline"]


def export_run(workdir: str, out: str, step: Optional[int] = None) -> str:
    """Writes a run's network as a SavedModel with a `pretexture.json`; see `write_saved_model`.

    Args:
        workdir: of the run.
        out: folder to make. An export that is there is replaced.
        step: whose checkpoint to take; None for the newest.

    Returns: `out`.

    Raises: WorkdirError where there is no run or no such checkpoint, CheckpointError, ExportError
        where `out` is something else than an export.
    """
    return write_saved_model(run_source(workdir, step), out)


def run_source(workdir: str, step: Optional[int] = None) -> Source:
    """The network of a run, from its newest checkpoint or that of a step. Raises WorkdirError."""
    config = read_config(workdir)
    recipe = config.recipe
    if config.module:
        raise WorkdirError(f"{workdir} holds an evaluation of {config.module}, an export itself")
    steps = Checkpoints(workdir).steps
    if not steps:
        raise WorkdirError(f"{workdir} has no checkpoint yet")
    if step is None:
        step = steps[-1]
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise WorkdirError(f"{workdir} has no checkpoint of step {step}, but of {known}")
    task = tasks.build(recipe)
    return Source(
        checkpoint=checkpoint_path(workdir, step),
        prefix=PREFIX,
        recipe=recipe,
        outputs=task.outputs,
        described=dataclasses.asdict(recipe),
        step=step,
        patches=isinstance(task, PatchTask),
    )


def write_saved_model(source: Source, out: str) -> str:
    """Writes a SavedModel.

    Its signature `serving_default` maps `image`, float32 [N, H, W, 3], to `logits`, its signature
    `representation` to all end points by name, both in inference mode. N, H and W are free.

    Args:
        source: the network.
        out: folder to make. It appears when it is whole. An export that is there is replaced.

    Returns: `out`.

    Raises: CheckpointError where the checkpoint lacks something, ExportError where `out` is
        something else than an export.
    """
    out = os.path.abspath(out)
    if os.path.lexists(out) and not _replaceable(out):
        raise ExportError(f"{out} exists and is no export: give another --out, or remove it")
    parent, name = os.path.split(make_parent(out))
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as beside:
        new = os.path.join(beside, "new")
        with writing(out):
            description = _write(source, new)
        text = json.dumps(dataclasses.asdict(description), indent=2)
        write_text(os.path.join(new, DESCRIPTION), text + "\n")
        for folder, _, files in os.walk(new):
            for file in files:
                sync(os.path.join(folder, file))
        if os.path.exists(out):
            os.rename(out, os.path.join(beside, "old"))
        os.rename(new, out)
    return out


def read_description(path: str) -> Description:
    """Reads `pretexture.json` of an export. Raises: ExportError where `path` is no export."""
    try:
        described = os.path.join(path, DESCRIPTION)
        with open(described, "rb") as file:
            values = parse_object(file.read(), described)
        points = {name: tuple(shape) for name, shape in values.pop("end_points").items()}
        description = made_of(Description, {**values, "end_points": points}, "it")
        if not isinstance(description.recipe["representation_pipeline"], str):
            raise ValueError("its representation_pipeline is not a string")
        return description
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(
            f"{path} is no export of scripts/export.py: there is no {DESCRIPTION}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{os.path.join(path, DESCRIPTION)} is not an export's description: {error!r}"
        ) from error


class Stored(Scope):
    """A scope whose variables are those of a checkpoint.

    Args:
        source: names the checkpoint.
        constants: make constants, which hold the values already, instead of variables.

    Raises: CheckpointError for a checkpoint that cannot be read.
    """

    def __init__(self, source: Source, constants: bool = False):
        super().__init__()
        self._source = source
        self._constants = constants
        self._misfits: List[str] = []
        try:
            self._reader = tf.train.load_checkpoint(source.checkpoint)
            self._shapes = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, ValueError) as error:
            raise CheckpointError(f"{source.checkpoint} is no checkpoint: {error}") from error

    def variable(
        self, name: str, shape: Tuple[int, ...], initializer: Initializer, statistic: bool = False
    ) -> tf.Variable:
        """As `Scope.variable`; where the checkpoint lacks it, `check` will say so."""
        stored = self.stored_name(name)
        found = self._shapes.get(stored)
        if found is None:
            self._misfits.append(f"there is no variable {stored}; the model's has {list(shape)}")
        elif list(found) != list(shape):
            self._misfits.append(f"{stored} has shape {list(found)}, the model's has {list(shape)}")
        elif self._constants:
            with _reading(self._source.checkpoint):
                value = self._reader.get_tensor(stored)
            self.variables[name] = tf.constant(value, name=name)
            return self.variables[name]
        return super().variable(name, shape, constant(0), statistic)

    def stored_name(self, name: str) -> str:
        """What the checkpoint calls a variable of the model."""
        return self._source.prefix + name[len(PREFIX) :]

    def check(self) -> None:
        """Raises CheckpointError where variables do not fit: names the first and counts them."""
        if self._misfits:
            raise CheckpointError(
                f"{self._source.checkpoint}: {self._misfits[0]} ({len(self._misfits)} of the "
                f"model's {len(self.variables)} variables do not fit)"
            )


def inference(
    source: Source, image: tf.Tensor, constants: bool = False
) -> Tuple[Stored, Dict[str, tf.Tensor]]:
    """The network as a graph.

    Args:
        source: the network.
        image: float32 [N, H, W, 3].
        constants: see `Stored`.

    Returns: the variables, and the end points by name.

    Raises: CheckpointError where the checkpoint does not fit.
    """
    scope = Stored(source, constants)
    recipe = dataclasses.replace(source.recipe, reversible=False)  # without its backward pass
    any_size: Any = (None, None, 3)
    network: Any = networks.build(recipe, scope, any_size, source.outputs)
    scope.check()
    _, points = network(image, False)
    return scope, points


def _write(source: Source, folder: str) -> Description:
    """Writes the SavedModel itself."""
    with tf.Graph().as_default():
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "image")
        scope, points = inference(source, image)
        variables = {scope.stored_name(name): v for name, v in scope.variables.items()}
        saver = tf.compat.v1.train.Saver(variables)
        with sessions.on_host() as session:
            with _reading(source.checkpoint):
                saver.restore(session, source.checkpoint)
            builder = tf.compat.v1.saved_model.Builder(folder)
            builder.add_meta_graph_and_variables(
                session,
                [tf.saved_model.SERVING],
                signature_def_map={
                    SERVING: _signature(image, {"logits": points["logits"]}),
                    REPRESENTATION: _signature(image, points),
                },
                strip_default_attrs=True,
            )
            builder.save()
        _forget_debug_names(os.path.join(folder, "saved_model.pb"))
        return Description(
            recipe=source.described,
            step=source.step,
            patches=source.patches,
            channels=3,
            end_points={name: tuple(point.shape.as_list()) for name, point in points.items()},
            tensorflow=tf.__version__,
        )


def _forget_debug_names(path: str) -> None:
    """Drops an attribute of variables that TensorFlow 1.15 does not know and nothing needs."""
    saved_model = SavedModel()
    with open(path, "rb") as file:
        saved_model.ParseFromString(file.read())
    for node in saved_model.meta_graphs[0].graph_def.node:
        node.attr.pop("debug_name", None)
    with open(path, "wb") as file:
        file.write(saved_model.SerializeToString())


@contextlib.contextmanager
def _reading(checkpoint: str) -> Iterator[None]:
    """Names the checkpoint where a checksum is wrong or a file cut short."""
    try:
        yield
    except (tf.errors.OpError, IndexError) as error:
        raise CheckpointError(f"{checkpoint} is damaged: {reason(error)}") from error


def _signature(image: tf.Tensor, outputs: Dict[str, tf.Tensor]) -> Any:
    saved_model = tf.compat.v1.saved_model
    return saved_model.build_signature_def(
        {"image": _info(image)},
        {name: _info(output) for name, output in outputs.items()},
        saved_model.signature_constants.PREDICT_METHOD_NAME,
    )


def _info(tensor: tf.Tensor) -> Any:
    return tf.compat.v1.TensorInfo(
        name=tensor.name,
        dtype=tensor.dtype.as_datatype_enum,
        tensor_shape=tensor.shape.as_proto(),
    )


def _replaceable(out: str) -> bool:
    if os.path.isdir(out) and not os.path.islink(out) and not os.listdir(out):
        return True
    try:
        read_description(out)
    except ExportError:
        return False
    return True
