"""Huawei's plugins, as the engines use them: `npu_bridge` and `npu_device`.

Neither is on PyPI: they come with the CANN toolkit. Names and signatures are those of TF Adapter's
documentation; `docs/ascend.md` says what of this has run on the hardware.
"""

import importlib
import json
import os
from typing import Any, Dict, List, Sequence, Tuple

import tensorflow as tf

from ..recipes import Recipe
from . import environment
from .devices import cluster
from .npu_options import NpuOptions
from .optimization import LossScale, Step

_PLUGINS = {"npu_bridge.npu_init": "1.15", "npu_device": "2.6.5"}


def plugin(name: str) -> Any:
    """Imports a plugin.

    Args:
        name: "npu_bridge.npu_init" or "npu_device".

    Raises: ValueError where TensorFlow is not the version that it is for; ImportError where it is
        not installed. Both say what to do.
    """
    package, version = name.split(".")[0], _PLUGINS[name]
    if not tf.__version__.startswith(version):
        raise ValueError(
            f"--device npu needs npu_device (TensorFlow 2.6.5) or npu_bridge (TensorFlow 1.15), "
            f"and this is TensorFlow {tf.__version__}; docs/ascend.md says how to set them up"
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"--device npu needs {package}, Huawei's TF Adapter for TensorFlow {version}. It is "
            f"not on PyPI: its wheel comes with the CANN toolkit, whose set_env.sh puts it on "
            f"PYTHONPATH; docs/ascend.md says how ({error})"
        ) from error


def job_environment() -> None:
    """Makes the environment what the plugins, which read it, can take.

    Raises: ValueError where it names workers by TF_CONFIG, which is not for NPUs.
    """
    if cluster().workers > 1:
        raise ValueError(
            "TF_CONFIG names several workers, and NPUs are found by RANK_ID and RANK_SIZE: give "
            "scripts/launch.py a command in which --device npu can be seen, or set these"
        )
    if not os.environ.get("TF_CONFIG", "{}"):
        del os.environ["TF_CONFIG"]  # `NPURunConfig` reads it as JSON
    for name in ("LOCAL_CHECKPOINT_DIR", "RESTORE_FROM"):
        os.environ.pop(name, None)  # it would start from there, and not where the run was
    for name, value in (("JOB_ID", "10086"), ("RANK_ID", "0"), ("RANK_SIZE", "1")):
        if not os.environ.get(name):
            os.environ[name] = value


def ranks() -> Tuple[int, int]:
    """Which rank this process is, and of how many, as RANK_ID and RANK_SIZE say; (0, 1) without.

    Raises: ValueError for numbers that make no sense, or several ranks without RANK_TABLE_FILE.
    """
    size = environment.whole("RANK_SIZE", 1, 1)
    if size == 1:
        return 0, 1
    if not os.environ.get("RANK_ID"):
        raise ValueError(
            f"RANK_SIZE is {size} and RANK_ID is not set: start the run by scripts/launch.py"
        )
    rank = environment.whole("RANK_ID", 0, 0, size)
    table = os.environ.get("RANK_TABLE_FILE", "")
    if not os.path.isfile(table):
        raise ValueError(
            f"RANK_SIZE is {size}, and RANK_TABLE_FILE names no file ({table!r}): HCCL finds the "
            f"devices by it; scripts/launch.py --rank-table FILE sets it"
        )
    return rank, size


def several_ranks() -> bool:
    """Whether RANK_SIZE says so. Raises ValueError if it is not a number."""
    return environment.whole("RANK_SIZE", 1, 1) > 1


def make_folders(options: NpuOptions) -> None:
    """Makes the folders that the device writes to, without which the plugin ends the process.

    Raises: OSError.
    """
    for folder in (options.profiling_dir, options.dump_dir):
        if folder is not None:
            os.makedirs(folder, exist_ok=True)


def profiling_options(folder: str) -> str:
    """What is profiled, and where to, as both plugins take it: JSON."""
    return json.dumps({"output": folder, "training_trace": "on", "task_trace": "on"})


# npu_bridge, for TensorFlow 1.15


def run_config(bridge: Any, options: NpuOptions, model_dir: str, several: bool) -> Any:
    """An `NPURunConfig`.

    Args:
        bridge: the plugin.
        options: see there.
        model_dir: of the Estimator.
        several: whether the run has several devices, whose collective operations then may overlap.
    """
    session = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    off = session.graph_options.rewrite_options.OFF
    session.graph_options.rewrite_options.remapping = off
    session.graph_options.rewrite_options.memory_optimization = off
    profiling = dump = None
    if options.profiling_dir is not None:
        profiling = bridge.ProfilingConfig(
            enable_profiling=True, profiling_options=profiling_options(options.profiling_dir)
        )
    if options.dump_dir is not None:
        dump = bridge.DumpConfig(
            enable_dump=True,
            dump_path=options.dump_dir,
            dump_step=options.dump_steps,
            dump_mode=options.dump_mode,
        )
    return bridge.NPURunConfig(
        model_dir=model_dir,
        iterations_per_loop=options.iterations_per_loop,
        precision_mode=options.precision_mode,
        profiling_config=profiling,
        dump_config=dump,
        hcom_parallel=several,
        session_config=session,
        # 0 is never; None would mean every 100 steps.
        save_checkpoints_steps=0,
        save_summary_steps=0,
        log_step_count_steps=None,
    )


