"""Layers as `tf.Module`s over `tf.nn`: one definition for TensorFlow 1.15, 2.6 and current.

Variables carry the names that `tf.layers` gave them in the published code: a scope, the layer's
kind, numbered in order of creation, and the variable's own name, as in `module/conv2d_1/kernel`.
So a checkpoint of either code is read by the other.

Initial values depend only on the seed and the variable's name (stateless random numbers), so they
are the same on every TensorFlow and in any order of creation.

Variables are float32. A layer computes in the type of its input, so a network whose image is cast
to 16 bits computes in 16 bits (Micikevicius et al., 2018). Batch normalisation still computes means
and variances in float32.
"""

import zlib
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

Shape = Tuple[int, ...]
Initializer = Callable[[Shape, Sequence[int]], tf.Tensor]


def glorot_uniform(shape: Shape, seed: Sequence[int]) -> tf.Tensor:
    """Uniform in +-sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010).

    Args:
        shape: a kernel's shape, [height, width, channels in, channels out].
        seed: two numbers of 31 bits.
    """
    receptive = shape[0] * shape[1]
    limit = (6 / (receptive * (shape[2] + shape[3]))) ** 0.5
    return tf.random.stateless_uniform(shape, seed=seed, minval=-limit, maxval=limit)


def truncated_normal(stddev: float) -> Initializer:
    """Normal with mean 0; values beyond two standard deviations are drawn again."""

    def initialize(shape: Shape, seed: Sequence[int]) -> tf.Tensor:
        return tf.random.stateless_truncated_normal(shape, seed=seed, stddev=stddev)

    return initialize


def constant(value: float) -> Initializer:
    """The same value everywhere."""

    def initialize(shape: Shape, seed: Sequence[int]) -> tf.Tensor:
        return tf.fill(shape, tf.constant(value, tf.float32))

    return initialize


class Average(NamedTuple):
    """A running average of batch normalisation.

    Attributes:
        momentum: an update makes it momentum x old + (1 - momentum) x new.
        initial: its value before the first update.
    """

    momentum: float
    initial: float

    def unbiased(self, value: np.ndarray, updates: int) -> np.ndarray:
        """The average without the share that its initial value still has in it.

        After t updates that share is momentum ** t. With momentum 0.99 it is 55% after 60 updates,
        and each of the fifty layers of a ResNet-50 would be off by as much. Adam corrects its
        averages in the same way (Kingma and Ba, 2015, section 3). Once the share is below the
        precision of float32, the value is returned as it is.

        Args:
            value: float32, the average.
            updates: number of updates.
        """
        share = self.momentum**updates
        if share == 1 or share < np.finfo(np.float32).eps / 2:
            return value
        exact = (value.astype(np.float64) - share * self.initial) / (1 - share)
        # Rounding must not make a variance negative; it begins at 1.
        return (np.maximum(exact, 0) if self.initial else exact).astype(np.float32)


MOMENTUM = 0.99
# The running averages of a network, by the last part of their variables' names.
AVERAGES = {"moving_mean": Average(MOMENTUM, 0.0), "moving_variance": Average(MOMENTUM, 1.0)}

_ENOUGH = 300  # updates after which the first ones have a share of less than 5% in the averages


def too_few_steps(step: Optional[int]) -> Optional[str]:
    """A warning if so few steps make a network's evaluation unreliable; else None.

    Args:
        step: number of steps that it was trained for; None if that is not known.
    """
    if not step or step >= _ENOUGH:
        return None
    return (
        f"warning: the network was trained for {step:,} steps, and its averages of batch "
        f"normalisation lag behind its weights: loss, accuracy and features are unreliable before "
        f"step {_ENOUGH}"
    )


