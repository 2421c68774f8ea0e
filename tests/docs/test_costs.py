"""docs/costs.md: its tables are current, and the counts agree with published ones."""

import math

import pages
import pytest

tf = pytest.importorskip("tensorflow", minversion="2.16", reason="other versions have other graphs")

from pretexture.loader.console.marked import replace_marked
from pretexture.trainers import costs
from pretexture.trainers.recipes import RECIPES


def test_a_resnet_50_takes_the_operations_that_others_count():
    # 4.09 billion multiply-adds: the GFLOPS of torchvision's ResNet50_Weights.
    v1 = RECIPES["supervised"].replace(mode="v1", batch_size=2)
    assert costs.cost(v1).flops == pytest.approx(2 * 4.09e9, rel=3e-3)


def test_a_convolution_counts_two_operations_for_each_multiply_add():
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [2, 8, 8, 3])
        tf.nn.conv2d(image, tf.ones([5, 5, 3, 7]), strides=2, padding="SAME")
        (conv,) = [op for op in graph.get_operations() if op.type == "Conv2D"]
        assert costs._flops(conv) == 2 * (2 * 4 * 4 * 7) * (5 * 5 * 3)


def test_rotation_has_the_published_size_and_the_memory_that_docs_training_counts():
    found = costs.cost(RECIPES["rotation"])
    assert found.parameters == 85798404
    assert f"{found.batch_size * found.activations / 2**30:.1f} GiB" in pages.text(
        "docs/training.md"
    )
    # 1,231,121 images make 19,236 whole batches of 64 in each of 35 epochs.
    assert found.steps == 19236 * 35 and found.images == 19236 * 35 * 64


def test_time_and_memory_follow_from_the_counts():
    one = costs.Cost(images=10, steps=5, parameters=100, flops=7, activations=30, batch_size=2)
    assert one.training_flops == 210
    assert one.memory == 1200 + 60
    assert math.isclose(one.seconds(peak=1.0, utilisation=0.5), 420)


def test_the_page_is_current():
    page = pages.text("docs/costs.md")
    assert page == replace_marked(page, "costs", costs.table())
