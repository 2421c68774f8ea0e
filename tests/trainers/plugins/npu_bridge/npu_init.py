"""The names and signatures of the plugin's sources that Pretexture uses, on the CPU.

Arguments are checked as in the plugin, and recorded in `calls.CALLS`; the Estimator does the work.
Like the plugin, it saves a checkpoint every 100 steps unless told otherwise, reads the job from the
environment, and puts every session of the process on the NPU.
"""

import json
import os

import hccl_world
import tensorflow as tf
from calls import record
from tensorflow.contrib.mixed_precision.python import loss_scale_manager, loss_scale_optimizer
from tensorflow.python.client import session as sessions

_OFF = tf.compat.v1.ConfigProto().graph_options.rewrite_options.OFF
_PRECISION_MODES = (
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "force_fp16",
    "must_keep_origin_dtype",
)


_make_session = sessions.BaseSession.__init__


def _session(self, target="", graph=None, config=None):
    """Makes a session; it is on the NPU unless its configuration has `use_off_line` = false."""
    kept = tf.compat.v1.ConfigProto()
    kept.CopyFrom(config or kept)
    optimizers = kept.graph_options.rewrite_options.custom_optimizers
    npu = [each.parameter_map for each in optimizers if each.name == _NAME]
    chosen = [parameters["use_off_line"].b for parameters in npu]
    modes = [parameters["precision_mode"].s.decode() for parameters in npu]
    record("session", on_npu=all(chosen), by_default=not chosen, precision_modes=modes)
    del optimizers[:]  # TensorFlow without the plugin does not know it
    _make_session(self, target, graph, kept)


_NAME = "NpuOptimizer"
sessions.BaseSession.__init__ = _session


def npu_config_proto(config_proto=None):
    config_proto = config_proto or tf.compat.v1.ConfigProto()
    rewriting = config_proto.graph_options.rewrite_options
    if not any(each.name == _NAME for each in rewriting.custom_optimizers):
        optimizer = rewriting.custom_optimizers.add()
        optimizer.name = _NAME
        optimizer.parameter_map["use_off_line"].b = True
    config_proto.allow_soft_placement = True
    rewriting.remapping = rewriting.memory_optimization = _OFF
    return config_proto


class ProfilingConfig:
    def __init__(self, enable_profiling=False, profiling_options=None):
        assert isinstance(enable_profiling, bool)
        # Without this folder the plugin ends the process.
        assert os.path.isdir(json.loads(profiling_options)["output"])
        self.given = {"enable_profiling": enable_profiling, "profiling_options": profiling_options}


class DumpConfig:
    def __init__(
        self,
        enable_dump=False,
        dump_path=None,
        dump_step=None,
        dump_mode="output",
        enable_dump_debug=False,
        dump_debug_mode="all",
    ):
        assert isinstance(enable_dump, bool) and os.path.isdir(dump_path)
        assert dump_step is None or all(step.isdigit() for step in dump_step.split("|"))
        assert dump_mode in ("input", "output", "all")
        self.given = {"enable_dump": enable_dump, "dump_path": dump_path}
        self.given.update(dump_step=dump_step, dump_mode=dump_mode)


