"""The features of an image: the end points of a frozen network, pooled to a few thousand values."""

import math
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader import Pipeline
from pretexture.loader.shards.remote import DEFAULT_STORAGE, Storage

from ..engines import sessions
from ..engines.npu_options import DEFAULTS, NpuOptions
from ..exports.description import Description, ExportError, read_description
from ..exports.saved_model import build_trained, checkpoint_source, inference
from ..exports.weights import Weights
from ..networks.layers import Scope
from ..recipes import Recipe
from ..runs.mirror import fetched


class Representation:
    """The network of an export, frozen.

    Args:
        module: folder of the export; a path or a URL.
        storage: how a URL is reached and where its copy is kept.

    Attributes:
        module: see above.
        folder: path of the folder, or of its copy.
        pipeline: pipeline that makes the network's input, as the export says.
        patches: whether the network takes patches of an image.
        end_points: names of the end points, in order from the image to the logits.
        step: number of steps for which the network was trained; None if that is not known.

    Raises: ExportError if the folder is not an export; FetchError.
    """

    def __init__(self, module: str, storage: Storage = DEFAULT_STORAGE):
        folder = fetched(module, storage, "module")
        description = read_description(folder)
        outputs = description.end_points.get("logits", (None,))[-1]
        if outputs is None:
            raise ExportError(f"{module} does not say how many logits its network has")
        checkpoint = os.path.join(folder, "variables", "variables")
        self._take(module, folder, description, list(description.end_points), outputs, checkpoint)

    def _take(
        self,
        module: str,
        folder: str,
        description: Description,
        end_points: List[str],
        outputs: int,
        checkpoint: str,
    ) -> None:
        self.module = module
        self.folder = folder
        self.pipeline = description.representation_pipeline
        self.patches = description.patches
        self.end_points = end_points
        self.step = description.step
        self._description = description
        self._outputs = outputs
        self._checkpoint = checkpoint

    def network(self) -> Callable[[tf.Tensor], Dict[str, tf.Tensor]]:
        """Builds the network; in the default graph if TensorFlow is not eager.

        Returns: a function from float32 [N, H, W, 3] to the end points.
        """
        scope = Scope(values=Weights(self._checkpoint).value, frozen=True)
        described = self._description
        return build_trained(described.network, described.pipeline, scope, self._outputs)


class CheckpointRepresentation(Representation):
    """The network of a checkpoint, without an export; see `Representation`.

    Args:
        recipe: recipe of the run.
        path: path of the checkpoint, without the endings of its files.
        step: its step.
    """

    def __init__(self, recipe: Recipe, path: str, step: int):
        source = checkpoint_source(recipe, path, step)
        with tf.Graph().as_default():
            image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
            _, points = inference(source, image)
        folder = os.path.dirname(path)
        self._take(path, folder, source.description, list(points), source.outputs, path)


class FrozenFeatures:
    """The features of images by end point.

    Args:
        representation: the network.
        recipe: how maps become features; see `features`.
        pipeline: pipeline that makes the views.
        end_points: names of the end points; () for all.
        npu: how an NPU runs `compute`.

    Attributes:
        sizes: number of features by end point.

    Raises: ValueError for an unknown end point, or if the network does not take the pipeline's
        views.
    """

    def __init__(
        self,
        representation: Representation,
        recipe: Recipe,
        pipeline: Pipeline,
        end_points: Sequence[str] = (),
        npu: NpuOptions = DEFAULTS,
    ):
        _check_views(representation, pipeline)
        unknown = set(end_points) - set(representation.end_points)
        if unknown:
            raise ValueError(
                f"the module has no end point {', '.join(sorted(unknown))}, but "
                f"{', '.join(representation.end_points)}"
            )
        self._names = list(end_points or representation.end_points)
        self._recipe = recipe
        self._representation = representation
        # Without eager execution, each graph builds its own network with its own variables.
        self._network = representation.network() if tf.executing_eagerly() else None
        plan = pipeline.compile(training=False)
        shape = [None, *plan.views, plan.height, plan.width, 3]
        self._compiled = _Compiled(self._join, shape, npu)
        self.sizes: Dict[str, int] = dict(self._sizes)

    def features(self, image: tf.Tensor) -> Dict[str, tf.Tensor]:
        """The features of images; see `features`."""
        network = self._network or self._representation.network()
        return features(network, image, self._recipe, self._names)

    def compute(self, image: np.ndarray) -> np.ndarray:
        """All features of a batch of images side by side, float32 [N, sum of sizes]."""
        return self._compiled(image)

    def split(self, joined: tf.Tensor) -> Dict[str, tf.Tensor]:
        """What `compute` joined, by end point."""
        return dict(zip(self.sizes, tf.split(joined, list(self.sizes.values()), axis=1)))

    def _join(self, image: tf.Tensor) -> tf.Tensor:
        found = self.features(image)
        self._sizes = {name: int(value.shape[1]) for name, value in found.items()}
        return tf.concat(list(found.values()), axis=1)


