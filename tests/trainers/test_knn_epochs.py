"""Nearest neighbours while a run trains, and the hook that is handed its lines of metrics."""

import json
import os
import signal

import pytest

tf = pytest.importorskip("tensorflow")

import tiny
import trained
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.trainers.exports.saved_model import export_run
from pretexture.trainers.recipes import KNN
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs import report
from pretexture.trainers.runs.metrics import TIMINGS, read_metrics
from pretexture.trainers.transfer.knn import Monitor, knn
from pretexture.trainers.transfer.representation import Representation

RECIPE = tiny.ROTATION.replace(representation_pipeline="resize(20)|range(-1, 1)")


def _train(shards, folder, hook=lambda line: None, **options):
    options = {"log_steps": 4, "device": "cpu", "knn_epochs": 1, **options}
    return pretrain(RECIPE, Options(shards, str(folder), **options), lambda line: None, hook=hook)


def test_lines_at_the_end_of_epochs_have_the_accuracies_of_the_knn_command(shards, tmp_path):
    handed = []
    _train(shards, tmp_path / "run", handed.append, steps=14)  # 6 steps an epoch
    lines = read_metrics(str(tmp_path / "run"))
    assert [line["step"] for line in lines] == [4, 6, 8, 12, 14]
    assert [line["step"] for line in lines if "knn" in line] == [6, 12, 14]
    assert handed == lines
    last = {name: value for name, value in lines[-1].items() if name.startswith("knn")}

    module = export_run(str(tmp_path / "run"), str(tmp_path / "export"))
    recipe = KNN.replace(
        pipeline=RECIPE.representation_pipeline, train_split="train", eval_split="val"
    )
    said = []
    results = knn(recipe, shards, Representation(module), device="cpu", say=said.append)
    assert (results.train_images, results.images, results.classes) == (36, 12, 3)
    top1 = results.end_points["logits"]["top1"]
    assert last == {"knn": top1, "knn/logits/accuracy": top1}  # 3 classes have no top-5
    assert 0 < top1 < 1

    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    found = {
        event.step: value.simple_value
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
        if value.tag == "knn"
    }
    assert list(found) == [6, 12, 14] and found[14] == pytest.approx(top1)


def test_training_is_the_same_with_and_without_neighbours(shards, tmp_path):
    _train(shards, tmp_path / "with", steps=8)
    _train(shards, tmp_path / "without", steps=8, knn_epochs=None)
    found = [
        {line["step"]: line["loss"] for line in read_metrics(str(tmp_path / name))}
        for name in ("with", "without")
    ]
    assert sorted(found[0]) == [4, 6, 8] and sorted(found[1]) == [4, 8]  # 6 steps an epoch
    assert found[0][4] == found[1][4]
    # The line at step 6 has the mean of two steps, and so has that at step 8.
    assert (found[0][6] + found[0][8]) / 2 == pytest.approx(found[1][8], rel=1e-5)
    values = [
        tf.train.load_checkpoint(str(tmp_path / name / "model.ckpt-8")).get_tensor(
            "module/conv2d/kernel"
        )
        for name in ("with", "without")
    ]
    assert (values[0] == values[1]).all()


def test_time_for_neighbours_is_not_training_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    with report.Report(str(tmp_path), 0, 10, 5, 8, log_steps=4) as run:
        for step in range(1, 6):
            now[0] += 2.0
            more = {}
            if step == 5:
                now[0] += 1000.0
                more = {"measured": {"knn": 0.25}, "seconds": 1000.0}
            run.add(step, {"loss": 1.0}, 0.5, **more)
    lines = read_metrics(str(tmp_path))
    # 8 images in 2 seconds, of which half a second was waiting.
    found = [(line["step"], line["images_per_second"], line["waiting"]) for line in lines]
    assert found == [(4, 4.0, 0.25), (5, 4.0, 0.25)]
    assert ["knn" in line for line in lines] == [False, True]


def test_an_interruption_ends_an_evaluation_and_the_run_resumes(shards, tmp_path, monkeypatch):
    measure = Monitor.measure

    def interrupted(self, path, step, show):
        os.kill(os.getpid(), signal.SIGINT)
        return measure(self, path, step, show)

    with monkeypatch.context() as patched:
        patched.setattr(Monitor, "measure", interrupted)
        outcome = _train(shards, tmp_path, steps=12)
    assert outcome.step in (6, 7) and outcome.interrupted == signal.SIGINT
    assert "knn" not in read_metrics(str(tmp_path))[-1]
    assert _train(shards, tmp_path, steps=12).step == 12
    lines = read_metrics(str(tmp_path))
    assert [line["step"] for line in lines if "knn" in line] == [12]
    assert set(lines[0]) - set(TIMINGS) == {"step", "epoch", "loss", "accuracy", "lr"}


def test_data_without_labels_are_refused_before_training(tmp_path):
    for number in range(4):
        with TFRecordWriter(tmp_path / f"train-{number:05}-of-00004") as writer:
            for image in trained.images(12, 36, 36, 3):
                writer.write(example({"image/encoded": trained.jpeg(100 + 50 * image)}))
    with pytest.raises(ValueError, match=r"and record 0 of split train of .* has none: give data"):
        _train(str(tmp_path), tmp_path / "run", steps=6)
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_hook_ends_the_run(shards, tmp_path):
    def hook(line):
        raise RuntimeError(json.dumps(line["step"]))

    with pytest.raises(RuntimeError, match=r"^4$"):
        _train(shards, tmp_path, hook, steps=6)
