"""A stand-in for Huawei's plugin for TensorFlow 2.6.5, with the names of its sources, on the CPU.

Arguments are checked and recorded in `calls.CALLS`; eager TensorFlow does the work.
"""

import json
import os
import types

import hccl_world
import tensorflow as tf
from calls import record
from tensorflow.python.eager import context

_opened = False


class _Options:
    """Options that have fixed names and sometimes fixed values, like those of the plugin."""

    def __init__(self, prefix="", **choices):
        self.__dict__.update(_prefix=prefix, _choices=choices)

    def __setattr__(self, name, value):
        if name not in self._choices:
            raise ValueError(f"NpuConfig has no option {name}, all options {list(self._choices)}")
        if name == "dump_path" or name == "profiling_options":
            # Without these folders the plugin ends the process.
            folder = value if name == "dump_path" else json.loads(value)["output"]
            assert os.path.isdir(folder)
        choices = self._choices[name]
        if choices and value not in choices:
            raise ValueError(f"'{value}' not in optional list {choices}")
        assert not _opened, "options must be set before the device is opened"
        record("option", name=self._prefix + name, value=value)


_MODES = ["allow_fp32_to_fp16", "force_fp16", "must_keep_origin_dtype", "allow_mix_precision"]
_global_options = _Options(precision_mode=_MODES)
_global_options.__dict__["profiling_config"] = _Options(
    "profiling_config.", enable_profiling=[True, False], profiling_options=None
)
_global_options.__dict__["dump_config"] = _Options(
    "dump_config.",
    enable_dump=[True, False],
    dump_path=None,
    dump_step=None,
    dump_mode=["input", "output", "all"],
)


def global_options():
    return _global_options


class _Handle:
    def as_default(self):
        record("as_default")
        return self


def open(device_id=None):
    global _opened
    if context.context()._context_handle is not None:
        raise RuntimeError("TensorFlow was used before the device was opened")
    if int(os.environ.get("RANK_SIZE", "1")) > 1 and not os.path.isfile(
        os.environ.get("RANK_TABLE_FILE", "")
    ):
        raise RuntimeError("You must specify a rank table file by set env RANK_TABLE_FILE")
    record("open", device_id=device_id)
    _opened = True
    return _Handle()


def _all_reduce(values, reduction="mean", fusion=1, fusion_id=-1, group="hccl_world_group"):
    assert _opened and isinstance(values, list)
    if hccl_world.size() == 1:
        return values
    record("all_reduce", values=len(values))
    reduce = {"mean": hccl_world.mean, "sum": hccl_world.total}[reduction]
    reduced = tf.numpy_function(
        lambda *arrays: reduce(arrays), values, [value.dtype for value in values]
    )
    for result, value in zip(reduced, values):
        result.set_shape(value.shape)
    return reduced


def _broadcast(values, root_rank=0, fusion=2, fusion_id=0, group="hccl_world_group"):
    assert _opened and root_rank == 0
    record("broadcast", values=len(values))
    arrays = hccl_world.first([value.numpy() for value in values])
    for value, array in zip(values, arrays):
        value.assign(array)


class _NpuLossScaleOptimizer(tf.keras.mixed_precision.LossScaleOptimizer):
    def __init__(
        self, inner_optimizer, dynamic=True, initial_scale=None, dynamic_growth_steps=None
    ):
        assert _opened
        given = {"dynamic": dynamic, "initial_scale": initial_scale}
        record("NpuLossScaleOptimizer", dynamic_growth_steps=dynamic_growth_steps, **given)
        super().__init__(inner_optimizer, dynamic, initial_scale, dynamic_growth_steps)
        self._last_step_finite = tf.Variable(False, trainable=False)

    def apply_gradients(self, grads_and_vars, name=None, experimental_aggregate_gradients=True):
        pairs = tuple(grads_and_vars)
        # The device's float status: whether something has overflowed since it was cleared.
        sound = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g, _ in pairs])
        (status,) = _all_reduce([tf.zeros([8]) + (1.0 - tf.cast(sound, tf.float32))], "sum", 0)
        finite = tf.reduce_all(tf.equal(status, 0.0))
        if self.dynamic:
            self._update(self._loss_scale, finite)
        self._last_step_finite.assign(finite)

        def apply():
            self._optimizer.apply_gradients(pairs, name, experimental_aggregate_gradients=False)
            return True

        def leave_out():
            self._optimizer.iterations.assign_add(1, read_value=False)
            return True

        return tf.cond(finite, apply, leave_out)

    def _update(self, scale, finite):
        grown = scale.counter + 1 >= scale.growth_steps
        factor = tf.where(finite, tf.where(grown, scale.multiplier, 1.0), 1.0 / scale.multiplier)
        scale.current_loss_scale.assign(tf.maximum(scale.current_loss_scale * factor, 1.0))
        counted = tf.where(tf.logical_and(finite, tf.logical_not(grown)), scale.counter + 1, 0)
        scale.counter.assign(counted)


distribute = types.SimpleNamespace(all_reduce=_all_reduce, broadcast=_broadcast)
train = types.SimpleNamespace(
    optimizer=types.SimpleNamespace(NpuLossScaleOptimizer=_NpuLossScaleOptimizer)
)
