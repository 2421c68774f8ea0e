"""Evaluation beside a training run: every checkpoint once, until the run ends."""

import json
import shutil
import threading

import pytest

tf = pytest.importorskip("tensorflow")

import tiny
import trained
from pretexture.trainers import evaluation
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.checkpoints import CheckpointError, Checkpoints
from pretexture.trainers.runs.folder import WorkdirError

# A recipe whose network can be exported.
SMALL = trained.VGG.replace(batch_size=4, eval_batch_size=5)


def _train(shards, folder, steps, recipe=tiny.ROTATION, **options):
    options = {"device": "cpu", "checkpoint_steps": 2, **options}
    pretrain(recipe, Options(shards, str(folder), steps=steps, **options), say=lambda line: None)


def _follow(shards, folder, **how):
    how = {"split": "test", "device": "cpu", "poll": 0.01, **how}
    return evaluation.follow(str(folder), shards, **how)


def test_each_checkpoint_of_a_run_is_evaluated_once_and_in_order(shards, tmp_path):
    _train(shards, tmp_path, 6)
    results = list(_follow(shards, tmp_path))
    assert [result["step"] for result in results] == [2, 4, 6]
    assert len({result["loss"] for result in results}) == 3
    alone = evaluation.evaluate(str(tmp_path), shards, "test", device="cpu")
    assert results[-1] == alone

    assert list(_follow(shards, tmp_path)) == []  # all are evaluated already
    _train(shards, tmp_path, 8)
    assert [result["step"] for result in _follow(shards, tmp_path)] == [8]
    with open(tmp_path / "eval-test.jsonl") as file:
        lines = [json.loads(line) for line in file]
    assert lines[:3] == results and [line["step"] for line in lines] == [2, 4, 6, 8]
    assert json.loads((tmp_path / "eval-test.json").read_text()) == lines[3]


def test_follow_may_begin_before_the_run_and_ends_with_it(shards, tmp_path):
    run = threading.Timer(0.3, _train, (shards, tmp_path / "run", 6))
    run.start()
    steps = [result["step"] for result in _follow(shards, tmp_path / "run", timeout=60)]
    run.join()
    assert steps[-1] == 6 and steps == sorted(set(steps))


def test_a_timeout_says_how_far_the_run_came(shards, tmp_path):
    with pytest.raises(WorkdirError, match=r"no checkpoint in .* for 0\.05 s, at all"):
        list(_follow(shards, tmp_path, timeout=0.05))
    _train(shards, tmp_path, 3)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "steps": 1000}))
    with pytest.raises(WorkdirError, match=r"for 0\.05 s, after step 3 of 1,000"):
        list(_follow(shards, tmp_path, timeout=0.05))


def test_a_checkpoint_that_the_run_removes_meanwhile_is_skipped(shards, tmp_path, monkeypatch):
    _train(shards, tmp_path, 6)
    run = evaluation.Evaluation.run

    def removed(self, step):
        if step == 4:
            for path in tmp_path.glob("model.ckpt-4.*"):
                path.unlink()
        return run(self, step)

    monkeypatch.setattr(evaluation.Evaluation, "run", removed)
    assert [result["step"] for result in _follow(shards, tmp_path)] == [2, 6]


def test_a_checkpoint_that_the_run_removes_before_its_export_is_evaluated(
    shards, tmp_path, monkeypatch
):
    _train(shards, tmp_path, 6)
    run = evaluation.Evaluation.run

    def removed(self, step):
        result = run(self, step)
        if step == 4:
            for path in tmp_path.glob("model.ckpt-4.*"):
                path.unlink()
        return result

    monkeypatch.setattr(evaluation.Evaluation, "run", removed)
    assert [result["step"] for result in _follow(shards, tmp_path)] == [2, 4, 6]


def test_earlier_checkpoints_do_not_take_the_place_of_the_newest(shards, tmp_path):
    _train(shards, tmp_path, 6)
    newest = evaluation.evaluate(str(tmp_path), shards, "test", device="cpu")
    assert [result["step"] for result in _follow(shards, tmp_path)] == [2, 4]
    assert json.loads((tmp_path / "eval-test.json").read_text()) == newest
    events = [
        (event.step, event.session_log.status)
        for path in sorted(
            (tmp_path / "eval-test").iterdir(), key=lambda path: path.stat().st_mtime_ns
        )
        for event in tf.compat.v1.train.summary_iterator(str(path))
        if event.HasField("session_log") or event.HasField("summary")
    ]
    # After the start at step 6, no start of an earlier step makes TensorBoard drop it.
    started = [step for step, status in events if status == tf.compat.v1.SessionLog.START]
    assert started == [6] and sorted(step for step, status in events if not status) == [2, 4, 6]


def test_other_data_are_evaluated_too(shards, tmp_path):
    _train(shards, tmp_path / "run", 4)
    first = list(_follow(shards, tmp_path / "run"))
    copy = shutil.copytree(shards, str(tmp_path / "copy"))
    second = list(_follow(str(copy), tmp_path / "run"))
    assert [result["step"] for result in second] == [2, 4]
    assert {result["data"] for result in second} == {str(copy)}
    assert [result["loss"] for result in second] == [result["loss"] for result in first]
    assert list(_follow(str(copy), tmp_path / "run")) == []


def test_a_damaged_checkpoint_is_an_error(shards, tmp_path):
    _train(shards, tmp_path, 2)
    (path,) = tmp_path.glob("model.ckpt-2.data*")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"model\.ckpt-2"):
        list(_follow(shards, tmp_path))


def test_exports_of_removed_checkpoints_are_removed(shards, tmp_path):
    _train(shards, tmp_path, 2, SMALL)
    list(_follow(shards, tmp_path))
    _train(shards, tmp_path, 4, SMALL)
    for path in tmp_path.glob("model.ckpt-2.*"):
        path.unlink()
    list(_follow(shards, tmp_path))
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["4"]
    assert Checkpoints(str(tmp_path)).steps == [4]
    (points,) = trained.use(tmp_path / "exports" / "4", trained.images(1, 32, 32, 3))
    assert points["pre_logits"].shape == (1, 64)
