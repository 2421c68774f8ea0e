"""How the engines use Huawei's plugins, `npu_bridge` and `npu_device`.

Neither is on PyPI: they come with the CANN toolkit. Names and signatures are those of TF Adapter's
documentation. What has run on the hardware is listed in
https://github.com/pretexture/pretexture/blob/main/docs/ascend.md.
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

_DOCUMENT = "https://github.com/pretexture/pretexture/blob/main/docs/ascend.md"
_PLUGINS = {"npu_bridge.npu_init": "1.15", "npu_device": "2.6.5"}


def plugin(name: str) -> Any:
    """Imports a plugin.

    Args:
        name: "npu_bridge.npu_init" or "npu_device".

    Raises: ValueError if the plugin is for another TensorFlow; ImportError if it is not installed.
        Both say what to do.
    """
    package, version = name.split(".")[0], _PLUGINS[name]
    if not tf.__version__.startswith(version):
        raise ValueError(
            f"--device npu needs npu_device (TensorFlow 2.6.5) or npu_bridge (TensorFlow 1.15), "
            f"but this is TensorFlow {tf.__version__}; to set them up, see {_DOCUMENT}"
        )
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"--device npu needs {package}, Huawei's TF Adapter for TensorFlow {version}. It is "
            f"not on PyPI: its wheel comes with the CANN toolkit, whose set_env.sh puts it on "
            f"PYTHONPATH; see {_DOCUMENT} ({error})"
        ) from error


def job_environment() -> None:
    """Sets or removes the variables of the environment that the plugins read.

    Raises: ValueError if TF_CONFIG, which is not for NPUs, names several workers.
    """
    if cluster().workers > 1:
        raise ValueError(
            "TF_CONFIG names several workers, but NPUs are found by RANK_ID and RANK_SIZE: give "
            "pretexture launch a command that contains --device npu, or set these variables"
        )
    if not os.environ.get("TF_CONFIG", "{}"):
        del os.environ["TF_CONFIG"]  # `NPURunConfig` reads it as JSON
    for name in ("LOCAL_CHECKPOINT_DIR", "RESTORE_FROM"):
        os.environ.pop(name, None)  # the plugin would start from there instead of the workdir
    for name, value in (("JOB_ID", "10086"), ("RANK_ID", "0"), ("RANK_SIZE", "1")):
        if not os.environ.get(name):
            os.environ[name] = value


def ranks() -> Tuple[int, int]:
    """The number of this process's rank and of all ranks, from RANK_ID and RANK_SIZE.

    Returns: (0, 1) if the variables are not set.

    Raises: ValueError for numbers that make no sense, or several ranks without RANK_TABLE_FILE.
    """
    size = environment.whole("RANK_SIZE", 1, 1)
    if size == 1:
        return 0, 1
    if not os.environ.get("RANK_ID"):
        raise ValueError(
            f"RANK_SIZE is {size} and RANK_ID is not set: start the run with pretexture launch"
        )
    rank = environment.whole("RANK_ID", 0, 0, size)
    table = os.environ.get("RANK_TABLE_FILE", "")
    if not os.path.isfile(table):
        raise ValueError(
            f"RANK_SIZE is {size}, but RANK_TABLE_FILE names no file ({table!r}): HCCL finds the "
            f"devices by it; pretexture launch --rank-table FILE sets it"
        )
    return rank, size


def several_ranks() -> bool:
    """Whether RANK_SIZE says that there are several. Raises ValueError if it is not a number."""
    return environment.whole("RANK_SIZE", 1, 1) > 1


def make_folders(options: NpuOptions) -> None:
    """Makes the folders that the device writes to; without them the plugin ends the process.

    Raises: OSError.
    """
    for folder in (options.profiling_dir, options.dump_dir):
        if folder is not None:
            os.makedirs(folder, exist_ok=True)


def profiling_options(folder: str) -> str:
    """What is profiled and the folder for it, in JSON, as both plugins take it."""
    return json.dumps({"output": folder, "training_trace": "on", "task_trace": "on"})


# npu_bridge, for TensorFlow 1.15


def run_config(bridge: Any, options: NpuOptions, model_dir: str, several: bool) -> Any:
    """An `NPURunConfig`.

    Args:
        bridge: the plugin.
        options: how the NPU runs.
        model_dir: folder of the Estimator.
        several: whether there are several devices, whose collective operations may then overlap.
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
    """An optimiser that averages gradients over devices and scales the loss, if needed.

    Args:
        bridge: the plugin.
        optimizer: a `tf.compat.v1.train.Optimizer`.
        recipe: its `loss_scale` says whether the scale is fixed.
        options: how the NPU runs.
        several: whether there are several devices.

    Returns: the optimiser, with `compute_gradients` and `apply_gradients`, and the scale, a float32
        tensor or variable; None if the loss is not scaled.
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
    """Makes an NPU the default device; call it before anything else of TensorFlow.

    Args:
        device: the plugin.
        options: how the NPU runs. ASCEND_DEVICE_ID is its number; default 0.

    Raises: ValueError for options that `npu_device` does not have; OSError.
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

    Some NPUs saturate instead of giving infinities, so the gradients do not show it.

    Args:
        device: the plugin.
        recipe: its `loss_scale` says whether the scale is fixed.
        optimizer: applies the gradients.
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
        """Makes a step unless something overflowed, and updates the scale."""
        self._optimizer.apply_gradients(steps)

    def state(self) -> Dict[str, tf.Variable]:
        """The variables that a checkpoint holds, by name."""
        if not self._dynamic:
            return {}
        # Keras has no public way to the variables.
        scale = self._optimizer._loss_scale
        return {"loss_scale": scale.current_loss_scale, "good_steps": scale.counter}


def _keras(optimizer: Any) -> Any:
    """A `tf.compat.v1.train.Optimizer` as a Keras optimiser, which the plugin asks for."""

    class Wrapped(tf.keras.optimizers.Optimizer):
        """Passes gradients on to the other optimiser."""

        def __init__(self):
            super().__init__("wrapped")

        def apply_gradients(self, grads_and_vars, name=None, **how):
            """Makes a step."""
            return optimizer.apply_gradients(grads_and_vars)

    return Wrapped()
