import itertools
import json
import os

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from evaluated import assign, value
from pretexture.trainers.runs import checkpoints
from pretexture.trainers.runs.checkpoints import CheckpointError, Checkpoints, retained

HOUR = 3600.0


def _values(number=0.0):
    return {
        "module/conv2d/kernel": np.full((1, 1, 2, 3), number, np.float32),
        "module/conv2d/kernel/Momentum": np.full((1, 1, 2, 3), number + 1, np.float32),
        "global_step": np.int64(number),
    }


def _variables(number=0.0):
    return {name: tf.Variable(part) for name, part in _values(number).items()}


def _restore(path, variables):
    """Sets variables from a checkpoint in the way of this TensorFlow's engine."""
    if tf.executing_eagerly():
        return checkpoints.restore(path, variables)
    checkpoints.fitting(path, variables)
    values, state = checkpoints.read(path, list(variables))
    for name, variable in variables.items():
        assign(variable, values[name])
    return state


def test_a_checkpoint_is_read_by_name_with_tensorflows_own_reader(tmp_path):
    path = Checkpoints(str(tmp_path)).save(7, _values(7), {"epoch": 2, "batch": 3})
    assert tf.train.latest_checkpoint(str(tmp_path)) == path == str(tmp_path / "model.ckpt-7")
    assert dict(tf.train.list_variables(path)) == {
        "module/conv2d/kernel": [1, 1, 2, 3],
        "module/conv2d/kernel/Momentum": [1, 1, 2, 3],
        "global_step": [],
        "loader_state": [],
    }
    reader = tf.train.load_checkpoint(path)
    assert reader.get_tensor("global_step") == 7
    assert json.loads(reader.get_tensor("loader_state")) == {"epoch": 2, "batch": 3}


def test_a_saver_of_tensorflow_1_reads_and_writes_the_same_files(tmp_path):
    path = Checkpoints(str(tmp_path)).save(1, _values(5), {})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        kernel = tf.compat.v1.get_variable("module/conv2d/kernel", [1, 1, 2, 3], use_resource=True)
        saver = tf.compat.v1.train.Saver([kernel])
        saver.restore(session, path)
        assert session.run(kernel).tolist() == [[[[5, 5, 5]] * 2]]
        path = saver.save(session, str(tmp_path / "theirs"))
    ours = _variables()
    del ours["global_step"], ours["module/conv2d/kernel/Momentum"]
    assert _restore(path, ours) == {}
    assert value(ours["module/conv2d/kernel"]).tolist() == [[[[5, 5, 5]] * 2]]


def test_restoring_sets_the_variables_and_returns_the_loaders_state(tmp_path):
    saved = Checkpoints(str(tmp_path))
    saved.save(1, _values(1), {"batch": 1})
    saved.save(2, _values(2), {"batch": 2})
    variables = _variables()
    assert _restore(Checkpoints(str(tmp_path)).latest, variables) == {"batch": 2}
    for name, expected in _values(2).items():
        assert np.array_equal(value(variables[name]), expected), name


def test_the_newest_checkpoints_are_kept_and_listed_in_the_folder(tmp_path):
    saved = Checkpoints(str(tmp_path), newest=3)
    for step in range(5):
        saved.save(step, _values(), {})
    assert saved.steps == [2, 3, 4]
    assert Checkpoints(str(tmp_path)).steps == [2, 3, 4]
    files = {name for name in os.listdir(tmp_path) if name != "checkpoint"}
    endings = (".index", ".data-00000-of-00001")
    assert files == {f"model.ckpt-{step}{ending}" for step in (2, 3, 4) for ending in endings}
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert [os.path.basename(p) for p in state.all_model_checkpoint_paths] == [
        f"model.ckpt-{step}" for step in (2, 3, 4)
    ]


def test_one_checkpoint_every_few_hours_is_kept_for_good():
    saved, last_kept = [], 0.0
    for step in range(1, 121):  # every ten minutes, for 20 hours
        saved, last_kept = retained([*saved, (step, step * HOUR / 6)], last_kept, 5, 4 * HOUR)
    assert [step for step, _ in saved] == [24, 48, 72, 96, 116, 117, 118, 119, 120]


def test_checkpoints_kept_for_good_survive_a_restart(tmp_path, monkeypatch):
    # Each look at the clock takes a second, and each step an hour.
    clock = itertools.count(1000)
    hours = [0.0]
    monkeypatch.setattr(checkpoints.time, "time", lambda: next(clock) + hours[0])
    for step in range(1, 13):
        Checkpoints(str(tmp_path), newest=2, hours=4).save(step, _values(), {})
        hours[0] += HOUR
    assert Checkpoints(str(tmp_path)).steps == [5, 9, 11, 12]


def test_an_unlisted_checkpoint_is_found(tmp_path):
    saved = Checkpoints(str(tmp_path))
    saved.save(1, _values(1), {})
    listed = (tmp_path / "checkpoint").read_text()
    saved.save(2, _values(2), {})
    (tmp_path / "checkpoint").write_text(listed)  # as if the run had been killed in between
    assert Checkpoints(str(tmp_path)).steps == [1, 2]


def test_an_unfinished_checkpoint_is_ignored_and_later_removed(tmp_path):
    saved = Checkpoints(str(tmp_path))
    saved.save(1, _values(1), {})
    (tmp_path / ".model.ckpt-2.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "model.ckpt-2.data-00000-of-00001").write_bytes(b"whole, but without index")
    again = Checkpoints(str(tmp_path))
    assert again.steps == [1]
    again.save(2, _values(2), {})
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert _restore(again.latest, _variables()) == {}


def test_missing_and_misshapen_variables_are_named(tmp_path):
    path = Checkpoints(str(tmp_path)).save(1, _values(), {})
    with pytest.raises(CheckpointError, match="ckpt-1 has no variable module/dense/kernel"):
        _restore(path, {"module/dense/kernel": tf.Variable(0.0)})
    with pytest.raises(CheckpointError, match=r"conv2d/kernel has shape \[1, 1, 2, 3\], .* \[2\]"):
        _restore(path, {"module/conv2d/kernel": tf.Variable([0.0, 0.0])})


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:-9] + b"x" * 9])
def test_damaged_files_are_refused(tmp_path, damage):
    path = Checkpoints(str(tmp_path)).save(1, _values(), {"batch": 1})
    data = tmp_path / "model.ckpt-1.data-00000-of-00001"
    data.write_bytes(damage(data.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model.ckpt-1 is damaged"):
        _restore(path, _variables())
