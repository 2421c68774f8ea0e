"""Training if devices work on a step while Python starts the next one, as GPUs do.

In the tests of an engine, TensorFlow's own asynchronous execution stands in for a GPU: a call
returns before its step is made, and reading a value waits for it. Whole runs are made without it,
because it would write checkpoints asynchronously, too, which a GPU does not.
"""

import functools
import os
import signal

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
if not tf.executing_eagerly():
    pytest.skip("TensorFlow 1 makes its steps in a session", allow_module_level=True)

import tiny
from learned import learned
from pretexture.loader.console.interrupt import Interrupt
from pretexture.trainers import run, tasks
from pretexture.trainers.engines import tf2
from pretexture.trainers.engines.engine import Follower, Place, Wishes
from pretexture.trainers.run import DivergedError, Options, pretrain
from pretexture.trainers.runs.metrics import read_metrics

SYNCHRONOUS, ASYNCHRONOUS = Place(), Place(asynchronous=True)


class _Batches:
    """Four batches; the order in which they are taken is noted in `events`."""

    def __init__(self, events):
        self._events = events

    def __iter__(self):
        for number in range(1, 5):
            self._events.append(f"batch {number}")
            yield tiny.turned(number)


class _Noting(Follower):
    def __init__(self, events, needing=(), leaving=None):
        self.results, self.states = [], []
        self._events, self._needing, self._leaving = events, needing, leaving

    def shows(self, step):
        return False

    def wishes(self):
        taken = sum(event.startswith("batch") for event in self._events)
        return Wishes(leave=taken == self._leaving)

    def needs_state(self, step):
        return step in self._needing

    def after(self, result):
        self._events.append(f"told {result.step}")
        self.results.append(result)
        self.states.append(self.engine.step)
        return not result.agreed.leave


def _fit(place, **options):
    """The events of four steps, what the follower was told, and the engine's step then."""
    events = []
    task = tasks.build(tiny.ROTATION)
    engine = tf2.Engine(tiny.ROTATION, task, tiny.specification(6), 6, 0, place)
    follower = _Noting(events, **options)
    follower.engine = engine
    tf.config.experimental.set_synchronous_execution(not place.asynchronous)
    try:
        engine.fit(_Batches(events), 4, follower, Interrupt())
    finally:
        tf.config.experimental.set_synchronous_execution(True)
    return events, follower


def test_a_step_is_started_before_the_metrics_of_the_one_before_are_read():
    events, _ = _fit(ASYNCHRONOUS)
    assert events == [
        "batch 1",
        "batch 2",
        "told 1",
        "batch 3",
        "told 2",
        "batch 4",
        "told 3",
        "told 4",
    ]


def test_the_metrics_are_those_of_synchronous_training():
    there, here = (_fit(place)[1].results for place in (SYNCHRONOUS, ASYNCHRONOUS))
    assert [result.step for result in here] == [1, 2, 3, 4]
    assert [result.values for result in here] == [result.values for result in there]


def test_a_follower_that_needs_the_state_is_told_before_the_next_step():
    events, follower = _fit(ASYNCHRONOUS, needing=(2,))
    assert events.index("told 2") < events.index("batch 3")
    assert follower.states[1] == 2


def test_a_wish_to_leave_counts_after_the_step_that_was_started_last():
    events, follower = _fit(ASYNCHRONOUS, leaving=3)
    assert events[-2:] == ["told 2", "told 3"] and "batch 4" not in events
    assert follower.states[-1] == 3


@pytest.fixture
def train(shards, tmp_path, monkeypatch):
    """Trains at a place, in a folder of that name."""

    def train(place, name, recipe=tiny.ROTATION, **options):
        monkeypatch.setattr(tf2, "open_device", lambda *_: place)
        options = {"log_steps": 1, "steps": 5, "device": "cpu", **options}
        said = []
        outcome = pretrain(recipe, Options(shards, str(tmp_path / name), **options), said.append)
        return outcome, tmp_path / name

    return train


def test_checkpoints_and_metrics_are_those_of_synchronous_training(train):
    folders = [
        train(place, name, checkpoint_steps=2)[1]
        for place, name in ((SYNCHRONOUS, "there"), (ASYNCHRONOUS, "here"))
    ]
    assert learned(folders[0]) == learned(folders[1])
    assert all(run.Checkpoints(str(folder)).steps == [2, 4, 5] for folder in folders)
    for step in (2, 4, 5):
        there, here = (tf.train.load_checkpoint(str(f / f"model.ckpt-{step}")) for f in folders)
        for name in there.get_variable_to_shape_map():
            assert np.array_equal(there.get_tensor(name), here.get_tensor(name)), (step, name)


def test_checkpoints_by_time_are_of_the_step_made_last(train):
    _, folder = train(ASYNCHRONOUS, "run", checkpoint_seconds=0.0)
    assert run.Checkpoints(str(folder)).steps == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_metrics(str(folder))] == [1, 2, 3, 4, 5]


def test_a_signal_ends_the_run_with_a_checkpoint_of_the_last_step(train, monkeypatch):
    make_step, made = tf2.Engine._make_step, []

    def interrupted(self, step, *others):
        made.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_step(self, step, *others)

    monkeypatch.setattr(tf2.Engine, "_make_step", interrupted)
    outcome, folder = train(ASYNCHRONOUS, "run", steps=50)
    assert (outcome.step, outcome.interrupted) == (made[-1], signal.SIGTERM) == (3, signal.SIGTERM)
    assert run.Checkpoints(str(folder)).steps == [3]
    assert [line["step"] for line in read_metrics(str(folder))] == [1, 2, 3]


def test_a_loss_that_is_not_finite_ends_the_run_without_a_checkpoint(train):
    diverging = functools.partial(train, recipe=tiny.ROTATION.replace(lr=1e38, warmup_epochs=0.0))
    with pytest.raises(DivergedError, match="the loss is"):
        diverging(ASYNCHRONOUS, "run", steps=20)
