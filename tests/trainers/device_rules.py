"""Checks that a graph keeps the rules of Ascend NPUs, node by node."""

import re

import tensorflow as tf

_TYPES = (tf.float64, tf.complex64, tf.complex128, tf.variant, tf.string)
_FORBIDDEN = re.compile(r".*Queue.*|Stage|Unstage|Barrier.*|.*PyFunc.*|.*Summary.*|Where|Unique.*")
# Conditions and loops: `tf.cond`, `tf.while_loop` and `tf.case`, before and since TensorFlow 2.
_FUNCTIONS = ("If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase")
_CALLS = (*_FUNCTIONS, "PartitionedCall", "StatefulPartitionedCall")


def broken(fetches):
    """The nodes that some tensors or operations need and that break a rule, each with the rule.

    The input pipeline is left out, because it runs on the host.
    """
    found = []
    seen = set()
    ahead = list(fetches)
    while ahead:
        op = ahead.pop()
        op = getattr(op, "op", op)  # the operation of a tensor
        if op in seen:
            continue
        seen.add(op)
        found += [f"{op.name} ({op.type}): {rule}" for rule in _rules(op)]
        if not _of_input(op):
            ahead += [*op.inputs, *op.control_inputs]
        if op.type in _CALLS:
            for function in _functions(op):
                ahead += [*function.outputs, *function.control_outputs]
    return found


def _of_input(op):
    return op.type == "IteratorGetNext" or op.type.endswith(("Dataset", "DatasetV2"))


def _rules(op):
    if _FORBIDDEN.fullmatch(op.type):
        yield "the device lacks this operation"
    # The sixth output of FusedBatchNormV3 is only for the backward pass on GPUs.
    for tensor in op.outputs[:5] if op.type == "FusedBatchNormV3" else op.outputs:
        if tensor.dtype.base_dtype in _TYPES:
            yield f"it has no {tensor.dtype.base_dtype.name}"
        elif tensor.dtype != tf.resource and not (tensor.shape.is_fully_defined() or _folds(op)):
            yield f"the shape {tensor.shape} is not static"


def _folds(op):
    """Whether all its inputs are constants, so that the host computes it beforehand."""
    return bool(op.inputs) and all(tensor.op.type == "Const" for tensor in op.inputs)


def _functions(op):
    graph = op.graph
    for attribute in op.node_def.attr.values():
        names = [attribute.func.name] if attribute.HasField("func") else []
        names += [function.name for function in attribute.list.func]
        for name in names:
            yield _body(graph, name)


def _body(graph, name):
    while name not in getattr(graph, "_functions", {}):
        graph = graph.outer_graph
    return graph._functions[name].graph
