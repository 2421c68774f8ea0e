"""The contract that both engines keep: `tf2` on TensorFlow 2, `estimator` on TensorFlow 1.15.

A step is written once, for a replica: a device and its share of the batch. A `Place` runs it on all
devices of this process and averages over those of all processes. An `Engine` makes the steps and
tells a `Follower` what each of them gave.
"""

import abc
import collections
import contextlib
import time
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

import numpy as np
import tensorflow as tf
from pretexture.loader import Batch, Loader
from pretexture.loader.console.interrupt import Interrupt

from ..networks.layers import Scope
from ..recipes import Recipe
from ..runs.skipped import replaced
from ..tasks.task import Model, Task
from . import optimization

if TYPE_CHECKING:
    from ..transfer.features import FeatureLoader

Batches = Union[Loader, "FeatureLoader"]
Apply = Callable[[List[tf.Tensor]], Any]


class Wishes(NamedTuple):
    """What happens after a step, because a worker wishes it.

    Attributes:
        leave: whether the training ends.
        save: whether a checkpoint is saved.
    """

    leave: bool = False
    save: bool = False

    def joined(self, others: "Wishes") -> "Wishes":
        """What is wished here or there."""
        return Wishes(self.leave or others.leave, self.save or others.save)


class StepResult(NamedTuple):
    """What a training step gave.

    Attributes:
        step: number of the step, counted from 1. If it lies several behind that of the result
            before, the device made the steps in between by itself.
        values: means over all replicas' batches of the task's loss and metrics before the step,
            and the learning rate `lr`.
        agreed: what all workers do after this step. On several workers it is what any of them
            wished before the step; `estimator` can only ask the first worker.
        waited: seconds that the step waited for its batch.
        skipped: number of records that could not be used, so that others took their place; see
            `Engine.counts_all`.
        image: images of this process's batch, if the follower wants to see them.
    """

    step: int
    values: Dict[str, float]
    agreed: Wishes
    waited: float
    skipped: int
    image: Optional[np.ndarray] = None


class Follower(abc.ABC):
    """Who is told of each step while an engine trains."""

    @abc.abstractmethod
    def shows(self, step: int) -> bool:
        """Whether this process wants to see the images of a step."""

    @abc.abstractmethod
    def wishes(self) -> Wishes:
        """What this process wishes now."""

    @abc.abstractmethod
    def needs_state(self, step: int) -> bool:
        """Whether `after` will need the engine's state after this step, for a checkpoint."""

    @abc.abstractmethod
    def after(self, result: StepResult) -> bool:
        """Is called after each step.

        The engine's state is that after this step or after the next one. It is that after this step
        if the result has wishes, or if `needs_state` said so.

        Returns: False to end the training; it may do so only if the result has wishes.
        """