def bridge_optimizer(
    bridge: Any, optimizer: Any, recipe: Recipe, options: NpuOptions, several: bool
) -> Tuple[Any, Any]:
    """An optimiser that averages gradients over devices and scales the loss, as far as needed.

    Args:
        bridge: the plugin.
        optimizer: a `tf.compat.v1.train.Optimizer`.
        recipe: its `loss_scale` says how.
        options: of the device.
        several: whether there are several devices.

    Returns: that, to be used by `compute_gradients` and `apply_gradients`, and the scale, a float32
        tensor or variable, None where there is none.
    """
    if several:
        optimizer = bridge.NPUDistributedOptimizer(optimizer)
    if not options.sixteen_bits:
        return optimizer, None
    if recipe.loss_scale:
        manager = bridge.FixedLossScaleManager(recipe.loss_scale)
    else:
        # As `LossScale` does it.
        manager = bridge.ExponentialUpdateLossScaleManager(
            init_loss_scale=LossScale.INITIAL,
            incr_every_n_steps=LossScale.INTERVAL,
            decr_every_n_nan_or_inf=1,
            incr_ratio=2,
            decr_ratio=0.5,
        )
    scaled = bridge.NPULossScaleOptimizer(optimizer, manager, is_distributed=several)
    return scaled, manager.get_loss_scale()


# npu_device, for TensorFlow 2.6.5


def open_npu(device: Any, options: NpuOptions) -> None:
    """Makes an NPU the default device; to be called before anything else of TensorFlow.

    Args:
        device: the plugin.
        options: see there. Which NPU is what ASCEND_DEVICE_ID says, 0 without it.

    Raises: ValueError for options that `npu_device` has not; OSError.
    """
    if options.iterations_per_loop != 1:
        raise ValueError(
            "--iterations-per-loop is for TensorFlow 1.15, whose Estimator loops on the device; on "
            "TensorFlow 2.6.5 each step is a call"
        )
    make_folders(options)
    chosen = device.global_options()
    chosen.precision_mode = options.precision_mode
    if options.profiling_dir is not None:
        chosen.profiling_config.enable_profiling = True
        chosen.profiling_config.profiling_options = profiling_options(options.profiling_dir)
    if options.dump_dir is not None:
        chosen.dump_config.enable_dump = True
        chosen.dump_config.dump_path = options.dump_dir
        chosen.dump_config.dump_mode = options.dump_mode
        if options.dump_steps is not None:
            chosen.dump_config.dump_step = options.dump_steps
    device.open(environment.whole("ASCEND_DEVICE_ID", 0)).as_default()


class NpuLossScale:
    """`LossScale` by the plugin, which asks the device whether an operation overflowed.

    Some NPUs saturate instead of giving infinities, so gradients alone do not tell.

    Args:
        device: the plugin.
        recipe: its `loss_scale` says how.
        optimizer: that is to be scaled.
    """

    def __init__(self, device: Any, recipe: Recipe, optimizer: Any):
        fixed = recipe.loss_scale
        self._optimizer = device.train.optimizer.NpuLossScaleOptimizer(
            _keras(optimizer),
            dynamic=not fixed,
            initial_scale=fixed or LossScale.INITIAL,
            dynamic_growth_steps=None if fixed else LossScale.INTERVAL,
        )
        self._dynamic = not fixed

    @property
    def value(self) -> tf.Tensor:
        """The scale, a float32 scalar."""
        return tf.convert_to_tensor(self._optimizer.loss_scale)

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss times the scale."""
        return self._optimizer.get_scaled_loss(loss)

    def unscaled(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """The gradients divided by the scale."""
        return self._optimizer.get_unscaled_gradients(gradients)

    def apply(self, place: Any, optimizer: Any, steps: Sequence[Step]) -> None:
        """Makes a step by the optimiser, unless something overflowed, and takes note."""
        self._optimizer.apply_gradients(steps)

    def state(self) -> Dict[str, tf.Variable]:
        """The variables that a checkpoint holds, by name."""
        if not self._dynamic:
            return {}
        # Keras shows the scale as a tensor only.
        scale = self._optimizer._loss_scale
        return {"loss_scale": scale.current_loss_scale, "good_steps": scale.counter}


def _keras(optimizer: Any) -> Any:
    """A `tf.compat.v1.train.Optimizer` in the clothes of a Keras one, which the plugin asks for."""

    class Wrapped(tf.keras.optimizers.Optimizer):
        """Applies gradients by the other one."""

        def __init__(self):
            super().__init__("wrapped")

        def apply_gradients(self, grads_and_vars, name=None, **how):
            """Makes a step."""
            return optimizer.apply_gradients(grads_and_vars)

    return Wrapped()
