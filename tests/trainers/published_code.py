"""The networks of the published code, written a second time to compare ours with.

They follow models/resnet.py and models/vggnet.py of github.com/google/revisiting-self-supervised,
as TensorFlow 1 graphs in inference mode. Each function creates its variables in the order in which
that code calls `tf.layers`, which numbers their names.

`TfLayers` uses `tf.layers` itself, if TensorFlow still has it. `PlainLayers` needs only
`tf.compat.v1.get_variable`, and normalises by the formula.
"""

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


class TfLayers:
    """Layers that `tf.layers` makes."""

    def conv(self, x, filters, size, stride=1, padding="SAME", bias=False):
        return v1.layers.conv2d(x, filters, size, stride, padding, use_bias=bias)

    def norm(self, x):
        return v1.layers.batch_normalization(x, fused=True, training=False)


class PlainLayers:
    """The same layers, whose names are numbered here."""

    def __init__(self):
        self._made = []

    def _scope(self, kind):
        number = self._made.count(kind)
        self._made.append(kind)
        return v1.variable_scope(f"{kind}_{number}" if number else kind)

    def _variable(self, name, shape):
        return v1.get_variable(name, shape, initializer=v1.zeros_initializer())

    def conv(self, x, filters, size, stride=1, padding="SAME", bias=False):
        height, width = size if isinstance(size, tuple) else (size, size)
        with self._scope("conv2d"):
            kernel = self._variable("kernel", [height, width, int(x.shape[3]), filters])
            x = tf.nn.conv2d(x, kernel, strides=[1, stride, stride, 1], padding=padding)
            return x + self._variable("bias", [filters]) if bias else x

    def norm(self, x):
        with self._scope("batch_normalization"):
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            gamma, beta, mean, variance = (self._variable(n, [int(x.shape[3])]) for n in names)
            return gamma * (x - mean) / tf.sqrt(variance + 0.001) + beta


IMPLEMENTATIONS = {"plain": PlainLayers}
try:
    v1.layers.conv2d  # noqa: B018
    IMPLEMENTATIONS["tf.layers"] = TfLayers
except AttributeError:  # TensorFlow with Keras 3 has no tf.layers
    pass


def pad(x, size):
    """Pads with zeros: size - 1 on both sides together."""
    before = (size - 1) // 2
    both = [before, size - 1 - before]
    return tf.pad(x, [[0, 0], both, both, [0, 0]])


def root_pool(x):
    return tf.nn.max_pool2d(pad(x, 3), 3, 2, "VALID")


