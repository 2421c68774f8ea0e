"""Training that is stopped and resumed, with every optimiser and kind of loss scale."""

import itertools

import pytest
import several
import tiny
from pretexture.trainers.runs.checkpoints import CheckpointError, Checkpoints

# Pairs of an optimiser and a loss scale: None for no scale, 0 for one that changes.
KINDS = list(itertools.product(("sgd", "adam"), (None, 128.0, 0.0)))
BEFORE = 3  # steps before the training is stopped


def assert_powers(folder, optimizer):
    """The checkpoint of step BEFORE has Adam's decay rates to the power of the next step."""
    found = several.variables(folder, BEFORE)
    powers = {name: value for name, value in found.items() if name.endswith("_power")}
    expected = {"beta1_power": 0.9 ** (BEFORE + 1), "beta2_power": 0.999 ** (BEFORE + 1)}
    assert powers.keys() == (expected.keys() if optimizer == "adam" else set())
    for name, value in powers.items():
        assert abs(value - expected[name]) < 1e-6


def assert_resumes(engine, folder, optimizer):
    """A resumed engine trains as if it had never been stopped, and needs all optimiser variables.

    Args:
        engine: function that makes equal engines for batches of `tiny.turned`.
        folder: folder for checkpoints.
        optimizer: name of the optimiser.
    """
    batches = [tiny.turned(step) for step in range(2 * BEFORE)]
    whole, first, second = engine(), engine(), engine()
    expected = tiny.train(whole, batches)
    tiny.train(first, batches[:BEFORE])
    state = dict(first.state())
    path = Checkpoints(str(folder)).save(BEFORE, state, {})
    assert_powers(folder, optimizer)
    second.restore(path)
    assert tiny.train(second, batches[BEFORE:]) == expected[BEFORE:]

    needed = [name for name in state if name.endswith(("Momentum", "Adam", "Adam_1", "_power"))]
    assert needed
    lacking = Checkpoints(str(folder / "lacking"))
    (folder / "lacking").mkdir()
    for number, name in enumerate(needed):
        others = {other: value for other, value in state.items() if other != name}
        path = lacking.save(number, others, {})
        with pytest.raises(CheckpointError, match=f"has no variable {name}$"):
            second.restore(path)
