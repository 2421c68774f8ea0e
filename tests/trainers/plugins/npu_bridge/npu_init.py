"""The documented names and signatures, as far as Pretexture uses them, on the CPU.

What it is given is checked as the plugin does, and recorded in `calls.CALLS`; the work is that of
the Estimator. Where the plugin is surprising (a checkpoint every 100 steps unless told otherwise,
a job read from the environment), this is, too.
"""

import json
import os

import hccl_world
import tensorflow as tf
from calls import record
from tensorflow.contrib.mixed_precision.python import loss_scale_manager, loss_scale_optimizer

_OFF = tf.compat.v1.ConfigProto().graph_options.rewrite_options.OFF
_PRECISION_MODES = (
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "force_fp16",
    "must_keep_origin_dtype",
)


class ProfilingConfig:
    def __init__(self, enable_profiling=False, profiling_options=None):
        assert isinstance(enable_profiling, bool)
        json.loads(profiling_options)
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
        assert isinstance(enable_dump, bool) and isinstance(dump_path, str)
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
        enable_data_pre_proc=True,
        precision_mode=None,
        hcom_parallel=False,
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
            raise AttributeError("'NoneType' object has no attribute '_local_checkpoint_dir'")
        if not (os.environ.get("RANK_ID") or os.environ.get("POD_NAME")):
            raise ValueError("Load job info failed")
        assert os.environ["RANK_SIZE"].isdigit()
        if model_dir and config.model_dir and model_dir != config.model_dir:
            raise ValueError("`model_dir` are set both in constructor and `NPURunConfig`")
        rewriting = config.session_config.graph_options.rewrite_options
        assert rewriting.remapping == _OFF and rewriting.memory_optimization == _OFF
        optimizer = rewriting.custom_optimizers.add()
        optimizer.name = "NpuOptimizer"
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
        del rewriting.custom_optimizers[:]  # which this TensorFlow does not know

        def augmented(features, labels, mode):
            spec = model_fn(features, labels, mode)
            record("graph", mode=mode, graph=tf.compat.v1.get_default_graph())
            if mode != tf.estimator.ModeKeys.TRAIN:
                return spec
            hooks = [_Loop(config.iterations_per_loop, spec.train_op)]
            if hccl_world.size() > 1:
                hooks.append(NPUBroadcastGlobalVariablesHook(0, hccl_world.rank()))
            return spec._replace(training_hooks=(*hooks, *spec.training_hooks))

        super().__init__(augmented, model_dir, config, params, restore_from)


class _Loop(tf.compat.v1.train.SessionRunHook):
    """A call of the session makes several steps; what is fetched is of the last one."""

    def __init__(self, steps, train_op):
        self._steps, self._train_op = steps, train_op

    def before_run(self, run_context):
        for _ in range(self._steps - 1):
            run_context.session.run(self._train_op)


class NPUBroadcastGlobalVariablesHook(tf.compat.v1.train.SessionRunHook):
    def __init__(self, root_rank=None, index=None):
        assert root_rank == 0 and index == hccl_world.rank()

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
        gradients = [gradient for gradient, _ in pairs]
        means = tf.compat.v1.py_func(
            lambda *values: hccl_world.mean(values), gradients, [g.dtype for g in gradients]
        )
        for mean, gradient in zip(means, gradients):
            mean.set_shape(gradient.shape)
        return [(mean, variable) for mean, (_, variable) in zip(means, pairs)]

    def apply_gradients(self, *args, **kwargs):
        return self._optimizer.apply_gradients(*args, **kwargs)


class FixedLossScaleManager(loss_scale_manager.FixedLossScaleManager):
    def __init__(self, loss_scale, enable_overflow_check=True):
        record("FixedLossScaleManager", loss_scale=loss_scale)
        super().__init__(loss_scale)


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
