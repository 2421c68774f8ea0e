"""Steps as `tf.function`s, run eagerly: TensorFlow 2 on CPU, GPU and, by `npu_device`, on NPU."""

import contextlib
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.console.interrupt import Interrupt

from ..networks.layers import Scope
from ..runs import checkpoints
from ..runs.skipped import each_once
from ..tasks.task import Batch, objective
from . import ascend, engine, optimization
from .devices import choose_gpus, cluster
from .engine import Place, StepResult, Sums, Wishes, awaited, counted_sums, padded
from .meeting import meet, together
from .npu_options import DEFAULTS, NpuOptions
from .places import Npu, Strategy


def open_device(name: str, devices: int = 1, npu: NpuOptions = DEFAULTS) -> Place:
    """Chooses where steps run; call it before anything else of TensorFlow.

    If TF_CONFIG (CPU, GPU) or RANK_ID and RANK_SIZE (NPU) say so, this process is one of several.

    Args:
        name: "auto" takes GPUs if there are any; "cpu", "gpu" or "npu".
        devices: number of this process's devices; any number of CPUs, to try things out.
        npu: how an NPU runs.

    Raises: ValueError if there are no such devices, ImportError if their plugin is missing.
    """
    if name == "npu":
        if devices != 1:
            raise ValueError(
                f"--devices {devices}: each NPU needs its own process; pretexture launch "
                f"--nproc {devices} starts them"
            )
        device = ascend.plugin("npu_device")
        ascend.job_environment()
        rank, ranks = ascend.ranks()
        ascend.open_npu(device, npu)
        return Npu(device, npu, rank, ranks)
    those = cluster()
    gpus = choose_gpus(name, devices)
    if name == "auto" and not gpus and those.workers > 1 and tf.test.is_built_with_cuda():
        raise ValueError(
            f"worker {those.worker} sees no GPU, but others may: give --device cpu or gpu, or "
            f"start fewer processes on a machine"
        )
    words = "CPU"
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        words = details.get("device_name", gpus[0].name)
    elif devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    if those.workers > 1:
        if devices > 1 and not gpus:
            raise ValueError("--devices: several workers have one CPU each")
        meet(those.addresses, those.worker)
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise ConnectionError(
                f"worker {those.worker} cannot join the others; is its port free? "
                f"({str(error).splitlines()[0]})"
            ) from error
    elif devices > 1:
        kind = "GPU" if gpus else "CPU"
        strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(devices)])
    else:
        return Place(words, asynchronous=bool(gpus))
    total = strategy.num_replicas_in_sync
    words = f"{total} x {words}" + (f", {those.workers} workers" if those.workers > 1 else "")
    return Strategy(strategy, words, those.worker, those.workers, asynchronous=bool(gpus))