class Scope:
    """Names layers, makes their variables and remembers them in order of creation.

    Args:
        name: beginning of every variable's name.
        seed: random seed of the initial values, 0 to 2**31 - 1.
        values: function from a variable's name and shape to its initial value; default: random.
        frozen: whether the variables are not trained. In a graph they are then local variables, so
            that neither savers nor checkpoints include them.

    Attributes:
        variables: the variables by name, as a checkpoint lists them.
        averages: those of them that are running averages, by name.
    """

    def __init__(
        self,
        name: str = "module",
        seed: int = 0,
        values: Optional[Callable[[str, Shape], Any]] = None,
        frozen: bool = False,
    ):
        self.variables: Dict[str, tf.Variable] = {}
        self.averages: Dict[str, Average] = {}
        self._name = name
        self._seed = seed
        self._values = values
        self._frozen = frozen
        self._count: Dict[str, int] = {}

    @property
    def trained(self) -> Dict[str, tf.Variable]:
        """The variables that are trained, by name."""
        return {name: v for name, v in self.variables.items() if v.trainable}

    def layer(self, kind: str) -> str:
        """The name of the next layer of its kind: `module/conv2d`, `module/conv2d_1`, …"""
        number = self._count.get(kind, 0)
        self._count[kind] = number + 1
        return f"{self._name}/{kind}" + (f"_{number}" if number else "")

    def child(self, name: str) -> "Scope":
        """A scope within this one, whose variables are also this one's."""
        child = Scope(f"{self._name}/{name}", self._seed, self._values, self._frozen)
        child.variables, child.averages = self.variables, self.averages
        return child

    def variable(
        self, name: str, shape: Shape, initializer: Initializer, statistic: bool = False
    ) -> tf.Variable:
        """A float32 variable.

        Args:
            statistic: whether it is a running mean, which is not trained. Each replica of a
                distributed run then keeps its own value; reading it averages over replicas.
        """
        seed = (self._seed, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        values = self._values

        def initial() -> tf.Tensor:
            if values is None:
                return initializer(shape, seed)
            return tf.reshape(tf.convert_to_tensor(values(name, shape), tf.float32), shape)

        replicas = {}
        if statistic:
            replicas = {
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.MEAN,
            }
        variable = tf.compat.v1.Variable(
            initial,
            trainable=not (statistic or self._frozen),
            name=name,
            dtype=tf.float32,
            use_resource=True,
            collections=[tf.compat.v1.GraphKeys.LOCAL_VARIABLES] if self._frozen else None,
            **replicas,
        )
        self.variables[name] = variable
        return variable


class Conv(tf.Module):
    """A 2-D convolution.

    Args:
        scope: names it and makes its variables.
        channels: number of the input's channels.
        filters: number of the output's channels.
        size: side of the square kernel.
        stride: stride in both directions.
        padding: "fixed" pads with (size - 1) // 2 zeros before and the rest after, for any stride;
            "valid" does not pad.
        weight_decay: scale x sum(kernel ** 2) / 2 is added to the loss; see `l2_penalty`.
        initializer: initial values of the kernel.
        bias: initial value of the bias; None for no bias.

    Shapes: [N, H, W, channels] -> [N, ceil(H / stride), ceil(W / stride), filters] with "fixed"
        padding.
    """

    def __init__(
        self,
        scope: Scope,
        channels: int,
        filters: int,
        size: int,
        stride: int = 1,
        padding: str = "fixed",
        weight_decay: float = 0.0,
        initializer: Initializer = glorot_uniform,
        bias: Optional[float] = None,
    ):
        super().__init__()
        name = scope.layer("conv2d")
        self.weight_decay = weight_decay
        self.kernel = scope.variable(f"{name}/kernel", (size, size, channels, filters), initializer)
        self.bias = None
        if bias is not None:
            self.bias = scope.variable(f"{name}/bias", (filters,), constant(bias))
        self._stride = stride
        self._pad = size - 1 if padding == "fixed" else 0

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Convolves `x`, [N, H, W, channels]."""
        padding = "VALID"
        if self._pad and self._stride == 1:
            padding = "SAME"  # with stride 1, it pads the same zeros
        elif self._pad:
            x = pad(x, self._pad)
        kernel = tf.cast(self.kernel, x.dtype)
        x = tf.nn.conv2d(x, kernel, strides=[1, self._stride, self._stride, 1], padding=padding)
        return x if self.bias is None else tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))


class BatchNorm(tf.Module):
    """Batch normalisation with scale and offset (Ioffe and Szegedy, 2015).

    Args:
        scope: names it and makes its variables.
        channels: number of the input's channels.
        momentum: the running mean and variance are momentum x old + (1 - momentum) x batch.
        epsilon: number that is added to the variance.

    In a graph built without `tf.function`, running averages are updated by operations in the
    collection UPDATE_OPS, as with `tf.layers`.
    """

    def __init__(
        self, scope: Scope, channels: int, momentum: float = MOMENTUM, epsilon: float = 1e-3
    ):
        super().__init__()
        name = scope.layer("batch_normalization")
        for moving, average in AVERAGES.items():
            scope.averages[f"{name}/{moving}"] = average._replace(momentum=momentum)
        self.gamma = scope.variable(f"{name}/gamma", (channels,), constant(1))
        self.beta = scope.variable(f"{name}/beta", (channels,), constant(0))
        self.moving_mean = scope.variable(f"{name}/moving_mean", (channels,), constant(0), True)
        self.moving_variance = scope.variable(
            f"{name}/moving_variance", (channels,), constant(1), True
        )
        self._momentum = momentum
        self._epsilon = epsilon

    def __call__(self, x: tf.Tensor, training: bool, update: bool = True) -> tf.Tensor:
        """Normalises `x`, [N, H, W, channels], by its batch in training, else by the averages.

        Args:
            update: whether training updates the averages; False if it sees a batch again.
        """
        if not training:
            return tf.compat.v1.nn.fused_batch_norm(
                x,
                self.gamma,
                self.beta,
                mean=self.moving_mean,
                variance=self.moving_variance,
                epsilon=self._epsilon,
                is_training=False,
            )[0]
        x, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, self.gamma, self.beta, epsilon=self._epsilon
        )
        if update:
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance)
        return x

    def _update(self, moving: tf.Variable, value: tf.Tensor) -> None:
        update = moving.assign_sub((moving - value) * (1 - self._momentum), read_value=False)
        if not tf.executing_eagerly():
            graph = tf.compat.v1.get_default_graph()
            if not graph.building_function:
                graph.add_to_collection(tf.compat.v1.GraphKeys.UPDATE_OPS, update)


class ConvNorm(tf.Module):
    """A convolution without bias, batch normalisation and, if it is `activated`, ReLU.

    Args:
        activated: see above.

    The other arguments are those of `Conv`.
    """

    def __init__(
        self,
        scope: Scope,
        channels: int,
        filters: int,
        size: int,
        stride: int = 1,
        padding: str = "fixed",
        weight_decay: float = 0.0,
        activated: bool = True,
    ):
        super().__init__()
        self._conv = Conv(scope, channels, filters, size, stride, padding, weight_decay)
        self._norm = BatchNorm(scope, filters)
        self._activated = activated

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """[N, H, W, channels] -> [N, H', W', filters]."""
        x = self._norm(self._conv(x), training)
        return tf.nn.relu(x) if self._activated else x


class Logits(tf.Module):
    """The mean over the image, and a 1x1 convolution with a bias: a network's last layer."""

    def __init__(self, scope: Scope, channels: int, outputs: int, weight_decay: float):
        super().__init__()
        self._conv = Conv(scope, channels, outputs, 1, weight_decay=weight_decay, bias=0)

    def __call__(
        self, x: tf.Tensor, end_points: Dict[str, tf.Tensor]
    ) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
        """What a network returns: logits, float32 [N, outputs], and end points.

        Args:
            x: [N, H, W, channels].
            end_points: end points so far; `pre_logits` and `logits` are added.
        """
        x = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2], keepdims=True)
        end_points["pre_logits"] = tf.squeeze(x, [1, 2])
        logits = end_points["logits"] = tf.squeeze(self._conv(x), [1, 2])
        return logits, end_points


