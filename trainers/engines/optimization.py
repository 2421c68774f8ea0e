"""The optimiser and the learning rate's schedule, as the published code has them."""

import dataclasses
import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import tensorflow as tf

from ..recipes import Recipe

MOMENTUM = 0.9

Step = Tuple[tf.Tensor, tf.Variable]

# What TensorFlow 1 called the variables that an optimiser keeps for each of the model's.
_SLOTS = {"momentum": "Momentum", "m": "Adam", "v": "Adam_1"}

# Adam's decay rates to the power of the steps made, by which it corrects the bias.
_POWERS = ("beta1_power", "beta2_power")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then a constant rate that drops by a factor after some epochs.

    With s steps an epoch, the rate at a step is
        base x step / (warmup_epochs x s)     while step < warmup_epochs x s
        base x decay_factor ** k              after that, k the number of decay epochs e with
                                              step > e x s

    Attributes:
        base: the full rate.
        steps_per_epoch: number of steps in an epoch of the training split.
        warmup_epochs, decay_epochs: numbers of epochs, which may be fractional.
        decay_factor: see above.
    """

    base: float
    steps_per_epoch: int
    warmup_epochs: float = 0.0
    decay_epochs: Tuple[float, ...] = ()
    decay_factor: float = 0.1

    def __call__(self, step: Union[int, tf.Tensor]) -> tf.Tensor:
        """The rate, a float32 scalar, at a step counted from 0."""
        step = tf.cast(step, tf.int64)
        rate = tf.constant(self.base, tf.float32)
        for epoch in self.decay_epochs:
            # For whole steps, step > x is the same as step > floor(x).
            passed = step > math.floor(epoch * self.steps_per_epoch)
            rate *= tf.where(passed, self.decay_factor, 1.0)
        warmup = self.warmup_epochs * self.steps_per_epoch
        if warmup > 0:
            rising = self.base / warmup * tf.cast(step, tf.float32)
            rate = tf.where(step < math.ceil(warmup), rising, rate)
        return rate


def schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The schedule of a recipe, its rate scaled to the batch size (Goyal et al., 2017)."""
    chosen = recipe.optimizer
    return Schedule(
        chosen.lr * recipe.batch_size / chosen.lr_scale_batch_size,
        steps_per_epoch,
        chosen.warmup_epochs,
        chosen.decay_epochs,
        chosen.lr_decay_factor,
    )


def optimizer(recipe: Recipe, rate: Schedule, step: tf.Variable) -> tf.compat.v1.train.Optimizer:
    """The optimiser of a recipe, at the schedule's rate for the value of `step`."""
    # The rate is a function, so that each call of a compiled step reads the current step.
    if recipe.optimizer.name == "adam":
        return tf.compat.v1.train.AdamOptimizer(lambda: rate(step))
    return tf.compat.v1.train.MomentumOptimizer(lambda: rate(step), MOMENTUM)


class LossScale:
    """Scales the loss so that gradients of 16 bits neither vanish nor overflow.

    A step whose gradients are not all finite is left out. Unless the scale is fixed, it is then
    halved, and doubled after `interval` good steps in a row (Micikevicius et al., 2018, section
    3.2).

    Args:
        fixed: the scale; 0 for a scale that starts at `initial` and changes.
        initial, interval: see above.

    Attributes:
        value: the scale, a float32 variable.
        good_steps: number of good steps since the scale last changed, an int32 variable.
    """

    INITIAL = 2.0**15
    INTERVAL = 2000

    def __init__(self, fixed: float = 0.0, initial: float = INITIAL, interval: int = INTERVAL):
        self.value = counter("loss_scale", fixed or initial, tf.float32)
        self.good_steps = counter("good_steps", 0, tf.int32)
        self._fixed = bool(fixed)
        self._interval = interval

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss times the scale."""
        return loss * self.value.read_value()

    def unscaled(self, gradients: List[tf.Tensor]) -> List[tf.Tensor]:
        """The gradients divided by the scale."""
        scale = self.value.read_value()
        return [gradient / scale for gradient in gradients]

    def apply(self, place: Any, optimizer: Any, steps: Sequence[Step]) -> None:
        """Makes a step if the gradients of all replicas are finite, and updates the scale.

        Args:
            place: where the step runs.
            optimizer: a `tf.compat.v1.train.Optimizer`.
            steps: gradients, `unscaled`, and their variables.
        """
        gradients = [gradient for gradient, _ in steps]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        failed = place.mean(1.0 - tf.cast(finite, tf.float32)[tf.newaxis])[0]
        finite = tf.equal(failed, 0.0)

        def apply(gradients: List[tf.Tensor]) -> bool:
            optimizer.apply_gradients(zip(gradients, [variable for _, variable in steps]))
            return True

        place.apply_where(finite, apply, gradients)
        self.update(finite)

    def update(self, finite: tf.Tensor) -> List[tf.Operation]:
        """The operations that update the scale after a step.

        Args:
            finite: whether all its gradients were finite, a boolean scalar.
        """
        if self._fixed:
            return []
        good = tf.where(finite, self.good_steps + 1, 0)
        grown = good >= self._interval
        factor = tf.where(finite, tf.where(grown, 2.0, 1.0), 0.5)
        value = tf.maximum(self.value * factor, 1.0)
        return [
            self.value.assign(value, read_value=False),
            self.good_steps.assign(tf.where(grown, 0, good), read_value=False),
        ]

    def state(self) -> Dict[str, tf.Variable]:
        """The variables that a checkpoint holds, by name."""
        return {} if self._fixed else {"loss_scale": self.value, "good_steps": self.good_steps}


def counter(name: str, value: float, dtype: tf.DType) -> tf.Variable:
    """A scalar variable that is not trained and is the same in all replicas."""
    return tf.compat.v1.Variable(
        value,
        trainable=False,
        name=name,
        dtype=dtype,
        use_resource=True,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def state(
    optimizer: tf.compat.v1.train.Optimizer, variables: Mapping[str, tf.Variable]
) -> Dict[str, tf.Variable]:
    """An optimiser's variables, under the names that they have in the published code.

    These are `module/conv2d/kernel/Momentum`, or `/Adam` and `/Adam_1` with `beta1_power` and
    `beta2_power`. TensorFlow's own names depend on the place in the graph: within the condition of
    a loss scale they are `cond/beta1_power`, and several optimisers are numbered.

    Args:
        optimizer: the optimiser, whose first update has been built.
        variables: the trained variables by name.
    """
    found = {}
    for slot in optimizer.get_slot_names():
        for name, variable in variables.items():
            found[f"{name}/{_SLOTS[slot]}"] = optimizer.get_slot(variable, slot)
    if isinstance(optimizer, tf.compat.v1.train.AdamOptimizer):
        # The only public way to them is by their names.
        found.update(zip(_POWERS, optimizer._get_beta_accumulators()))
    return found