def unit_v1(layers, x, filters, stride):
    shortcut = x
    if stride > 1 or int(x.shape[3]) != filters:
        shortcut = layers.norm(layers.conv(x, filters, 1, stride))
    x = tf.nn.relu(layers.norm(layers.conv(x, filters // 4, 1)))
    x = tf.nn.relu(layers.norm(layers.conv(pad(x, 3), filters // 4, 3, stride, "VALID")))
    return tf.nn.relu(shortcut + layers.norm(layers.conv(x, filters, 1)))


def unit_v2(layers, x, filters, stride, shortcut=True):
    skipped = x
    x = tf.nn.relu(layers.norm(x))
    if stride > 1 or int(x.shape[3]) != filters:
        skipped = layers.conv(x, filters, 1, stride, "VALID")
    x = tf.nn.relu(layers.norm(layers.conv(x, filters // 4, 1)))
    x = tf.nn.relu(layers.norm(layers.conv(pad(x, 3), filters // 4, 3, stride, "VALID")))
    x = layers.conv(x, filters, 1)
    return x + skipped if shortcut else x


def top(layers, x, classes, points):
    x = points["pre_logits"] = tf.reduce_mean(x, [1, 2], keepdims=True)
    points["logits"] = layers.conv(x, classes, 1, padding="VALID", bias=True)
    for name in ("pre_logits", "logits"):
        points[name] = tf.squeeze(points[name], [1, 2])
    return points


def resnet50(layers, x, factor, classes, mode="v2", last_relu=True, patch_strides=False):
    filters = int(16 * factor)
    points = {}
    x = layers.conv(pad(x, 7), filters, 7, 1 if patch_strides else 2, "VALID")
    if mode == "v1":
        x = tf.nn.relu(layers.norm(x))
    x = points["after_root"] = root_pool(x)
    unit = unit_v1 if mode == "v1" else unit_v2
    strides = (1, 2, 2, 1) if patch_strides else (1, 2, 2, 2)
    for block, (units, stride) in enumerate(zip((3, 4, 6, 3), strides)):
        for number in range(units):
            x = unit(layers, x, filters * 4 * 2**block, 1 if number else stride)
        points[f"block{block + 1}"] = x
    if mode == "v2":
        x = layers.norm(x)
        x = tf.nn.relu(x) if last_relu else x
    return top(layers, x, classes, points)


def revnet50(layers, x, factor, classes, mode="v2", last_relu=True, patch_strides=False):
    points = {}
    x = layers.conv(pad(x, 7), int(64 * factor), 7, 1 if patch_strides else 2, "VALID")
    x = points["after_root"] = root_pool(x)
    strides = (2, 2, 1) if patch_strides else (2, 2, 2)
    for block, units in enumerate((3, 4, 6, 3)):
        if block:
            stride = strides[block - 1]
            if stride > 1:
                x = tf.nn.avg_pool2d(x, stride, stride, "SAME")
            half = int(x.shape[3]) // 2
            x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [half, half]])
        for _ in range(units):
            x1, x2 = tf.split(x, 2, 3)
            function = unit_v2(layers, x2, int(x2.shape[3]), 1, shortcut=False)
            x = tf.concat([x2, x1 + function], 3)
        points[f"block{block + 1}"] = x
    x = layers.norm(x)
    return top(layers, tf.nn.relu(x) if last_relu else x, classes, points)


def vgg19(layers, x, factor, classes, mode="v2", last_relu=True, patch_strides=False):
    points = {}
    for block, (convolutions, width) in enumerate(((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))):
        for _ in range(convolutions):
            x = tf.nn.relu(layers.norm(layers.conv(x, int(8 * factor) * width, 3)))
        points[f"block{block + 1}"] = x
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    size = tuple(x.shape.as_list()[1:3])
    x = tf.nn.relu(layers.norm(layers.conv(x, int(512 * factor), size, padding="VALID")))
    points["fc6"] = x
    x = tf.nn.relu(layers.norm(layers.conv(x, int(512 * factor), 1, padding="VALID")))
    return top(layers, x, classes, points)


def pooled(x, target, mode):
    """`adaptive_pool` of utils.py, as `apply_fractional_pooling` of linear_eval.py calls it."""
    _, size, width, channels = x.shape.as_list()
    if size * width * channels <= target:
        return x
    if mode.startswith("adaptive_"):
        side = (target / channels) ** 0.5
        low, high = np.floor(side), np.ceil(side)
        low_is_nearer = abs(target - channels * low**2) < abs(target - channels * high**2)
        side = max(low if low_is_nearer else high, 1.0)
        stride = min(max(size / side - 1e-5, 1), size)
        kind = v1.nn.fractional_max_pool if mode == "adaptive_max" else v1.nn.fractional_avg_pool
        return kind(x, [1, stride, stride, 1])[0]
    stride = int(np.ceil(np.sqrt(float(size * width * channels) / target)))
    stride = min(max(1, stride), size)
    function = tf.nn.max_pool2d if mode == "max" else tf.nn.avg_pool2d
    return function(x, stride, stride, "VALID")


NETWORKS = {"resnet50": resnet50, "revnet50": revnet50, "vgg19": vgg19}


class Network:
    """A network of the published code in a graph and session of its own.

    Args:
        implementation: name in IMPLEMENTATIONS.
        shape: shape of the images, [N, H, W, 3].
        architecture: name in NETWORKS.
        **options: arguments of the architecture's function.
    """

    def __init__(self, implementation, shape, architecture, **options):
        self._graph = tf.Graph()
        with self._graph.as_default():
            self._image = v1.placeholder(tf.float32, shape)
            with v1.variable_scope("module"):
                layers = IMPLEMENTATIONS[implementation]()
                self._points = NETWORKS[architecture](layers, self._image, **options)
            v1.train.get_or_create_global_step()
            self._variables = {v.op.name: v for v in v1.global_variables()}
            self._saver = v1.train.Saver()
            self._session = v1.Session()
        self.shapes = {name: v.shape.as_list() for name, v in self._variables.items()}

    def set(self, values):
        """Sets all variables, by name."""
        set_all = {name: variable.initializer for name, variable in self._variables.items()}
        feed = {set_all[name].inputs[1]: values[name] for name in set_all}
        self._session.run(list(set_all.values()), feed)

    def save(self, path):
        with self._graph.as_default():
            return self._saver.save(self._session, path, write_meta_graph=False)

    def restore(self, path):
        with self._graph.as_default():
            self._saver.restore(self._session, path)

    def __call__(self, image):
        """The end points, by name."""
        return self._session.run(self._points, {self._image: image})


def random_values(shapes, seed=0):
    """Random values that a trained network might have, by name."""
    random = np.random.RandomState(seed)
    values = {}
    for name, shape in sorted(shapes.items()):
        kind = name.split("/")[-1]
        if kind == "kernel":
            scale = (2 / np.prod(shape[:3])) ** 0.5
            values[name] = (scale * random.randn(*shape)).astype(np.float32)
        elif kind in ("gamma", "moving_variance"):
            values[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif kind == "global_step":
            values[name] = np.int64(7000)
        else:
            values[name] = (0.3 * random.randn(*shape)).astype(np.float32)
    return values
