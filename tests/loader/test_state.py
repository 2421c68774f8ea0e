"""The state of a Loader is a few integers; what follows is the same wherever it is restored."""

import json
import pickle

import numpy as np
import pytest
from pretexture.loader import Loader, TFRecords, WindowShuffle

pytestmark = pytest.mark.usefixtures("no_hang")


def make(shards, threads=2, **kwargs):
    return Loader(TFRecords(shards), "inception(24)", 4, threads=threads, seed=9, **kwargs)


def take(loader, count):
    """The next batches, over the ends of epochs."""
    batches = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for a, b in zip(batches, expected):
        for left, right in zip(a, b):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"shuffle": WindowShuffle(3, 4)},
        {"shuffle": False, "drop_remainder": False},
        {"training": False},
        {"shard": (1, 2), "drop_remainder": False},
    ],
    ids=str,
)
def test_a_resume_at_any_batch_continues_with_the_same_bits(kwargs, shards):
    with make(shards, threads=1, **kwargs) as loader:
        epoch = len(loader)
        expected, states = [], [loader.state_dict()]
        for _ in range(2):
            for batch in loader:
                expected.append(batch)
                states.append(loader.state_dict())
    assert len(states) == 2 * epoch + 1
    for number, state in enumerate(states[: epoch + 2]):
        state = json.loads(json.dumps(state))
        with make(shards, threads=1 + number % 4, **kwargs) as other:
            other.load_state_dict(state)
            rest = list(other)
            # At the end of an epoch, the next one is what is left.
            end = (number // epoch + 1) * epoch
            assert_same(rest, expected[number:end])
            if end == epoch:
                assert_same(list(other), expected[epoch:])


def test_one_loader_can_go_back_and_forth(shards):
    with make(shards) as loader:
        states, expected = [], []
        for batch in loader:
            states.append(loader.state_dict())
            expected.append(batch)
        for number in (7, 2, 2, 0, 6):
            loader.load_state_dict(states[number])
            assert loader.state_dict() == states[number]
            assert_same(list(loader), expected[number + 1 :])


def test_a_state_can_be_loaded_amid_an_iteration(shards):
    with make(shards) as loader:
        state = loader.state_dict()
        iterator = iter(loader)
        first = next(iterator)
        next(iterator)
        loader.load_state_dict(state)
        with pytest.raises(RuntimeError, match="its state was loaded"):
            next(iterator)
        assert_same([next(iter(loader))], [first])


def test_a_state_taken_amid_an_iteration_says_which_batch_comes_next(shards):
    with make(shards) as loader:
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 0)
        for number, _ in enumerate(loader, 1):
            state = loader.state_dict()
            assert (state["epoch"], state["batch"]) == (0, number)
            if number == 3:
                break
        assert loader.state_dict() == state
        # A loop that was left is not gone back to, unless its state is loaded.
        next(iter(loader))
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 1)


def test_an_ended_epoch_is_followed_by_the_next(shards):
    with make(shards) as loader:
        batches = take(loader, 2 * len(loader))
        list(loader)
        state = loader.state_dict()
        assert (state["epoch"], state["batch"]) == (3, 0)
    with make(shards) as other:
        other.load_state_dict({**state, "epoch": 0, "batch": len(other)})
        assert_same(list(other), batches[len(other) :])


def test_the_state_is_plain_and_small(shards):
    with make(shards, shuffle=WindowShuffle(3, 4)) as loader:
        take(loader, 3)
        state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert pickle.loads(pickle.dumps(state)) == state
    assert len(json.dumps(state)) < 300


def test_threads_dtype_layout_and_backend_may_differ(shards):
    pytest.importorskip("cv2")
    with make(shards) as loader:
        take(loader, 3)
        state = loader.state_dict()
        batch = next(iter(loader))  # of the next epoch
    with make(shards, threads=1, layout="NCHW", dtype="float16", backend="reference") as other:
        other.load_state_dict({**state, "epoch": 1, "batch": 0})
        first = next(iter(other))
    np.testing.assert_array_equal(first.index, batch.index)
    difference = np.moveaxis(first.image, 1, -1).astype(np.float32) - batch.image
    assert np.abs(difference).max() < 0.002


def test_restoring_far_into_a_run_is_immediate(shards):
    with make(shards) as loader:
        state = {**loader.state_dict(), "epoch": 2**32 - 2, "batch": 5}
        loader.load_state_dict(state)
        batches = list(loader)
        assert len(batches) == len(loader) - 5
        assert loader.state_dict()["epoch"] == 2**32 - 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"seed": 1}, "seed=1, this Loader has 9"),
        ({"records": 38}, "records=38, this Loader has 37"),
        ({"batch_size": 5}, "batch_size=5, this Loader has 4"),
        ({"shard": [1, 2]}, r"shard=\[1, 2\], this Loader has \[0, 1\]"),
        ({"shuffle": "False"}, "shuffle='False', this Loader has 'True'"),
        ({"drop_remainder": False}, "drop_remainder=False, this Loader has True"),
        ({"epoch": -1}, "epoch in the state must be from 0"),
        ({"batch": 99}, "batch in the state must be from 0 to 9"),
        ({"batch": None}, "batch in the state must be a whole number"),
        ({"version": 3}, "another version"),
        ({"version": 2, "begin": [0]}, "begin in the state must be two numbers"),
        ({"version": 2, "begin": [0, 38]}, "begin in the state must be from 0 to 37"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(changed, reason, shards):
    with make(shards) as loader:
        take(loader, 2)
        state = loader.state_dict()
        with pytest.raises(ValueError, match=reason):
            loader.load_state_dict({**state, **changed})
        assert loader.state_dict() == state
    with make(shards) as loader, pytest.raises(ValueError, match="not the state of a Loader"):
        loader.load_state_dict(None)