def pad(x: tf.Tensor, total: int) -> tf.Tensor:
    """Pads height and width with `total` zeros each: total // 2 before, the rest after."""
    before = total // 2
    both = [before, total - before]
    return tf.pad(x, [[0, 0], both, both, [0, 0]])


def max_pool(x: tf.Tensor, size: int, stride: int, padding: str = "fixed") -> tf.Tensor:
    """Max pooling; `padding` as for `Conv`, zeros too."""
    if padding == "fixed":
        x = pad(x, size - 1)
    return tf.nn.max_pool2d(x, ksize=size, strides=stride, padding="VALID")


def dropout(x: tf.Tensor, rate: float, key: tf.Tensor) -> tf.Tensor:
    """Sets a share `rate` of the values to 0 and scales the others by 1 / (1 - rate).

    Args:
        key: int32 [3]; equal keys drop the same values. The replicas of a step drop different ones.
    """
    # The factor is arbitrary: it only keeps the seeds of replicas apart.
    seed = key[:2] - tf.stack([key[2] * 1000003, 0])
    kept = tf.random.stateless_uniform(tf.shape(x), seed=seed) >= rate
    return tf.where(kept, x / (1 - rate), tf.zeros_like(x))


def draws(count: int, key: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1), float32 [count], the same in all replicas of a step.

    Args:
        key: int32 [3].
    """
    return tf.random.stateless_uniform([count], seed=key[:2])


def fold(key: tf.Tensor, stream: int) -> tf.Tensor:
    """A separate key for each kind of random decision in a step.

    Args:
        key: int32 [3]: the seed, the step (below 2**27) and the replica.
        stream: number of the kind, 0 to 15.
    """
    return key + tf.constant([0, stream << 27, 0], tf.int32)


def l2_penalty(module: tf.Module) -> tf.Tensor:
    """The sum over the module's convolutions of weight decay x sum(kernel ** 2) / 2, a scalar."""
    terms = [
        layer.weight_decay * tf.nn.l2_loss(layer.kernel)
        for layer in module.submodules
        if isinstance(layer, Conv) and layer.weight_decay
    ]
    return tf.add_n(terms) if terms else tf.constant(0.0)
