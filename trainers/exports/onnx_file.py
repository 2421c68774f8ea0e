"""Trained networks as ONNX files, which onnxruntime and the compilers of many devices read."""

import dataclasses
from typing import List

from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from .frozen import freeze
from .saved_model import Source

try:
    from tf2onnx import convert
except ImportError as error:
    raise ImportError(
        f"tf2onnx cannot be imported ({error}): pip install 'pretexture[onnx]'"
    ) from error

# The operations have kept their meaning since this version, and old runtimes read it, too.
OPSET = 13

DESCRIPTION_KEY = "pretexture.json"


def write_onnx(source: Source, path: str) -> List[str]:
    """Writes an ONNX model in inference mode.

    Its input `image` is float32 [N, H, W, 3], as that of a SavedModel: N, H and W are free. Its
    outputs are the end points by name. Its metadata have the text of a SavedModel's
    `pretexture.json` under that name.

    Args:
        source: the network.
        path: path of the file to write; an existing file is replaced.

    Returns: the names of the end points, `logits` among them.

    Raises: CheckpointError if the checkpoint does not fit, ExportError if the network is too large
        for one file, OSError.
    """
    graph, end_points = freeze(source, (None, None, None, 3))
    model, _ = convert.from_graph_def(
        graph,
        name=source.description.network.architecture,
        input_names=["image:0"],
        output_names=[f"{name}:0" for name in end_points],
        opset=OPSET,
        tensors_to_rename={f"{name}:0": name for name in ("image", *end_points)},
    )
    # The converter numbers free sizes, so one size gets several names.
    for value in (*model.graph.input, *model.graph.output):
        batch, *sides = value.type.tensor_type.shape.dim
        batch.dim_param = "N"
        if len(sides) == 3:
            for side, name in zip(sides[:2], "HW"):
                side.dim_param = name if value.name == "image" else f"{value.name}.{name}"
    described = dataclasses.replace(source.description, end_points=end_points)
    model.metadata_props.add(key=DESCRIPTION_KEY, value=described.to_json())
    write_bytes(make_parent(path), model.SerializeToString())
    return list(end_points)
