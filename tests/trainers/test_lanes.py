"""The same seed, data and recipe learn the same on every TensorFlow."""

import dataclasses

import pytest

tf = pytest.importorskip("tensorflow")

import tiny  # noqa: E402
from pretexture.trainers.metrics import read_metrics  # noqa: E402
from pretexture.trainers.run import Options, pretrain  # noqa: E402

# Gentle, so that rounding does not grow.
RECIPE = dataclasses.replace(tiny.ROTATION, lr=0.1, warmup_epochs=0.0, batch_size=12)

# From TensorFlow 2.21; the same for every other.
LOSSES = [
    1.616608,
    1.602906,
    1.588549,
    1.560537,
    1.524145,
    1.502195,
    1.465201,
    1.409081,
    1.420987,
    1.427089,
]


def test_the_first_ten_losses_are_the_same_on_every_tensorflow(shards, tmp_path):
    options = Options(shards, str(tmp_path), steps=10, log_steps=1, device="cpu")
    pretrain(RECIPE, options, say=lambda line: None)
    losses = [line["loss"] for line in read_metrics(str(tmp_path))]
    assert losses == pytest.approx(LOSSES, abs=1e-4), losses