class _Compiled:
    """A function of float32 tensors as a function of arrays, by `tf.function` or in a session.

    Args:
        function: function from a tensor to a tensor; it is traced at once.
        shape: shape of its argument.
        npu: how an NPU runs it.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], tf.Tensor],
        shape: Sequence[Optional[int]],
        npu: NpuOptions,
    ):
        self._npu = npu
        self._session: Any = None
        if tf.executing_eagerly():
            specification = tf.TensorSpec(shape, tf.float32)
            self._function = tf.function(function, input_signature=[specification], autograph=False)
            self._function.get_concrete_function()
        else:
            with tf.Graph().as_default():
                self._argument = tf.compat.v1.placeholder(tf.float32, shape)
                self._result = function(self._argument)
                self._initialize = tf.compat.v1.local_variables_initializer()

    def __call__(self, argument: np.ndarray) -> np.ndarray:
        if tf.executing_eagerly():
            return self._function(tf.convert_to_tensor(argument)).numpy()
        if self._session is None:
            self._session = sessions.on_device(self._argument.graph, self._npu)
            self._session.run(self._initialize)
        return self._session.run(self._result, {self._argument: argument})


def _check_views(representation: Representation, pipeline: Pipeline) -> None:
    views = pipeline.compile(training=False).views
    if len(views) == int(representation.patches):
        return
    wanted = "the patches of an image, as EVAL_PATCHES makes them"
    raise ValueError(
        f"the module takes {wanted if representation.patches else 'one view of an image'}, and "
        f"the pipeline {pipeline} makes {' x '.join(map(str, views)) or 'one'}"
    )


def features(
    network: Callable[[tf.Tensor], Dict[str, tf.Tensor]],
    image: tf.Tensor,
    recipe: Recipe,
    end_points: Sequence[str],
) -> Dict[str, tf.Tensor]:
    """The features of a batch of images by end point.

    Args:
        network: function that `Representation.network` returns.
        image: float32 [N, H, W, C], or [N, patches, H, W, C].
        recipe: its `combine_patches`, `pooling` and `max_features` say how.
        end_points: names of the end points.

    Returns: float32 [N, features]; sizes differ by end point.
    """
    shape = image.shape.as_list()
    patches = shape[1] if len(shape) == 5 else 1
    points = network(tf.reshape(image, [-1, *shape[-3:]]))
    found = {}
    for name in end_points:
        x = tf.stop_gradient(points[name])
        if len(x.shape) == 2:
            x = x[:, tf.newaxis, tf.newaxis, :]
        x = pool(x, recipe.pooling, recipe.max_features)
        if patches > 1:
            x = combine(tf.reshape(x, [-1, patches, *x.shape.as_list()[1:]]), recipe)
        found[name] = tf.reshape(x, [-1, int(np.prod(x.shape.as_list()[1:]))])
    return found


def combine(x: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Combines the maps of an image's patches: their mean, their maximum, or all channels.

    Shapes: [N, P, H, W, C] -> [N, H, W, C], or [N, H, W, C * P] for "concat".
    """
    if recipe.combine_patches == "avg_pool":
        return tf.reduce_mean(x, axis=1)
    if recipe.combine_patches == "max_pool":
        return tf.reduce_max(x, axis=1)
    _, patches, height, width, channels = x.shape.as_list()
    x = tf.transpose(x, [0, 2, 3, 4, 1])
    return tf.reshape(x, [-1, height, width, channels * patches])


def pool(x: tf.Tensor, mode: str, target: int) -> tf.Tensor:
    """Pools height and width of a map that has more than `target` values.

    As `adaptive_pool` in utils.py of the published code. If a map cannot be cut evenly, that
    function draws in each step which parts are larger; here the cuts are always the same.

    Args:
        x: float32 [N, H, W, C].
        mode: "adaptive_max" and "adaptive_avg" cut the map into n rows and n columns, at most as
            many as it has; n is one of the two whole numbers next to sqrt(target / C), the one for
            which n x n x C is closer to `target`. "max" and "avg" take square windows of side
            ceil(sqrt(H x W x C / target)) side by side, and leave out the remainder at the right
            and the bottom.
        target: number of values, which adaptive pooling may exceed. Channels are never pooled.

    Returns: float32 [N, h, w, C].
    """
    _, height, width, channels = x.shape.as_list()
    if height * width * channels <= target:
        return x
    if mode.startswith("adaptive_"):
        side = math.floor(math.sqrt(target / channels))
        if abs(target - channels * side**2) >= abs(target - channels * (side + 1) ** 2):
            side += 1
        side = max(1, side)
        reduce = tf.reduce_max if mode == "adaptive_max" else tf.reduce_mean
        for axis, size in ((1, height), (2, width)):
            parts = [
                reduce(tf.gather(x, tf.range(begin, end), axis=axis), axis=axis)
                for begin, end in _cuts(size, min(size, side))
            ]
            x = tf.stack(parts, axis=axis)
        return x
    window = math.ceil(math.sqrt(height * width * channels / target))
    window = min(window, height, width)
    function = tf.nn.max_pool2d if mode == "max" else tf.nn.avg_pool2d
    return function(x, ksize=window, strides=window, padding="VALID")


def _cuts(size: int, count: int) -> List[Tuple[int, int]]:
    """`size` pixels cut into `count` adjacent ranges."""
    edges = [i * size // count for i in range(count + 1)]
    return list(zip(edges, edges[1:]))