class NPURunConfig(tf.estimator.RunConfig):
    def __init__(
        self,
        iterations_per_loop=1,
        profiling_config=None,
        model_dir=None,
        tf_random_seed=None,
        save_summary_steps=0,
        save_checkpoints_steps=None,
        save_checkpoints_secs=None,
        session_config=None,
        keep_checkpoint_max=5,
        keep_checkpoint_every_n_hours=10000,
        log_step_count_steps=100,
        distribute=None,
        enable_data_pre_proc=True,
        precision_mode=None,
        enable_reduce_precision=False,
        variable_format_optimize=True,
        mix_compile_mode=False,
        hcom_parallel=True,
        graph_memory_max_size=None,
        variable_memory_max_size=None,
        auto_tune_mode=None,
        dump_config=None,
    ):
        if not isinstance(iterations_per_loop, int) or iterations_per_loop < 1:
            raise ValueError("iterations_per_loop must be positive")
        if json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster"):
            raise ValueError('"cluster" and "distribute" must all be set in ps mode')
        if profiling_config is not None and not isinstance(profiling_config, ProfilingConfig):
            raise ValueError("`profiling_config` must be provided with type `ProfilingConfig`")
        if dump_config is not None and not isinstance(dump_config, DumpConfig):
            raise ValueError("`dump_config` must be provided with type `DumpConfig`")
        assert precision_mode is None or precision_mode in _PRECISION_MODES
        assert isinstance(hcom_parallel, bool) and isinstance(enable_data_pre_proc, bool)
        if save_checkpoints_steps is None and save_checkpoints_secs is None:
            save_checkpoints_steps = 100
        self.iterations_per_loop = iterations_per_loop
        self.parameters = {
            "use_off_line": True,
            "iterations_per_loop": iterations_per_loop,
            "enable_data_pre_proc": enable_data_pre_proc,
            "precision_mode": precision_mode or "allow_fp32_to_fp16",
            "hcom_parallel": hcom_parallel,
        }
        for config in (profiling_config, dump_config):
            self.parameters.update(config.given if config else {})
        super().__init__(
            model_dir=model_dir,
            tf_random_seed=tf_random_seed,
            save_summary_steps=save_summary_steps,
            save_checkpoints_steps=save_checkpoints_steps,
            save_checkpoints_secs=save_checkpoints_secs,
            session_config=session_config,
            keep_checkpoint_max=keep_checkpoint_max,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
            log_step_count_steps=log_step_count_steps,
        )
        record("NPURunConfig", save_checkpoints_steps=save_checkpoints_steps, **self.parameters)


class NPUEstimator(tf.estimator.Estimator):
    def __init__(
        self,
        model_fn=None,
        model_dir=None,
        config=None,
        params=None,
        job_start_file="",
        warm_start_from=None,
    ):
        if not isinstance(config, NPURunConfig):
            raise ValueError("`config` must be provided with type `NPUConfigs`")
        if not os.environ.get("JOB_ID"):
            raise ValueError(
                "Load job info failed, please check whether `JOB_ID` is set in environment variable"
            )
        # The number stays a string, as in the plugin.
        index = os.environ.get("POD_NAME") or os.environ.get("RANK_ID", "")
        if model_dir and config.model_dir and model_dir != config.model_dir:
            raise ValueError("`model_dir` are set both in constructor and `NPURunConfig`")
        rewriting = config.session_config.graph_options.rewrite_options
        assert rewriting.remapping == _OFF and rewriting.memory_optimization == _OFF
        optimizer = rewriting.custom_optimizers.add()
        optimizer.name = _NAME
        for name, value in config.parameters.items():
            if isinstance(value, bool):
                optimizer.parameter_map[name].b = value
            elif isinstance(value, int):
                optimizer.parameter_map[name].i = value
            elif value is not None:
                optimizer.parameter_map[name].s = value.encode()
        restore_from = warm_start_from or os.environ.get("LOCAL_CHECKPOINT_DIR")
        restore_from = restore_from or os.environ.get("RESTORE_FROM")
        names = [each.name for each in rewriting.custom_optimizers]
        record("NPUEstimator", optimizers=names, warm_start_from=restore_from)

        def augmented(features, labels, mode):
            spec = model_fn(features, labels, mode)
            record("graph", mode=mode, graph=tf.compat.v1.get_default_graph())
            if mode != tf.estimator.ModeKeys.TRAIN:
                return spec
            hooks = []
            if hccl_world.size() > 1:
                hooks.append(NPUBroadcastGlobalVariablesHook(0, index))
            if config.iterations_per_loop > 1:
                hooks.append(_Loop(config.iterations_per_loop, spec.train_op))
                spec = spec._replace(train_op=tf.group(spec.train_op, name="IterationOp"))
            return spec._replace(training_hooks=(*hooks, *spec.training_hooks))

        super().__init__(augmented, model_dir, config, params, restore_from)


