"""Runs that are the same on every TensorFlow, and a program that makes them on the installed one.

    python lanes.py JOBS

JOBS is a JSON list of runs to start or resume, {"recipe", "data", "workdir", "steps"}, and of
networks to export, {"workdir", "out"}.
"""

import json
import sys

import tiny
from pretexture.trainers.exports.saved_model import export_run
from pretexture.trainers.networks import revnet
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.run import Options, pretrain

# The networks are shallow and the rates low, so that rounding errors stay small: if one changed the
# sign of a ReLU's input, the result would differ at once.
UNITS = (1, 2, 1, 1)  # units of the RevNet's blocks
_ROTATION = tiny.ROTATION.replace(lr=0.1, warmup_epochs=0.0, batch_size=12)
GENTLE = {
    "rotation": _ROTATION,
    "adam": _ROTATION.replace(optimizer="adam"),
    "jigsaw": tiny.JIGSAW.replace(
        lr=3.0, warmup_epochs=0.0, batch_size=12, head_units=32, weight_decay=1e-4
    ),
    "exemplar": RECIPES["exemplar"].replace(
        pipeline="inception(12, views=3)|standardize",
        architecture="tiny",
        embed_dim=5,
        batch_size=12,
        warmup_epochs=0.0,
    ),
    "reversible": RECIPES["rotation"].replace(
        pipeline="inception_crop(area=(0.5, 1))|resize(16)|range(-1, 1)|rotate",
        reversible=True,
        small_root=True,
        filters_factor=0.25,
        batch_size=12,
        lr=1e-3,
        warmup_epochs=0.0,
    ),
}


def train(recipe: str, data: str, workdir: str, steps: int) -> None:
    """Trains up to a step, with a line of metrics for each step."""
    options = Options(data, workdir, steps=steps, log_steps=1, device="cpu")
    pretrain(GENTLE[recipe], options, say=lambda line: None)


if __name__ == "__main__":
    tiny.register(lambda mapping, key, value: mapping.update({key: value}))
    revnet.UNITS = UNITS
    for job in json.loads(sys.argv[1]):
        if "out" in job:
            export_run(job["workdir"], job["out"])
        else:
            train(**job)
