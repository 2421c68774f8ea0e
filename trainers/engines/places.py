"""Places of TensorFlow 2 beside one device: several devices of a process, several processes."""

from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional

import tensorflow as tf

from ..recipes import Recipe
from . import ascend
from .engine import Apply, Place
from .npu_options import NpuOptions


class Strategy(Place):
    """The replicas of a `tf.distribute` strategy, such as a `MirroredStrategy`; see `Place`."""

    def __init__(
        self,
        strategy: Any,
        words: str,
        worker: int = 0,
        workers: int = 1,
        asynchronous: bool = False,
    ):
        replicas = strategy.num_replicas_in_sync // workers
        super().__init__(words, worker, workers, replicas, asynchronous)
        self.connected = workers > 1
        self._strategy = strategy

    def scope(self) -> ContextManager[Any]:
        return self._strategy.scope()

    def run(self, step: Callable[..., Any], batch: Any, *others: tf.Tensor) -> Any:
        def part(batch: Any, *others: tf.Tensor) -> Any:
            return step(type(batch)(*map(self._part, batch)), *others)

        results = self._strategy.run(part, args=(batch, *others))
        return tf.nest.map_structure(self._first, results)

    def _part(self, values: tf.Tensor) -> tf.Tensor:
        if self.replicas == 1:
            return values
        size = values.shape[0] // self.replicas
        with tf.device("/device:CPU:0"):  # so that only the part goes to the device
            begin = self.replica() % self.replicas * size
            part = values[begin : begin + size]
        part.set_shape([size, *values.shape[1:]])
        return part

    def _first(self, value: Any) -> Any:
        return self._strategy.experimental_local_results(value)[0]

    def replica(self) -> tf.Tensor:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.convert_to_tensor(number, tf.int32)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        # Optimisers add up what replicas give them.
        count = self._strategy.num_replicas_in_sync
        return [gradient / count for gradient in gradients]

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        # A function's argument may be on another device; its identity is on the replica's.
        context, mean = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.MEAN
        return context.all_reduce(mean, tf.identity(values))

    def apply_where(self, finite: tf.Tensor, apply: Apply, gradients: List[tf.Tensor]) -> None:
        # The condition is one of all replicas, not of each.
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
        return {name: v.numpy() for name, v in variables.items() if self.worker == 0 or _own(v)}


class Npu(Place):
    """One NPU for each process; several processes combine their values by HCCL.

    Args:
        device: the plugin `npu_device`, opened.
        options: how the NPU runs.
        worker, workers: see `Place`.
    """

    def __init__(self, device: Any, options: NpuOptions, worker: int = 0, workers: int = 1):
        super().__init__(f"Ascend NPU, {options.precision_mode}", worker, workers)
        self._device = device
        self._options = options

    def loss_scale(self, recipe: Recipe, optimizer: Any, dtype: tf.DType) -> Optional[Any]:
        # The type that counts is the one to which the device converts float32.
        if not self._options.sixteen_bits:
            return None
        return ascend.NpuLossScale(self._device, recipe, optimizer)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        return self._means(gradients)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        return self._means([values])[0]

    def start(self, variables: List[tf.Variable]) -> None:
        if self.workers > 1:
            self._device.distribute.broadcast(variables, root_rank=0)

    def values(self, variables: Mapping[str, tf.Variable]) -> Mapping[str, Any]:
        own = {name: v.read_value() for name, v in variables.items() if _own(v)}
        values: Dict[str, Any] = dict(variables) if self.worker == 0 else {}
        values.update(zip(own, self._means(list(own.values())) if own else ()))
        return {name: value.numpy() for name, value in values.items()}

    def _means(self, values: List[tf.Tensor]) -> List[tf.Tensor]:
        if self.workers == 1:
            return values
        return self._device.distribute.all_reduce(values, reduction="mean")


def _own(variable: tf.Variable) -> bool:
    """Whether each replica keeps its own value."""
    return variable.synchronization == tf.VariableSynchronization.ON_READ