class Place:
    """Where steps run: one device, which is also the base of all other places.

    Args:
        words: the device, for people.
        worker: number of this process.
        workers: number of processes.
        replicas: number of this process's devices; each takes an equal part of its batch.
        asynchronous: whether devices still work on a step when the call that makes it returns.

    Attributes:
        connected: whether TensorFlow connects this process to other workers by gRPC.
    """

    connected = False

    def __init__(
        self,
        words: str = "CPU",
        worker: int = 0,
        workers: int = 1,
        replicas: int = 1,
        asynchronous: bool = False,
    ):
        self.words = words
        self.worker = worker
        self.workers = workers
        self.replicas = replicas
        self.asynchronous = asynchronous

    def scope(self) -> ContextManager[Any]:
        """The context in which the model's variables are made."""
        return contextlib.nullcontext()

    def loss_scale(self, recipe: Recipe, optimizer: Any, dtype: tf.DType) -> Optional[Any]:
        """A `LossScale`, or an object with its methods, if gradients have 16 bits; else None.

        Args:
            recipe: says whether the scale is fixed.
            optimizer: the optimiser that applies the gradients.
            dtype: the type in which the network computes.
        """
        return optimization.LossScale(recipe.loss_scale) if dtype == tf.float16 else None

    def run(self, step: Callable[..., Any], batch: Any, *others: tf.Tensor) -> Any:
        """Calls `step(batch, *others)` in each replica with its part of the batch.

        Returns: what the first replica of this process gives.
        """
        return step(batch, *others)

    # Within a step:

    def replica(self) -> tf.Tensor:
        """The number of this replica among those of all processes, an int32 scalar."""
        return tf.constant(self.worker)

    def applied(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """The gradients that make an optimiser apply the means over all replicas."""
        return gradients

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean of float32 [M] over all replicas."""
        return values

    def apply_where(self, finite: tf.Tensor, apply: Apply, gradients: List[tf.Tensor]) -> None:
        """Calls `apply(gradients)` in all replicas if `finite` is true.

        Args:
            finite: a boolean scalar, the same in all replicas.
            apply: a function that returns True.
            gradients: see `applied`.
        """
        tf.cond(finite, lambda: apply(gradients), lambda: False)

    # Outside of it, in all processes alike:

    def start(self, variables: List[tf.Variable]) -> None:
        """Gives all processes the first one's values."""

    def values(self, variables: Mapping[str, tf.Variable]) -> Mapping[str, Any]:
        """What a checkpoint holds; statistics that replicas keep for themselves as their means.

        Workers other than the first get only those statistics, which take all of them to compute.
        """
        return variables


class Engine(abc.ABC):
    """A model, and how to train and evaluate it.

    Args:
        recipe: what to train and how.
        task: the recipe's task.
        spec: shapes and types of the loader's batches, this process's share of each.
        steps_per_epoch: number of steps in an epoch of the training split.
        seed: seed of the initial weights and of the random decisions of training steps.
        place: where steps run.

    Attributes:
        place: see above.
        parameters: number of the model's trained parameters.
        counts_all: whether each worker is told of all workers' skipped records, not only its own.

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
        place: Place,
    ):
        self.place = place
        self._recipe = recipe
        self._task = task
        self._spec = spec
        self._seed = seed
        self._rate = optimization.schedule(recipe, steps_per_epoch)
        trained = self._build().trained.values()
        self.parameters = sum(int(np.prod(v.shape.as_list())) for v in trained)

    @abc.abstractmethod
    def _build(self) -> Scope:
        """The last part of the constructor: makes the model; returns the scope of its variables."""

    def _model_in(self, scope: Scope, dtype: tf.DType) -> Model:
        """The task's model, its variables in a scope, that computes in a type."""
        return self._task.model(self._recipe, scope, self._spec.image.shape[-3:], dtype)

    @property
    @abc.abstractmethod
    def step(self) -> int:
        """Number of steps for which the model has been trained."""

    @abc.abstractmethod
    def step_graph(self) -> tf.Graph:
        """The graph of a training step, for all devices of this process."""

    @abc.abstractmethod
    def fit(
        self,
        loader: Batches,
        steps: int,
        follower: Follower,
        interrupt: Interrupt,
    ) -> None:
        """Trains on a loader's batches.

        Args:
            loader: gives the batches, epoch after epoch.
            steps: number of the last step.
            follower: is told of each step.
            interrupt: ends the training if it closes the loader.

        Raises: ValueError for a label that the task does not know; ConnectionError if another
            worker is gone.
        """

    @abc.abstractmethod
    def measure(
        self, loader: Batches, after: Callable[[int, int], None]
    ) -> Tuple[int, Dict[str, float]]:
        """The number of images in a loader's epoch, and the sums of the task's loss and metrics.

        A record that took the place of one that could not be used does not count.

        Args:
            loader: gives the batches; the last one may be smaller.
            after: is called after each batch with the numbers of batches and images so far.

        Raises: ValueError for a label that the task does not know.
        """

    @abc.abstractmethod
    def state(self) -> Mapping[str, Any]:
        """The variables by name, or their values: model, optimiser and step.

        All workers must ask at the same step; only the first gets all of them.
        """

    @abc.abstractmethod
    def restore(self, path: str) -> Dict[str, Any]:
        """Continues from a checkpoint; returns the loader's state. Raises CheckpointError."""

    @abc.abstractmethod
    def restore_model(self, path: str) -> None:
        """Takes model and step from a checkpoint to evaluate them, not the optimiser.

        Running averages are unbiased, see `Average.unbiased`. Raises CheckpointError.
        """

    def loader_state(self, loader: Batches) -> Dict[str, Any]:
        """The loader's state after the last step's batch."""
        return loader.state_dict()

    def start(self) -> None:  # noqa: B027
        """Gives all workers the first one's variables.

        Raises: ValueError if workers would continue after different steps.
        """

    def wait(self) -> None:  # noqa: B027
        """Returns when all workers have called it, so that none is missed while others work."""


def awaited(loader: Batches, interrupt: Interrupt) -> Iterator[Tuple[Any, int, float]]:
    """A loader's batches, epoch after epoch, until it is closed after a signal.

    Yields: a batch, its number of replaced records, and the seconds that it took to come.
    """

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    asked = time.monotonic()
    for batch in interrupt.awaited(endless()):
        yield batch, int(replaced(loader, batch).sum()), time.monotonic() - asked
        asked = time.monotonic()


def padded(batch: Any, size: int) -> Any:
    """A batch of exactly `size` images; added images have the record number -1."""
    missing = size - len(batch.index)
    if not missing:
        return batch
    image, label, index = batch.image, batch.label, batch.index
    return Batch(
        np.concatenate([image, np.zeros((missing, *image.shape[1:]), image.dtype)]),
        np.concatenate([label, np.zeros((missing, *label.shape[1:]), label.dtype)]),
        np.concatenate([index, np.full(missing, -1, index.dtype)]),
    )


class Sums:
    """What batches of an epoch give, added up.

    Args:
        after: is called after each batch; see `Engine.measure`.

    Attributes:
        images: number of images so far.
        sums: the sums so far of loss and metrics by name.
    """

    def __init__(self, after: Callable[[int, int], None]):
        self.images = 0
        self.sums: Dict[str, float] = collections.defaultdict(float)
        self._after = after
        self._batches = 0

    def add(self, images: int, sums: Mapping[str, Any]) -> None:
        """Adds a batch's number of images and its sums."""
        self.images += int(images)
        for name, value in sums.items():
            self.sums[name] += float(value)
        self._batches += 1
        self._after(self._batches, self.images)


def counted_sums(values: Mapping[str, tf.Tensor], index: tf.Tensor) -> Dict[str, tf.Tensor]:
    """The sums of float32 [N] values over the images whose record number is not -1."""
    counted = index >= 0
    return {
        name: tf.reduce_sum(tf.where(counted, value, tf.zeros_like(value)))
        for name, value in values.items()
    }
