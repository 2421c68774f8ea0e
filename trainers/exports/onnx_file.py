"""Trained networks as ONNX files, which onnxruntime and the compilers of many devices read.

tf2onnx translates a graph whose weights are inputs, and the weights are added to its result. With
weights in the graph, it would copy them some seventy times.
"""

import contextlib
import dataclasses
import logging
from typing import Any, Dict, Iterator, List

import tensorflow as tf
from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from ..networks.layers import Initializer, Scope, Shape
from .description import DESCRIPTION, ExportError
from .saved_model import Source, build_trained

try:
    from onnx import numpy_helper
    from tf2onnx import convert
    from tf2onnx.optimizer.reshape_optimizer import ReshapeOptimizer
except ImportError as error:
    raise ImportError(
        f"tf2onnx cannot be imported ({error}): pip install 'pretexture[onnx]'"
    ) from error

# These operations have not changed since version 13, so old runtimes can read the files.
OPSET = 13

_LARGEST = 2**31 - 2**20  # bytes: a protobuf message has less than 2 GiB, and the graph needs some


def write_onnx(source: Source, path: str) -> List[str]:
    """Writes an ONNX model in inference mode.

    Its input `image` is float32 [N, H, W, 3], like that of a SavedModel: N, H and W are free. Its
    outputs are the end points by name. Its metadata has the text of `pretexture.json` under that
    name.

    Args:
        source: the network.
        path: path of the file to write; an existing file is replaced.

    Returns: the names of the end points, `logits` among them.

    Raises: CheckpointError if the checkpoint does not fit, ExportError if the network is too large
        for one file, OSError.
    """
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "image")
        scope = _Inputs()
        described = source.description
        network = build_trained(described.network, described.pipeline, scope, source.outputs)
        end_points = network(image)
        for name, point in end_points.items():
            # The slash asks for exactly this name, although a layer's scope may have it already.
            tf.identity(point, f"{name}/")
        shapes = {name: tuple(v.shape.as_list()) for name, v in scope.variables.items()}
        size = sum(4 * variable.shape.num_elements() for variable in scope.variables.values())
    if size > _LARGEST:
        raise ExportError(
            f"the network's weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than "
            "2 GiB: write a SavedModel with --out"
        )
    weights = source.weights.values(shapes)
    inputs = ["image", *shapes]
    with _without_warnings(), _outputs_keep_their_ranks():
        model, _ = convert.from_graph_def(
            graph.as_graph_def(),
            name=described.network.architecture,
            input_names=[f"{name}:0" for name in inputs],
            output_names=[f"{name}:0" for name in end_points],
            opset=OPSET,
            tensors_to_rename={f"{name}:0": name for name in (*inputs, *end_points)},
        )
    _check_ranks(model.graph, {name: point.shape.rank for name, point in end_points.items()})
    _set_weights(model.graph, weights)
    _name_sizes(model.graph)
    points = {name: tuple(point.shape.as_list()) for name, point in end_points.items()}
    described = dataclasses.replace(described, end_points=points)
    model.metadata_props.add(key=DESCRIPTION, value=described.to_json())
    write_bytes(make_parent(path), model.SerializeToString())
    return list(end_points)


class _Inputs(Scope):
    """Makes placeholders instead of variables."""

    def variable(
        self, name: str, shape: Shape, initializer: Initializer, statistic: bool = False
    ) -> tf.Tensor:
        self.variables[name] = tf.compat.v1.placeholder(tf.float32, shape, name)
        return self.variables[name]


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """A context in which TensorFlow does not warn that tf2onnx calls functions of TensorFlow 1."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _outputs_keep_their_ranks() -> Iterator[None]:
    """A context in which tf2onnx does not simplify a reshape whose result is an output.

    It may give the result a dimension more, and remove that only for the operations that follow.
    This happened, rarely, to layers of a single channel, which are reshaped and not transposed.
    """
    optimize = ReshapeOptimizer._optimize_reshape

    def unless_output(self: Any, node: Any, graph: Any) -> bool:
        return node.output[0] not in graph.outputs and optimize(self, node, graph)

    ReshapeOptimizer._optimize_reshape = unless_output
    try:
        yield
    finally:
        ReshapeOptimizer._optimize_reshape = optimize


def _check_ranks(graph: Any, ranks: Dict[str, int]) -> None:
    """Raises ExportError if an output has another number of dimensions than its end point."""
    for output in graph.output:
        found = len(output.type.tensor_type.shape.dim)
        if found != ranks[output.name]:
            raise ExportError(
                f"tf2onnx made an output {output.name} of {found} dimensions instead of "
                f"{ranks[output.name]}: try another version of tf2onnx, or --out for a SavedModel"
            )


def _set_weights(graph: Any, weights: Dict[str, Any]) -> None:
    """Turns all inputs but the first into constants, and transposes kernels once and for all."""
    del graph.input[1:]
    nodes, transposed = list(graph.node), {}
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Transpose" and node.input[0] in weights:
            name = transposed[node.output[0]] = node.input[0]
            weights[name] = weights[name].transpose(node.attribute[0].ints)
            continue
        for number, name in enumerate(node.input):
            node.input[number] = transposed.get(name, name)
        graph.node.append(node)
    for name, value in weights.items():
        graph.initializer.append(numpy_helper.from_array(value, name))


def _name_sizes(graph: Any) -> None:
    """Names the free sizes. The converter numbers them, so that N has a name in each output."""
    for value in (*graph.input, *graph.output):
        batch, *sides = value.type.tensor_type.shape.dim
        batch.dim_param = "N"
        if len(sides) == 3:
            for side, name in zip(sides[:2], "HW"):
                side.dim_param = name if value.name == "image" else f"{value.name}.{name}"
