"""Sessions of TensorFlow 1.

Once `npu_bridge` is imported, every session of the process runs on the NPU unless its configuration
says otherwise. So each session that is opened here says where it runs.
"""

import sys
from typing import Any

import tensorflow as tf

from .npu_options import NpuOptions

_BRIDGE = "npu_bridge.npu_init"


def on_host() -> Any:
    """A session of the default graph on the CPU, to read and write variables."""
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    if _BRIDGE in sys.modules:
        optimizer = config.graph_options.rewrite_options.custom_optimizers.add()
        optimizer.name = "NpuOptimizer"
        optimizer.parameter_map["use_off_line"].b = False
    return tf.compat.v1.Session(config=config)


def on_device(graph: tf.Graph, npu: NpuOptions) -> Any:
    """A session on the NPU if `npu_bridge` is in use, otherwise on a GPU if there is one.

    Args:
        graph: the graph.
        npu: holds the precision mode of an NPU.
    """
    bridge: Any = sys.modules.get(_BRIDGE)
    config = None
    if bridge:
        config = bridge.npu_config_proto()
        for optimizer in config.graph_options.rewrite_options.custom_optimizers:
            optimizer.parameter_map["use_off_line"].b = True
            optimizer.parameter_map["precision_mode"].s = npu.precision_mode.encode()
    return tf.compat.v1.Session(graph=graph, config=config)


def assign(session: Any, variable: tf.Variable, value: Any) -> None:
    """Sets a variable without adding to the session's graph."""
    session.run(variable.initializer, {variable.initializer.inputs[1]: value})