class _Loop(tf.compat.v1.train.SessionRunHook):
    """A call of the session makes several steps and returns the fetches of the last one."""

    def __init__(self, steps, train_op):
        self._steps, self._train_op = steps, train_op
        self._variables = []

    def begin(self):
        with tf.compat.v1.variable_scope("npu_runconfig", reuse=tf.compat.v1.AUTO_REUSE):
            for name in ("iterations_per_loop", "loop_cond", "zero", "one"):
                self._variables.append(
                    tf.compat.v1.get_variable(
                        name, [], tf.int32, trainable=False, use_resource=True
                    )
                )

    def after_create_session(self, session, coord):
        for variable, value in zip(self._variables, (self._steps - 1, 0, 0, 1)):
            variable.load(value, session)

    def before_run(self, run_context):
        for _ in range(self._steps - 1):
            run_context.session.run(self._train_op)


class NPUBroadcastGlobalVariablesHook(tf.compat.v1.train.SessionRunHook):
    def __init__(self, root_rank=None, index=None):
        assert root_rank == 0 and index == str(hccl_world.rank())

    def after_create_session(self, session, coord):
        variables = tf.compat.v1.trainable_variables()
        record("broadcast", variables=len(variables))
        values = hccl_world.first([session.run(variable) for variable in variables])
        for variable, value in zip(variables, values):
            variable.load(value, session)


class NPUDistributedOptimizer(tf.compat.v1.train.Optimizer):
    def __init__(self, optimizer, is_weight_update_sharding=False, name=None):
        super().__init__(use_locking=False, name=name or "Distributed")
        self._optimizer = optimizer
        record("NPUDistributedOptimizer", optimizer=type(optimizer).__name__)

    def compute_gradients(self, *args, **kwargs):
        pairs = self._optimizer.compute_gradients(*args, **kwargs)
        sums = _sums([gradient for gradient, _ in pairs])
        return [(total / hccl_world.size(), variable) for total, (_, variable) in zip(sums, pairs)]

    def apply_gradients(self, *args, **kwargs):
        return self._optimizer.apply_gradients(*args, **kwargs)


def _sums(values):
    """The reduction over all ranks."""
    sums = tf.compat.v1.py_func(
        lambda *arrays: hccl_world.total(arrays), values, [value.dtype for value in values]
    )
    for total, value in zip(sums, values):
        total.set_shape(value.shape)
    return sums


class FixedLossScaleManager(loss_scale_manager.FixedLossScaleManager):
    def __init__(self, loss_scale, enable_overflow_check=True):
        if loss_scale < 1:
            raise ValueError("loss scale must be at least 1.")
        record("FixedLossScaleManager", loss_scale=loss_scale)
        super().__init__(loss_scale)
        self.checks = enable_overflow_check


class ExponentialUpdateLossScaleManager(loss_scale_manager.ExponentialUpdateLossScaleManager):
    def __init__(
        self,
        init_loss_scale,
        incr_every_n_steps,
        decr_every_n_nan_or_inf=2,
        incr_ratio=2,
        decr_ratio=0.8,
    ):
        given = (init_loss_scale, incr_every_n_steps, decr_every_n_nan_or_inf)
        record("ExponentialUpdateLossScaleManager", given=(*given, incr_ratio, decr_ratio))
        super().__init__(*given, incr_ratio, decr_ratio)


class NPULossScaleOptimizer(loss_scale_optimizer.LossScaleOptimizer):
    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        record("NPULossScaleOptimizer", opt=type(opt).__name__, is_distributed=is_distributed)
        super().__init__(opt, loss_scale_manager)
        self._is_distributed = is_distributed

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        manager = self._loss_scale_manager
        finite = tf.constant(True)
        if getattr(manager, "checks", True):
            # The device's float status: whether something has overflowed since it was cleared.
            gradients = [gradient for gradient, _ in grads_and_vars if gradient is not None]
            sound = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
            status = tf.zeros([8]) + (1.0 - tf.cast(sound, tf.float32))
            if self._is_distributed:
                (status,) = _sums([status])
            finite = tf.reduce_all(tf.equal(status, 0.0))
        made = tf.cond(
            finite,
            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name),
            tf.no_op,
        )
        return tf.group(made, manager.update_loss_scale(finite))
