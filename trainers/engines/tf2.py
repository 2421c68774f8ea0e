"""Steps as `tf.function`s, run eagerly: TensorFlow 2 on CPU and GPU."""

import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import tensorflow as tf

from .. import checkpoints, optimization
from ..layers import Scope
from ..recipes import Recipe
from ..tasks.task import Batch, Task, objective
from .batches import endless, padded
from .devices import choose_gpu


def open_device(name: str) -> str:
    """Chooses the device; to be called before anything else of TensorFlow.

    Args:
        name: "auto" takes a GPU where there is one; "cpu" or "gpu".

    Returns: the device in words.

    Raises: ValueError where there is no such device.
    """
    if name == "npu":
        raise ValueError(
            "--device npu needs an engine on Huawei's npu_device (TensorFlow 2.6.5) or npu_bridge "
            "(TensorFlow 1.15), wheels that come with the CANN toolkit; this version of Pretexture "
            "has none yet: use --device cpu or gpu"
        )
    gpu = choose_gpu(name)
    if gpu is None:
        return "CPU"
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("device_name", gpu.name)


class Engine:
    """A model and how to train and evaluate it, one batch a call.

    Args:
        recipe: what to train and how.
        task: the recipe's.
        spec: of the loader's batches.
        steps_per_epoch: of the training split.
        seed: of the initial weights and the random decisions of training steps.

    Attributes:
        parameters: how many the model has that are trained.

    Raises: ValueError for a recipe that names something unknown or impossible.
    """

    def __init__(self, recipe: Recipe, task: Task, spec: Any, steps_per_epoch: int, seed: int):
        self._task = task
        self._spec = spec
        self._seed = seed
        scope = Scope(task.scope, seed)
        dtype = compute_dtype(recipe.precision)
        self._model = task.model(recipe, scope, spec.image.shape[-3:], dtype)
        self._step = tf.compat.v1.Variable(
            0, trainable=False, name="global_step", dtype=tf.int64, use_resource=True
        )
        self._variables = {**scope.variables, "global_step": self._step}
        self._trained = {name: v for name, v in scope.variables.items() if v.trainable}
        self._rate = optimization.schedule(recipe, steps_per_epoch)
        self._optimizer = optimization.optimizer(recipe, self._rate, self._step)
        self._loss_scale = optimization.LossScale() if dtype == tf.float16 else None
        self._train_step: Optional[Any] = None
        self.parameters = sum(int(np.prod(v.shape.as_list())) for v in self._trained.values())

    @property
    def step(self) -> int:
        """How many steps the model has been trained for."""
        return int(self._step.numpy())

    def train(self, batch: Any) -> Dict[str, float]:
        """One step.

        Args:
            batch: of the loader, `recipe.batch_size` images.

        Returns: the means over the batch of the task's loss and metrics before the step, and the
            learning rate `lr`.

        Raises: ValueError for a label that the task does not know.
        """
        self._task.check_labels(batch.label, batch.index)
        values = self._compiled()(_tensors(batch))
        return {name: float(value) for name, value in values.items()}

    def fit(self, loader: Any, steps: int, after: Any) -> None:
        """Trains on a loader's batches until so many steps have been made in all.

        Args:
            loader, steps: see above.
            after: called after each step with its number, its values (see `train`), the seconds
                that it waited for its batch, and the batch's images or None; False ends the
                training. Its method `shows(step)` says whether it will look at the images.
                Meanwhile `state` and `loader_state` are those after the step.
        """
        batches = endless(loader)
        step = self.step
        while step < steps:
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
            values = self.train(batch)
            step += 1
            image = batch.image if after.shows(step) else None
            if not after(step, values, waited, image):
                return

    def measure(
        self, loader: Any, after: Callable[[int, int], None]
    ) -> Tuple[int, Dict[str, float]]:
        """How many images a loader's epoch has, and the sums of the task's loss and metrics.

        Args:
            loader: its last batch may be smaller.
            after: called after each batch with how many batches and images there have been.
        """
        images = 0
        sums: Dict[str, float] = {}
        for number, batch in enumerate(loader, 1):
            for name, value in self.evaluate(batch, loader.batch_size).items():
                sums[name] = sums.get(name, 0.0) + value
            images += len(batch.index)
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

    def state(self) -> Dict[str, tf.Variable]:
        """The variables by name: model, optimiser and step."""
        self._compiled()
        state = {**self._variables, **optimization.state(self._optimizer, self._trained)}
        if self._loss_scale:
            state["loss_scale"] = self._loss_scale.value
            state["good_steps"] = self._loss_scale.good_steps
        return state

    def restore(self, path: str) -> Dict[str, Any]:
        """Continues from a checkpoint; returns the loader's state. Raises CheckpointError."""
        return checkpoints.restore(path, self.state())

    def restore_model(self, path: str) -> None:
        """Takes model and step, not the optimiser, from a checkpoint. Raises CheckpointError."""
        checkpoints.restore(path, self._variables)

    def _compiled(self) -> Any:
        """The training step; compiling it makes the optimiser's variables."""
        if self._train_step is None:
            signature = Batch(*(tf.TensorSpec(part.shape, part.dtype) for part in self._spec))
            # Without AutoGraph, which nothing here needs and which buries the words of an error.
            self._train_step = tf.function(
                self._train, input_signature=[signature], autograph=False
            )
            self._train_step.get_concrete_function()
        return self._train_step

    def _train(self, batch: Batch) -> Dict[str, tf.Tensor]:
        key = tf.stack([self._seed, tf.cast(self._step, tf.int32)])
        rate = self._rate(self._step)
        scale = self._loss_scale.value.read_value() if self._loss_scale else 1.0
        with tf.GradientTape() as tape:
            total, values = objective(self._task, self._model, batch, key)
            total *= scale
        gradients = tape.gradient(total, list(self._trained.values()))
        if self._loss_scale:
            gradients = [gradient / scale for gradient in gradients]
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
            tf.cond(finite, lambda: self._apply(gradients), lambda: False)
            self._loss_scale.update(finite)
            values["loss_scale"] = scale
        else:
            self._apply(gradients)
        self._step.assign_add(1)
        return {**values, "lr": rate}

    def _apply(self, gradients: List[tf.Tensor]) -> bool:
        self._optimizer.apply_gradients(zip(gradients, self._trained.values()))
        return True

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
            f"CPU; use --precision float32"
        )
    return tf.bfloat16


def _tensors(batch: Any) -> Batch:
    arrays = (batch.image, batch.label, batch.index)
    return Batch(*(tf.convert_to_tensor(array) for array in arrays))
