"""What a full run costs: counted from the graph of a training step, not measured.

`python -m pretexture.trainers.costs FILE` writes the tables between the marks of a document.
"""

import dataclasses
import math
import sys
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import tensorflow as tf
from pretexture.loader import Pipeline
from pretexture.loader.console.files import write_text
from pretexture.loader.console.marked import replace_marked

from . import tasks
from .networks.layers import Scope
from .recipes import RECIPES, Recipe
from .tasks.task import Batch, objective

# ImageNet's records by split, as in DatasetImagenet.COUNTS of the published code.
RECORDS = {"train": 1231121, "val": 50046, "trainval": 1281167, "test": 50000}
FULL = ("supervised", "supervised-npu", "rotation", "exemplar", "jigsaw", "relative_patch_location")
# What the manufacturers say of 16-bit multiply-adds, in floating-point operations a second.
HARDWARE = {
    "8 TPU v2 cores": 180e12,
    "32 TPU v2 cores": 720e12,
    "1 Ascend 910": 256e12,
    "8 Ascend 910": 2048e12,
}
# The part of the peak that training reaches. An assumption.
UTILISATION = 0.3

# Images of the graph: as few as batch normalisation and triplets can do with.
_IMAGES = 2
# They read the shape of a tensor, not its values.
_SHAPES = ("Shape", "ShapeN", "ZerosLike")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a recipe costs on ImageNet.

    Attributes:
        images: images read in all epochs.
        steps: training steps.
        parameters: trained parameters.
        flops: floating-point operations of the forward pass for an image with all its views; a
            multiply-add counts as two, and only convolutions and matrix products count.
        activations: bytes of one image's activations that the backward pass needs, in float32.
        batch_size: images in a step.
    """

    images: int
    steps: int
    parameters: int
    flops: int
    activations: int
    batch_size: int

    @property
    def training_flops(self) -> float:
        """Operations of the run: a backward pass takes two of each that a forward pass takes."""
        return 3.0 * self.flops * self.images

    @property
    def memory(self) -> int:
        """Bytes of a step in float32: weights, gradients, momentum, and activations."""
        return 3 * 4 * self.parameters + self.batch_size * self.activations

    def seconds(self, peak: float, utilisation: float = UTILISATION) -> float:
        """Seconds of the run on hardware with this peak, in operations a second."""
        return self.training_flops / (peak * utilisation)


def cost(recipe: Recipe) -> Cost:
    """Counts what a recipe costs. Builds a graph, and allocates none of its variables."""
    per_epoch = RECORDS[recipe.train_split] // recipe.batch_size
    steps = math.ceil(recipe.epochs * per_epoch)
    with tf.Graph().as_default() as graph:
        parameters, views, forward, backward = _graph(recipe, graph)
        return Cost(
            images=steps * recipe.batch_size,
            steps=steps,
            parameters=parameters,
            flops=sum(map(_flops, forward)) // _IMAGES,
            activations=_kept(forward, backward, views) // _IMAGES,
            batch_size=recipe.batch_size,
        )


def _graph(recipe: Recipe, graph: tf.Graph) -> Tuple[int, int, List[Any], List[Any]]:
    """Parameters, views of an image, and the operations of the forward and the backward pass."""
    v1 = tf.compat.v1
    (plan,) = Pipeline(recipe.pipeline).compile(training=True).branches
    labels = plan.label_dims
    batch = Batch(
        v1.placeholder(tf.float32, [_IMAGES, *plan.views, plan.height, plan.width, 3]),
        v1.placeholder(tf.int32, [_IMAGES, *labels]),
        v1.placeholder(tf.int64, [_IMAGES]),
    )
    task, scope = tasks.build(recipe), Scope()
    model = task.model(recipe, scope, (plan.height, plan.width, 3), tf.float32)
    loss, _ = objective(task, model, batch, v1.placeholder(tf.int32, [3]))
    forward = graph.get_operations()
    trained = list(scope.trained.values())
    tf.gradients(loss, trained)
    parameters = sum(int(np.prod(variable.shape.as_list())) for variable in trained)
    views = int(np.prod(plan.views, dtype=int))
    return parameters, views, forward, graph.get_operations()[len(forward) :]


def _flops(operation: Any) -> int:
    """Floating-point operations of a convolution or a matrix product; 0 of anything else."""
    if operation.type not in ("Conv2D", "MatMul"):
        return 0
    kernel = operation.inputs[1].shape.as_list()
    # Of a matrix that is not transposed, the first side is summed over, as all but the last side
    # of a convolution's kernel are.
    return 2 * int(np.prod(operation.outputs[0].shape.as_list())) * int(np.prod(kernel[:-1]))


def _kept(forward: Sequence[Any], backward: Sequence[Any], views: int) -> int:
    """Bytes of the forward pass's activations that the backward pass reads."""
    made = {output.name: output for operation in forward for output in operation.outputs}
    reading = [operation for operation in backward if operation.type not in _SHAPES]
    read = {tensor.name for operation in reading for tensor in operation.inputs} & set(made)
    shapes = [made[name].shape.as_list() for name in read if made[name].shape.rank == 4]
    return 4 * sum(int(np.prod(shape)) for shape in shapes if shape[0] == _IMAGES * views)


def table() -> str:
    """The full recipes' costs as tables in Markdown."""
    found: Dict[str, Cost] = {}
    for name in FULL:
        found[name] = cost(RECIPES[name])
    lines = [
        "| recipe | million images | steps | parameters | GFLOPs an image | GiB in float32 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in found.items():
        lines.append(
            f"| `{name}` | {one.images / 1e6:.1f} | {one.steps:,} | {one.parameters:,} "
            f"| {one.flops / 1e9:,.1f} | {one.memory / 2**30:.1f} |"
        )
    lines += [
        "",
        f"Days, if {UTILISATION:.0%} of the peak is reached:",
        "",
        f"| recipe | {' | '.join(HARDWARE)} |",
        f"| --- |{' ---: |' * len(HARDWARE)}",
    ]
    for name, one in found.items():
        days = [f"{one.seconds(peak) / 86400:,.1f}" for peak in HARDWARE.values()]
        lines.append(f"| `{name}` | {' | '.join(days)} |")
    return "\n".join(lines) + "\n"


def main(path: str) -> None:
    """Writes the tables to a document, between its marks."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    write_text(path, replace_marked(text, "costs", table()))


if __name__ == "__main__":
    main(sys.argv[1])
