"""Frozen graphs, and the offline models for Ascend NPUs that are compiled from them.

A frozen graph is one file without variables: the weights are constants, the batch has one size.
Huawei's offline compiler `atc` takes such a file.
"""

import shlex
import shutil
import subprocess
from typing import List, Sequence, Tuple

import tensorflow as tf
from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from ..engines import sessions
from .saved_model import Source, inference


def write_frozen(source: Source, path: str, shape: Tuple[int, int, int, int]) -> List[str]:
    """Writes a frozen `GraphDef` in inference mode.

    Its input is the placeholder `image`; each end point is an operation of that name.

    Args:
        source: the network.
        path: path of the file to write; an existing file is replaced.
        shape: shape of `image`: images, height, width, channels.

    Returns: the names of the end points, `logits` among them.

    Raises: CheckpointError if the checkpoint does not fit, OSError.
    """
    with tf.Graph().as_default() as graph, sessions.on_host() as session:
        image = tf.compat.v1.placeholder(tf.float32, shape, "image")
        variables, points = inference(source, image)
        for name, point in points.items():
            # The slash asks for exactly this name, although a layer's scope may have it already.
            tf.identity(point, f"{name}/")
        source.weights.restore(session, variables)
        # Without attributes that have their default: older TensorFlows do not know all of them.
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph, strip_default_attrs=True)
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, meta_graph.graph_def, list(points)
        )
    write_bytes(make_parent(path), frozen.SerializeToString())
    return list(points)


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
