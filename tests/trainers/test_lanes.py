"""Runs with the same seed, data and recipe are the same on every TensorFlow, also in turns."""

import concurrent.futures
import itertools
import json
import os
import shutil
import subprocess

import pytest

tf = pytest.importorskip("tensorflow")

import lanes
import trained
from pretexture.trainers.networks import revnet
from pretexture.trainers.runs import checkpoints
from pretexture.trainers.runs.metrics import read_metrics

# Losses of TensorFlow 2.21, which all others must give, too.
LOSSES = {
    "rotation": [
        *(1.616608, 1.602906, 1.588549, 1.560537, 1.524145),
        *(1.502195, 1.465201, 1.409081, 1.420987, 1.427089),
    ],
    "adam": [
        *(1.616608, 1.523646, 1.444808, 1.358936, 1.248701),
        *(1.191910, 1.088093, 1.005698, 0.999322, 1.017043),
    ],
    "jigsaw": [
        *(4.600409, 4.604029, 4.609583, 4.618045, 4.545259),
        *(4.610855, 4.655955, 4.539664, 4.791476, 4.908824),
    ],
    "exemplar": [
        *(0.487639, 0.485407, 0.478109, 0.482137, 0.481862),
        *(0.478801, 0.480921, 0.487549, 0.496475, 0.479928),
    ],
    "reversible": [
        *(1.648246, 1.660416, 1.632923, 1.663487, 1.647695),
        *(1.643927, 1.772202, 1.655671, 1.638578, 1.638877),
    ],
}


def _losses(workdir):
    return [line["loss"] for line in read_metrics(str(workdir))]


@pytest.mark.parametrize("recipe", lanes.GENTLE)
def test_first_ten_losses_are_the_same_on_every_tensorflow(recipe, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(revnet, "UNITS", lanes.UNITS)
    lanes.train(recipe, shards, str(tmp_path), 10)
    losses = _losses(tmp_path)
    assert losses == pytest.approx(LOSSES[recipe], abs=1e-4), losses


def _do(jobs):
    """Lets each interpreter do its list of jobs, all at the same time."""

    def process(python):
        program = os.path.join(os.path.dirname(__file__), "lanes.py")
        command = [python, program, json.dumps(jobs[python])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"{python}: {done.stdout}"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(process, jobs))


@pytest.fixture
def pythons():
    """An interpreter for each TensorFlow, by the name that the folders of its runs get."""
    if "PRETEXTURE_LANES" not in os.environ:
        pytest.skip("PRETEXTURE_LANES names no interpreters with other TensorFlows")
    named = dict(zip("abcdef", os.environ["PRETEXTURE_LANES"].split()))
    assert len(named) >= 3
    return named


def test_a_run_is_resumed_and_exported_on_another_tensorflow(pythons, shards, tmp_path):
    recipes = ("adam", "reversible")
    runs = list(itertools.product(recipes, pythons, pythons))

    def run(recipe, name, steps):
        workdir = str(tmp_path / recipe / name)
        return {"recipe": recipe, "data": shards, "workdir": workdir, "steps": steps}

    _do({python: [run(recipe, lane, 5) for recipe in recipes] for lane, python in pythons.items()})
    for recipe, first, second in runs:
        start = tmp_path / recipe / first
        shutil.copytree(str(start), str(tmp_path / recipe / (first + second)))
    going_on = {python: [] for python in pythons.values()}
    for recipe, first, second in runs:
        going_on[pythons[second]].append(run(recipe, first + second, 10))
    _do(going_on)
    for recipe, first, second in runs:
        mixed, whole = (tmp_path / recipe / (start + second) for start in (first, second))
        assert len(_losses(whole)) == 10
        assert _losses(mixed) == pytest.approx(_losses(whole), abs=1e-4), mixed
        assert _loader_state(mixed) == _loader_state(whole)

    exports = {python: [] for python in pythons.values()}
    ways = list(itertools.permutations(pythons, 3)) + [(lane,) * 3 for lane in pythons]
    for first, second, third in ways:
        workdir, out = (
            tmp_path / "reversible" / (first + second),
            tmp_path / (first + second + third),
        )
        exports[pythons[third]].append({"workdir": str(workdir), "out": str(out)})
    _do(exports)
    image = trained.images(2, 40, 48, 3)
    (expected,) = trained.use(tmp_path / "aaa", image)
    for way in ways:
        (found,) = trained.use(tmp_path / "".join(way), image)
        trained.assert_agree(found, expected, tolerance=1e-3)


def _loader_state(workdir):
    """The loader's state after ten steps; its next batch is the second one of the fourth epoch."""
    path = checkpoints.checkpoint_path(str(workdir), 10)
    state = checkpoints.read(path, ["global_step"])[1]
    assert (state["epoch"], state["batch"]) == (3, 1)
    return state
