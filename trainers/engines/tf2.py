"""Steps as `tf.function`s, run eagerly: TensorFlow 2 on CPU, GPU and, by `npu_device`, on NPU."""

import contextlib
import time
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader.console.interrupt import Interrupt

from ..networks.layers import Scope
from ..recipes import Recipe
from ..runs import checkpoints
from ..runs.skipped import each_once
from ..tasks.task import Batch, Task, objective
from . import ascend, optimization
from .batches import endless, padded
from .devices import choose_gpus, cluster
from .meeting import meet, together
from .npu_options import DEFAULTS, NpuOptions
from .places import Npu, Place, Strategy


def open_device(name: str, devices: int = 1, npu: NpuOptions = DEFAULTS) -> Place:
    """Chooses where steps are made; to be called before anything else of TensorFlow.

    With TF_CONFIG (CPU, GPU) or RANK_ID and RANK_SIZE (NPU) this process is one of several.

    Args:
        name: "auto" takes GPUs where there are any; "cpu", "gpu" or "npu".
        devices: of this process; CPUs may be any number, for trying things out.
        npu: how an NPU is to run.

    Raises: ValueError where there are no such devices, ImportError where their plugin is missing.
    """
    if name == "npu":
        if devices != 1:
            raise ValueError(
                f"--devices {devices}: an NPU takes a process of its own; scripts/launch.py "
                f"--nproc {devices} starts as many"
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
            f"worker {those.worker} sees no GPU, and others may: say --device cpu or gpu, or start "
            f"fewer processes on a machine"
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
        return Place(words)
    total = strategy.num_replicas_in_sync
    words = f"{total} x {words}" + (f", {those.workers} workers" if those.workers > 1 else "")
    return Strategy(strategy, words, those.worker, those.workers)


class Engine:
    """A model and how to train and evaluate it, one batch a call.

    Args:
        recipe: what to train and how.
        task: the recipe's.
        spec: of the loader's batches, this process's share of each.
        steps_per_epoch: of the training split.
        seed: of the initial weights and the random decisions of training steps.
        place: where steps are made; None for one device, the default one.

    Attributes:
        parameters: how many the model has that are trained.
        counts_all: whether `fit` tells each worker of all workers' skipped records.

    Raises: ValueError for a recipe that names something unknown or impossible.
    """

    counts_all = True

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        spec: Any,
        steps_per_epoch: int,
        seed: int,
        place: Optional[Place] = None,
    ):
        self._task = task
        self._spec = spec
        self._seed = seed
        self._place = place or Place()
        dtype = compute_dtype(recipe.precision)
        with self._place.scope():
            scope = Scope(task.scope, seed)
            self._model = task.model(recipe, scope, spec.image.shape[-3:], dtype)
            self._step = tf.compat.v1.Variable(
                0,
                trainable=False,
                name="global_step",
                dtype=tf.int64,
                use_resource=True,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            self._rate = optimization.schedule(recipe, steps_per_epoch)
            self._optimizer = optimization.optimizer(recipe, self._rate, self._step)
            self._scaling = self._place.loss_scale(recipe, self._optimizer, dtype)
        self._variables = {**scope.variables, "global_step": self._step}
        self._trained = {name: v for name, v in scope.variables.items() if v.trainable}
        self._train_step: Optional[Any] = None
        self.parameters = sum(int(np.prod(v.shape.as_list())) for v in self._trained.values())

    @property
    def step(self) -> int:
        """How many steps the model has been trained for."""
        return int(self._step.numpy())

    def train(self, batch: Any) -> Dict[str, float]:
        """One step.

        Args:
            batch: of the loader, this process's share of `recipe.batch_size` images.

        Returns: the means over all processes' batches of the task's loss and metrics before the
            step, and the learning rate `lr`.

        Raises: ValueError for a label that the task does not know.
        """
        return self._make_step(batch, (False, False), 0)[0]

    def fit(
        self, loader: Any, steps: int, after: Any, interrupt: Optional[Interrupt] = None
    ) -> None:
        """Trains on a loader's batches until so many steps have been made in all.

        Args:
            loader, steps: see above.
            after: called after each step with its number, its values (see `train`), the seconds
                that it waited for its batch, the batch's images or None, and how many records of
                all workers' batches could not be used; False ends the training. Its method
                `shows(step)` says whether it will look at the images. Meanwhile `state` and
                `loader_state` are those after the step. With several workers it is also told what
                any of them had wished for before the step, by `wishes()`.
            interrupt: ends the training, too, if it closes the loader.
        """
        interrupt = interrupt or Interrupt()
        batches = interrupt.awaited(endless(loader))
        step = self.step
        several = self._place.workers > 1
        while step < steps:
            asked = time.monotonic()
            batch, skipped = next(batches, (None, 0))
            if batch is None:
                return
            waited = time.monotonic() - asked
            wishes = after.wishes() if several else (False, False)
            with interrupt.stepping() if several else contextlib.nullcontext():
                values, agreed, skipped = self._make_step(batch, wishes, skipped)
            step += 1
            image = batch.image if after.shows(step) else None
            if not after(step, values, waited, image, skipped, agreed if several else None):
                return

    def measure(
        self, loader: Any, after: Callable[[int, int], None]
    ) -> Tuple[int, Dict[str, float]]:
        """How many images a loader's epoch has, and the sums of the task's loss and metrics.

        A record that took the place of one that could not be used does not count.

        Args:
            loader: its last batch may be smaller.
            after: called after each batch with how many batches and images there have been.
        """
        images = 0
        sums: Dict[str, float] = {}
        for number, batch in enumerate(each_once(loader), 1):
            for name, value in self.evaluate(batch, loader.batch_size).items():
                sums[name] = sums.get(name, 0.0) + value
            images += int((batch.index >= 0).sum())
            after(number, images)
        return images, sums

    def loader_state(self, loader: Any) -> Dict[str, Any]:
        """The loader's state after the last step's batch."""
        return loader.state_dict()

    def evaluate(self, batch: Any, size: int) -> Dict[str, float]:
        """The sums over a batch's images of the task's loss and metrics.

        Args:
            batch: of the loader, at most `size` images.
            size: that a smaller batch is padded to, so that shapes never change; the padding is
                not counted.

        Raises: ValueError for a label that the task does not know.
        """
        self._task.check_labels(batch.label, batch.index)
        values = self._evaluate_step(_tensors(padded(batch, size)))
        return {name: float(value) for name, value in values.items()}

    def state(self) -> Mapping[str, Any]:
        """The variables by name, or their values: model, optimiser and step.

        Several workers must all ask, at the same step; only the first one gets all of them.
        """
        with together(self._place.workers):
            state = dict(self._place.values({**self._all_variables(), **self._scale()}))
        if "good_steps" in state:  # which Keras counts in 64 bits
            state["good_steps"] = tf.cast(state["good_steps"], tf.int32)
        return state

    def restore(self, path: str) -> Dict[str, Any]:
        """Continues from a checkpoint; returns the loader's state. Raises CheckpointError."""
        return checkpoints.restore(path, self._all_variables(), self._scale())

    def restore_model(self, path: str) -> None:
        """Takes model and step, not the optimiser, from a checkpoint. Raises CheckpointError."""
        checkpoints.restore(path, self._variables)

    def start(self) -> None:
        """Gives all workers the first one's variables.

        Raises: ValueError where they would go on after different steps.
        """
        place, step = self._place, self.step
        if place.workers == 1:
            return
        with together(place.workers):
            place.start(list({**self._all_variables(), **self._scale()}.values()))
        if abs(self._mean(step) - step) > 0.25:  # means are rounded, and steps are whole
            raise ValueError(
                f"worker {place.worker} would go on after step {step}, others after another one: "
                f"--workdir must be the same folder for all of them"
            )

    def wait(self) -> None:
        """Returns when all workers have called it, so that none is missed while others work."""
        if self._place.workers > 1:
            self._mean(0.0)

    def _mean(self, value: float) -> float:
        """The mean over all workers."""
        place = self._place

        @tf.function(autograph=False)
        def mean(value: tf.Tensor) -> tf.Tensor:
            return place.run(lambda nothing, value: place.mean(value), (), value)

        with together(place.workers):
            return float(mean(tf.constant([value], tf.float32))[0])

    def _scale(self) -> Dict[str, tf.Variable]:
        """The loss scale's variables, which a checkpoint need not have."""
        return self._scaling.state() if self._scaling else {}

    def _all_variables(self) -> Dict[str, tf.Variable]:
        self._compiled()
        return {**self._variables, **optimization.state(self._optimizer, self._trained)}

    def _compiled(self) -> Any:
        """The training step; compiling it makes the optimiser's variables."""
        if self._train_step is None:
            signature = Batch(*(tf.TensorSpec(part.shape, part.dtype) for part in self._spec))

            def step(batch: Batch, told: tf.Tensor) -> Any:
                return self._place.run(self._train, batch, told)

            # Without AutoGraph, which nothing here needs and which buries the words of an error.
            self._train_step = tf.function(
                step, input_signature=[signature, tf.TensorSpec([3])], autograph=False
            )
            self._train_step.get_concrete_function()
        return self._train_step

    def _make_step(
        self, batch: Any, wishes: Tuple[bool, bool], count: int
    ) -> Tuple[Dict[str, float], Tuple[bool, bool], int]:
        """A step's metrics, which of two wishes any worker has, the sum of the workers' counts."""
        self._task.check_labels(batch.label, batch.index)
        with together(self._place.workers):
            told = tf.constant([*wishes, count], tf.float32)
            values, means = self._compiled()(_tensors(batch), told)
        leave, save, mean = map(float, means)
        metrics = {name: float(value) for name, value in values.items()}
        return metrics, (leave > 0, save > 0), round(mean * self._place.workers)

    def _train(self, batch: Batch, told: tf.Tensor) -> Tuple[Dict[str, tf.Tensor], tf.Tensor]:
        """A replica's part of a step.

        Returns: the means of all replicas' metrics, and of `told`, float32 [3].
        """
        place, scaling = self._place, self._scaling
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
        values = self._task.loss(self._model, batch, training=False)
        counted = batch.index >= 0
        return {
            name: tf.reduce_sum(tf.where(counted, value, tf.zeros_like(value)))
            for name, value in values.items()
        }


def compute_dtype(precision: str) -> tf.DType:
    """In which a network computes where a recipe says `precision`.

    That is float32, or for "mixed" the type of 16 bits that the device is fast at: float16 on a
    GPU, bfloat16 on a CPU.

    Raises: ValueError where this TensorFlow cannot do it.
    """
    if precision == "float32":
        return tf.float32
    if tf.config.get_visible_devices("GPU"):
        return tf.float16
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 12):
        raise ValueError(
            f"precision mixed: TensorFlow {tf.__version__} has no convolutions of 16 bits on a "
            f"CPU; use --precision float32 (what an NPU computes in, --precision-mode says)"
        )
    return tf.bfloat16


def _tensors(batch: Any) -> Batch:
    arrays = (batch.image, batch.label, batch.index)
    return Batch(*(tf.convert_to_tensor(array) for array in arrays))
