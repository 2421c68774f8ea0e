"""Frozen graphs, and the offline models for Ascend NPUs that are compiled from them.

A frozen graph is one file without variables: the weights are constants, the batch has one size.
Huawei's offline compiler `atc` takes such a file.
"""

import contextlib
import logging
import shlex
import shutil
import subprocess
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import tensorflow as tf
from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from ..engines import sessions
from .description import ExportError, Shape
from .saved_model import Source, inference

_LARGEST = 2**31 - 2**20  # bytes: a protobuf message has less than 2 GiB, and the graph needs some


def write_frozen(source: Source, path: str, shape: Tuple[int, int, int, int]) -> List[str]:
    """Writes a frozen `GraphDef` in inference mode.

    Its input is the placeholder `image`; each end point is an operation of that name.

    Args:
        source: the network.
        path: path of the file to write; an existing file is replaced.
        shape: shape of `image`: images, height, width, channels.

    Returns: the names of the end points, `logits` among them.

    Raises: CheckpointError if the checkpoint does not fit, ExportError if the network is too large
        for one file, OSError.
    """
    frozen, end_points = freeze(source, shape)
    write_bytes(make_parent(path), frozen.SerializeToString())
    return list(end_points)


def freeze(source: Source, shape: Shape) -> Tuple[Any, Dict[str, Shape]]:
    """The frozen `GraphDef` that `write_frozen` writes, and the shapes of the end points by name.

    Args:
        source: the network.
        shape: shape of `image`; None for a size that is free.
    """
    with tf.Graph().as_default() as graph, sessions.on_host() as session:
        image = tf.compat.v1.placeholder(tf.float32, shape, "image")
        variables, points = inference(source, image)
        size = sum(4 * variable.shape.num_elements() for variable in variables.values())
        if size > _LARGEST:
            raise ExportError(
                f"the network's weights take {size / 2**30:.1f} GiB. A frozen graph or an ONNX "
                "file holds less than 2 GiB: write a SavedModel with --out"
            )
        for name, point in points.items():
            # The slash asks for exactly this name, although a layer's scope may have it already.
            tf.identity(point, f"{name}/")
        source.weights.restore(session, variables)
        # Without attributes that have their default: older TensorFlows do not know all of them.
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph, strip_default_attrs=True)
        with _without_warnings():
            frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
                session, meta_graph.graph_def, list(points)
            )
    return frozen, {name: tuple(point.shape.as_list()) for name, point in points.items()}


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """A context in which TensorFlow does not warn that a function is for TensorFlow 1."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class CompilerError(OSError):
    """`atc` is not installed, or failed."""


def compile_offline(
    frozen: str,
    out: str,
    soc_version: str,
    shape: Tuple[int, int, int, int],
    end_points: Sequence[str],
) -> None:
    """Compiles a frozen graph into an offline model with Huawei's `atc`, whose output is shown.

    Args:
        frozen: path of the graph.
        out: path of the model, ending in `.om`.
        soc_version: version of the NPU, such as Ascend310.
        shape: shape of `image`.
        end_points: names of the model's outputs.

    Raises: CompilerError if `atc` fails, or is not on PATH; then it names the command to run.
    """
    outputs = ";".join(f"{name}:0" for name in end_points)
    command = [
        "atc",
        f"--model={frozen}",
        "--framework=3",
        f"--output={make_parent(out)[: -len('.om')]}",  # atc adds the ending
        f"--soc_version={soc_version}",
        f"--input_shape=image:{','.join(map(str, shape))}",
        f"--out_nodes={outputs}",
    ]
    line = " ".join(map(shlex.quote, command))
    if shutil.which("atc") is None:
        raise CompilerError(
            f"there is no atc on PATH. It comes with Huawei's CANN toolkit, whose set_env.sh adds "
            f"it. The command to run is: {line}"
        )
    status = subprocess.call(command)
    if status:
        raise CompilerError(f"atc failed with status {status}. The command was: {line}")