class Engine(engine.Engine):
    """Makes one step for each call of a compiled function.

    A GPU still works on a step when the call returns. Then the follower is told of a step only
    after the next one was started, so that the GPU never waits for Python. It is told at once if it
    needs the state after that step, or if a worker wishes something.
    """

    def _build(self) -> Scope:
        dtype = compute_dtype(self._recipe.precision)
        with self.place.scope():
            scope = Scope(self._task.scope, self._seed)
            self._model = self._model_in(scope, dtype)
            self._step = optimization.counter("global_step", 0, tf.int64)
            self._optimizer = optimization.optimizer(self._recipe, self._rate, self._step)
            self._scaling = self.place.loss_scale(self._recipe, self._optimizer, dtype)
        self._variables = {**scope.variables, "global_step": self._step}
        self._averages = scope.averages
        self._trained = scope.trained
        self._train_step: Optional[Any] = None
        return scope

    @property
    def step(self) -> int:
        return int(self._step.numpy())

    def step_graph(self) -> tf.Graph:
        return self._compiled().get_concrete_function().graph

    def fit(
        self,
        loader: engine.Batches,
        steps: int,
        follower: engine.Follower,
        interrupt: Interrupt,
    ) -> None:
        several = self.place.workers > 1
        stepping = interrupt.stepping if several else contextlib.nullcontext
        left = range(self.step + 1, steps + 1)
        untold: Optional[Callable[[], StepResult]] = None  # the step before
        for step, (batch, skipped, waited) in zip(left, awaited(loader, interrupt)):
            wishes = follower.wishes() if several else Wishes()
            image = batch.image if follower.shows(step) else None
            with stepping():
                made = self._make_step(step, batch, wishes, skipped, waited, image)
                before = untold() if untold else None
            agreed = Wishes() if several else follower.wishes()
            if before:
                follower.after(before._replace(agreed=Wishes()))
                agreed = agreed.joined(before.agreed)
            untold = made
            if not self.place.asynchronous or any(agreed) or follower.needs_state(step):
                untold = None
                with stepping():
                    result = made()
                if not follower.after(result._replace(agreed=agreed.joined(result.agreed))):
                    return
        if untold:
            follower.after(untold())

    def measure(self, loader: engine.Batches, after: Any) -> Tuple[int, Dict[str, float]]:
        total = Sums(after)
        for batch in each_once(loader):
            self._task.check_labels(batch.label, batch.index)
            # The last batch is padded, so that shapes never change.
            found = self._evaluate_step(_tensors(padded(batch, loader.batch_size)))
            total.add((batch.index >= 0).sum(), found)
        return total.images, total.sums

    def state(self) -> Mapping[str, Any]:
        with together(self.place.workers):
            state = dict(self.place.values({**self._all_variables(), **self._scale()}))
        if "good_steps" in state:  # Keras counts them in 64 bits
            state["good_steps"] = tf.cast(state["good_steps"], tf.int32)
        return state

    def restore(self, path: str) -> Dict[str, Any]:
        return checkpoints.restore(path, self._all_variables(), self._scale())

    def restore_model(self, path: str) -> None:
        checkpoints.restore(path, self._variables)
        for name, average in self._averages.items():
            variable = self._variables[name]
            variable.assign(average.unbiased(variable.numpy(), self.step))

    def start(self) -> None:
        place, step = self.place, self.step
        if place.workers == 1:
            return
        with together(place.workers):
            place.start(list({**self._all_variables(), **self._scale()}.values()))
        if abs(self._mean(step) - step) > 0.25:  # means are rounded, and steps are whole
            raise ValueError(
                f"worker {place.worker} would continue after step {step}, others after another "
                f"step: --workdir must be the same folder for all of them"
            )

    def wait(self) -> None:
        if self.place.workers > 1:
            self._mean(0.0)

    def _mean(self, value: float) -> float:
        """The mean over all workers."""
        place = self.place

        @tf.function(autograph=False)
        def mean(value: tf.Tensor) -> tf.Tensor:
            return place.run(lambda nothing, value: place.mean(value), (), value)

        with together(place.workers):
            return float(mean(tf.constant([value], tf.float32))[0])

    def _scale(self) -> Dict[str, tf.Variable]:
        """The loss scale's variables, which a checkpoint may lack."""
        return self._scaling.state() if self._scaling else {}

    def _all_variables(self) -> Dict[str, tf.Variable]:
        self._compiled()
        return {**self._variables, **optimization.state(self._optimizer, self._trained)}

    def _compiled(self) -> Any:
        """The training step; compiling it also makes the optimiser's variables."""
        if self._train_step is None:
            signature = Batch(*(tf.TensorSpec(part.shape, part.dtype) for part in self._spec))

            def step(batch: Batch, told: tf.Tensor) -> Any:
                return self.place.run(self._train, batch, told)

            # Nothing here needs AutoGraph, which would hide where an error comes from.
            self._train_step = tf.function(
                step, input_signature=[signature, tf.TensorSpec([3])], autograph=False
            )
            self._train_step.get_concrete_function()
        return self._train_step

    def _make_step(
        self,
        step: int,
        batch: Any,
        wishes: Wishes,
        skipped: int,
        waited: float,
        image: Optional[np.ndarray],
    ) -> Callable[[], StepResult]:
        """Makes a step, or has a GPU make it; the function that is returned waits for its result.

        The result has what any worker wishes, and the sum of the workers' skipped records.
        """
        self._task.check_labels(batch.label, batch.index)
        workers = self.place.workers
        with together(workers):
            told = tf.constant([*wishes, skipped], tf.float32)
            values, means = self._compiled()(_tensors(batch), told)

        def result() -> StepResult:
            with together(workers):
                metrics = {name: float(value) for name, value in values.items()}
                leave, save, mean = map(float, means)
            agreed = Wishes(leave > 0, save > 0)
            return StepResult(step, metrics, agreed, waited, round(mean * workers), image)

        return result

    def _train(self, batch: Batch, told: tf.Tensor) -> Tuple[Dict[str, tf.Tensor], tf.Tensor]:
        """A replica's part of a step.

        Returns: the means of all replicas' metrics, and of `told`, float32 [3].
        """
        place, scaling = self.place, self._scaling
        key = tf.stack([self._seed, tf.cast(self._step, tf.int32), place.replica()])
        rate = self._rate(self._step)
        with tf.GradientTape() as tape:
            total, values = objective(self._task, self._model, batch, key)
            if scaling:
                values["loss_scale"] = tf.identity(scaling.value)
                total = scaling.scaled(total)
        gradients = tape.gradient(total, list(self._trained.values()))
        if scaling:
            gradients = scaling.unscaled(gradients)
        steps = list(zip(place.applied(gradients), self._trained.values()))
        if scaling:
            scaling.apply(place, self._optimizer, steps)
        else:
            self._optimizer.apply_gradients(steps)
        self._step.assign_add(1)
        means = place.mean(tf.concat([tf.stack(list(values.values())), told], axis=0))
        found = dict(zip(values, tf.unstack(means[: len(values)])))
        return {**found, "lr": rate}, means[len(values) :]

    @tf.function(autograph=False)
    def _evaluate_step(self, batch: Batch) -> Dict[str, tf.Tensor]:
        return counted_sums(self._task.loss(self._model, batch, training=False), batch.index)


def compute_dtype(precision: str) -> tf.DType:
    """The type in which a network computes.

    Args:
        precision: "float32", or "mixed" for the type of 16 bits that the device computes fast:
            float16 on a GPU, bfloat16 on a CPU.

    Raises: ValueError if this TensorFlow does not support it.
    """
    if precision == "float32":
        return tf.float32
    if tf.config.get_visible_devices("GPU"):
        return tf.float16
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 12):
        raise ValueError(
            f"precision mixed: TensorFlow {tf.__version__} has no convolutions of 16 bits on a "
            f"CPU; use --precision float32 (for an NPU, --precision-mode chooses the type)"
        )
    return tf.bfloat16


def _tensors(batch: Any) -> Batch:
    arrays = (batch.image, batch.label, batch.index)
    return Batch(*(tf.convert_to_tensor(array) for array in arrays))
