"""Where TensorFlow 2 makes a step: on one device, on several of a process, in several processes.

A step is written once, for a replica: a device and its share of the batch. A place runs it in all
of this process's replicas, and averages gradients and metrics over those of all processes.
"""

import contextlib
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional

import tensorflow as tf

from ..recipes import Recipe
from . import ascend, optimization
from .npu_options import NpuOptions

Apply = Callable[[List[tf.Tensor]], Any]


class Place:
    """One device.

    Attributes:
        words: the device, for people.
        worker, workers: which process this one is, and of how many.
        replicas: of this process; each takes an equal part of its batch.
    """

    worker = 0
    workers = 1
    replicas = 1

    def __init__(self, words: str = "CPU"):
        self.words = words

    def scope(self) -> ContextManager[Any]:
        """In which the model's variables are made."""
        return contextlib.nullcontext()

    def loss_scale(self, recipe: Recipe, optimizer: Any, dtype: tf.DType) -> Optional[Any]:
        """A `LossScale`, or what has its methods, where gradients are of 16 bits; else None.

        Args:
            recipe: says how.
            optimizer: that is to apply them.
            dtype: in which the network computes.
        """
        return optimization.LossScale(recipe.loss_scale) if dtype == tf.float16 else None

    def run(self, step: Callable[..., Any], batch: Any, *others: tf.Tensor) -> Any:
        """Calls `step(batch, *others)` in each replica with its part of the batch.

        Returns: what the first replica of this process gives.
        """
        return step(batch, *others)

    # Within a step:

    def replica(self) -> tf.Tensor:
        """Which replica of all processes this is, an int32 scalar."""
        return tf.constant(self.worker)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """What an optimiser must be given for it to apply the means of all replicas' gradients."""
        return gradients

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean of float32 [M] over all replicas."""
        return values

    def apply_where(self, finite: tf.Tensor, apply: Apply, gradients: List[tf.Tensor]) -> None:
        """Calls `apply(gradients)` in all replicas where `finite` is true.

        Args:
            finite: a boolean scalar, the same in all replicas.
            apply: returns True.
            gradients: see `applied`.
        """
        tf.cond(finite, lambda: apply(gradients), lambda: False)

    # Outside of it, in all processes alike:

    def start(self, variables: List[tf.Variable]) -> None:
        """Gives all processes the first one's values."""

    def values(self, variables: Mapping[str, tf.Variable]) -> Mapping[str, Any]:
        """What a checkpoint holds; statistics that replicas keep for themselves as their means.

        Workers but the first one get only those, which take all of them to compute.
        """
        return variables


class Strategy(Place):
    """The replicas of a `tf.distribute` strategy.

    Args:
        strategy: a `MirroredStrategy` or `MultiWorkerMirroredStrategy`.
        words, worker, workers: see `Place`.
    """

    def __init__(self, strategy: Any, words: str, worker: int = 0, workers: int = 1):
        super().__init__(words)
        self.worker, self.workers = worker, workers
        self.replicas = strategy.num_replicas_in_sync // workers
        self._strategy = strategy

    def scope(self) -> ContextManager[Any]:
        """See `Place.scope`."""
        return self._strategy.scope()

    def run(self, step: Callable[..., Any], batch: Any, *others: tf.Tensor) -> Any:
        """See `Place.run`."""

        def part(batch: Any, *others: tf.Tensor) -> Any:
            return step(type(batch)(*map(self._part, batch)), *others)

        results = self._strategy.run(part, args=(batch, *others))
        return tf.nest.map_structure(self._first, results)

    def _part(self, values: tf.Tensor) -> tf.Tensor:
        if self.replicas == 1:
            return values
        size = values.shape[0] // self.replicas
        with tf.device("/device:CPU:0"):  # so that no more than the part goes to the device
            begin = self.replica() % self.replicas * size
            part = values[begin : begin + size]
        part.set_shape([size, *values.shape[1:]])
        return part

    def _first(self, value: Any) -> Any:
        return self._strategy.experimental_local_results(value)[0]

    def replica(self) -> tf.Tensor:
        """See `Place.replica`."""
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.convert_to_tensor(number, tf.int32)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """See `Place.applied`: optimisers add up what replicas give them."""
        count = self._strategy.num_replicas_in_sync
        return [gradient / count for gradient in gradients]

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """See `Place.mean`."""
        # The identity is on the replica's device, which a function's argument need not be.
        context, mean = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.MEAN
        return context.all_reduce(mean, tf.identity(values))

    def apply_where(self, finite: tf.Tensor, apply: Apply, gradients: List[tf.Tensor]) -> None:
        """See `Place.apply_where`; the condition is one of all replicas, not of each."""

        def choose(strategy: Any, finite: Any, gradients: Any) -> Any:
            return tf.cond(
                self._first(finite),
                lambda: self._first(
                    strategy.extended.call_for_each_replica(apply, args=(gradients,))
                ),
                lambda: False,
            )

        tf.distribute.get_replica_context().merge_call(choose, args=(finite, gradients))

    def values(self, variables: Mapping[str, tf.Variable]) -> Mapping[str, Any]:
        """See `Place.values`."""
        return {name: v.numpy() for name, v in variables.items() if self.worker == 0 or _own(v)}


class Npu(Place):
    """One NPU a process; with several, collective operations by HCCL.

    Args:
        device: the plugin `npu_device`, opened.
        options: how the NPU runs.
        worker, workers: see `Place`.
    """

    def __init__(self, device: Any, options: NpuOptions, worker: int = 0, workers: int = 1):
        super().__init__(f"Ascend NPU, {options.precision_mode}")
        self.worker, self.workers = worker, workers
        self._device = device
        self._options = options

    def loss_scale(self, recipe: Recipe, optimizer: Any, dtype: tf.DType) -> Optional[Any]:
        """See `Place.loss_scale`; what the device makes of float32 decides."""
        if not self._options.sixteen_bits:
            return None
        return ascend.NpuLossScale(self._device, recipe, optimizer)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """See `Place.applied`."""
        return self._means(gradients)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """See `Place.mean`."""
        return self._means([values])[0]

    def start(self, variables: List[tf.Variable]) -> None:
        """See `Place.start`."""
        if self.workers > 1:
            self._device.distribute.broadcast(variables, root_rank=0)

    def values(self, variables: Mapping[str, tf.Variable]) -> Mapping[str, Any]:
        """See `Place.values`."""
        own = {name: v.read_value() for name, v in variables.items() if _own(v)}
        values: Dict[str, Any] = dict(variables) if self.worker == 0 else {}
        values.update(zip(own, self._means(list(own.values())) if own else ()))
        return {name: value.numpy() for name, value in values.items()}

    def _means(self, values: List[tf.Tensor]) -> List[tf.Tensor]:
        if self.workers == 1:
            return values
        return self._device.distribute.all_reduce(values, reduction="mean")


def _own(variable: tf.Variable) -> bool:
    """Whether each replica keeps a value of its own."""
    return variable.synchronization == tf.VariableSynchronization.ON_READ
