"""Frozen graphs, and offline models for Ascend NPUs made of them.

A frozen graph is one file without variables: the weights are constants, the batch has one size. It
is what Huawei's offline compiler `atc` takes.
"""

import shlex
import shutil
import subprocess
from typing import List, Sequence, Tuple

import tensorflow as tf
from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from .saved_model import Source, inference


def write_frozen(source: Source, path: str, shape: Tuple[int, int, int, int]) -> List[str]:
    """Writes a frozen `GraphDef` in inference mode.

    Its input is the placeholder `image`; each end point is an operation of that name.

    Args:
        source: the network.
        path: of the file to write; one that is there is replaced.
        shape: of `image`: images, height, width, channels.

    Returns: the names of the end points, `logits` among them.

    Raises: CheckpointError where the checkpoint does not fit, OSError.
    """
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, shape, "image")
        _, points = inference(source, image, constants=True)
        for name, point in points.items():
            tf.identity(point, name)
        # Without attributes that are as by default: older TensorFlows do not know all of them.
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph, strip_default_attrs=True)
    write_bytes(make_parent(path), meta_graph.graph_def.SerializeToString())
    return list(points)


class CompilerError(OSError):
    """`atc` is not there, or failed."""


def compile_offline(
    frozen: str,
    out: str,
    soc_version: str,
    shape: Tuple[int, int, int, int],
    end_points: Sequence[str],
) -> None:
    """Compiles a frozen graph into an offline model by Huawei's `atc`, whose output passes through.

    Args:
        frozen: path of the graph.
        out: path of the model, ending in `.om`.
        soc_version: of the NPU, such as Ascend310.
        shape: of `image`.
        end_points: the model's outputs.

    Raises: CompilerError where there is no `atc` on PATH, with the command to run where there is
        one, or where `atc` fails.
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
            f"there is no atc on PATH. It comes with Huawei's CANN toolkit, whose set_env.sh puts "
            f"it there. The command to run is: {line}"
        )
    status = subprocess.call(command)
    if status:
        raise CompilerError(f"atc failed with status {status}. The command was: {line}")
