import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import tiny
from evaluated import compiled
from learned import learned, wait_for_step
from pretexture.loader import Loader, imagenet
from pretexture.trainers import run as run_module
from pretexture.trainers import tasks
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.networks.layers import Scope
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.run import DivergedError, Options, pretrain
from pretexture.trainers.runs.folder import WorkdirError, read_config
from pretexture.trainers.runs.metrics import read_metrics

ROOT = os.path.dirname(os.path.abspath(__file__))


def _train(shards, folder, recipe=tiny.ROTATION, **options):
    options = {"log_steps": 1, "device": "cpu", **options}
    return pretrain(recipe, Options(shards, str(folder), **options), say=lambda line: None)


def test_a_narrow_resnet_learns_rotation(shards, tmp_path):
    recipe = RECIPES["rotation"].replace(
        pipeline="inception_crop(area=(0.5, 1))|resize(32)|range(-1, 1)|rotate",
        architecture="resnet50",
        filters_factor=0.25,
        batch_size=8,
        lr=3.0,
        warmup_epochs=1.0,
    )
    outcome = _train(shards, tmp_path, recipe, steps=24)
    assert (outcome.step, outcome.total, outcome.interrupted) == (24, 24, None)
    losses = [line["loss"] for line in read_metrics(str(tmp_path))]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])

    names = dict(tf.train.list_variables(str(tmp_path / "model.ckpt-24")))
    assert names["module/conv2d/kernel"] == names["module/conv2d/kernel/Momentum"] == [7, 7, 3, 4]
    assert names["global_step"] == [] and names["module/conv2d_53/bias/Momentum"] == [4]
    trained = 54 + 1 + 2 * 49
    assert len(names) == 2 * trained + 2 * 49 + 2  # values and momenta, averages, step, state


def test_a_run_writes_its_configuration_metrics_and_events(shards, tmp_path):
    said = []
    options = Options(shards, str(tmp_path), steps=7, log_steps=3, seed=5, device="cpu")
    pretrain(tiny.ROTATION, options, say=said.append)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["recipe"] == json.loads(json.dumps(dataclasses.asdict(tiny.ROTATION)))
    assert (config["seed"], config["records"], config["steps_per_epoch"]) == (5, 36, 6)
    assert read_config(str(tmp_path)).recipe == tiny.ROTATION

    lines = read_metrics(str(tmp_path))
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert [line["epoch"] for line in lines] == [0.5, 1, 7 / 6]
    fields = ["step", "epoch", "loss", "accuracy", "lr", "images_per_second", "waiting"]
    assert list(lines[0]) == fields
    base = 2.0 * 6 / 256
    assert lines[0]["lr"] == pytest.approx(np.mean([0, 1 / 3, 2 / 3]) * base)  # the warm-up
    assert all(0 <= line["waiting"] <= 1 for line in lines)

    (events,) = tmp_path.glob("events.out.tfevents.*")
    found = list(tf.compat.v1.train.summary_iterator(str(events)))
    assert found[1].session_log.status == tf.compat.v1.SessionLog.START and found[1].step == 1
    assert [event.step for event in found[2:]] == [1, 3, 6, 7]
    (views,) = found[2].summary.value
    assert views.tag == "views" and (views.image.height, views.image.width) == (82, 54)
    tags = {value.tag: value.simple_value for value in found[3].summary.value}
    assert tags["loss"] == pytest.approx(lines[0]["loss"])

    text = "\n".join(said)
    for words in ("36 images, 6 steps of 6", "tiny", "7, 1.17 epochs", "done after step 7 of 7"):
        assert words in text
    assert "warning" not in text


@pytest.mark.parametrize("recipe", [tiny.ROTATION, tiny.JIGSAW], ids=["rotation", "jigsaw"])
def test_a_resumed_run_is_bit_identical_to_one_never_stopped(shards, tmp_path, recipe):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _train(shards, whole, recipe, steps=14)
    _train(shards, parts, recipe, steps=4, threads=2)
    _train(shards, parts, recipe, steps=12, threads=1)  # ends with the second epoch
    _train(shards, parts, recipe, steps=14)
    assert learned(parts) == learned(whole)
    ends = [tf.train.load_checkpoint(str(folder / "model.ckpt-14")) for folder in (whole, parts)]
    for name in ends[0].get_variable_to_shape_map():
        assert np.array_equal(*(end.get_tensor(name) for end in ends)), name


def test_metrics_after_the_checkpoint_are_dropped_on_resuming(shards, tmp_path):
    _train(shards, tmp_path, steps=6, checkpoint_steps=2)
    before = learned(tmp_path)
    for path in tmp_path.glob("model.ckpt-6.*"):
        path.unlink()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # as if the run had been killed while writing
    _train(shards, tmp_path, steps=6, checkpoint_steps=2)
    assert learned(tmp_path) == before


def test_resuming_a_finished_run_does_nothing(shards, tmp_path):
    _train(shards, tmp_path, steps=3)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("model*")}
    said = []
    options = Options(shards, str(tmp_path), steps=3, device="cpu")
    assert pretrain(tiny.ROTATION, options, say=said.append).step == 3
    assert said[-1] == "nothing to do: step 3 of 3 was made already"
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("model*")}


def test_checkpoints_are_written_every_few_steps_or_seconds(shards, tmp_path):
    _train(shards, tmp_path / "steps", steps=10, checkpoint_steps=4)
    assert run_module.Checkpoints(str(tmp_path / "steps")).steps == [4, 8, 10]
    _train(shards, tmp_path / "seconds", steps=3, checkpoint_seconds=0.0)
    assert run_module.Checkpoints(str(tmp_path / "seconds")).steps == [1, 2, 3]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"lr": 0.5}, "trained with lr = 2, and now it is 0.5: give --lr 2, or another --workdir"),
        ({"decay_epochs": ()}, "decay_epochs = 2.*give --decay-epochs 2"),
        ({"pipeline": "resize(12)|range(-1, 1)|rotate"}, r"give --pipeline 'inception_crop\("),
        ({"batch_size": 4}, "batch_size = 6"),
        ({"seed": 1}, "seed = 0, and now it is 1: give --seed 0"),
        ({"train_split": "trainval"}, "trained on 36 records .* has 48"),
    ],
)
def test_resuming_with_another_recipe_is_an_error_that_names_the_field(
    shards, tmp_path, change, message
):
    _train(shards, tmp_path, steps=1)
    options = {"steps": 2}
    if "seed" in change:
        options, change = {**options, **change}, {}
    with pytest.raises(WorkdirError, match=message):
        _train(shards, tmp_path, tiny.ROTATION.replace(**change), **options)


def test_fields_that_no_step_depends_on_may_change(shards, tmp_path):
    _train(shards, tmp_path, steps=1)
    recipe = tiny.ROTATION.replace(epochs=0.5, eval_batch_size=2, eval_split="test")
    assert _train(shards, tmp_path, recipe, threads=1).step == 3


def test_a_folder_of_checkpoints_without_a_configuration_is_refused(shards, tmp_path):
    _train(shards, tmp_path, steps=1)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WorkdirError, match=r"holds no run: there is no config\.json"):
        _train(shards, tmp_path, steps=2)


def test_a_loss_that_is_not_finite_ends_the_run(shards, tmp_path):
    recipe = tiny.ROTATION.replace(lr=1e30, warmup_epochs=0.0)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+: try a lower --lr"):
        _train(shards, tmp_path, recipe, steps=20)


def test_evaluating_on_training_images_gives_a_warning(shards, tmp_path, capsys):
    recipe = tiny.ROTATION.replace(train_split="trainval")
    said = []
    pretrain(recipe, Options(shards, str(tmp_path), steps=1, device="cpu"), say=said.append)
    assert "warning: 1 shards of the evaluation split val are part of" in "\n".join(said)
    evaluate(str(tmp_path), shards, device="cpu")
    assert "warning: 1 shards" in capsys.readouterr().err
    evaluate(str(tmp_path), shards, "test", device="cpu")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "warning: the network was trained for 1 steps, and its averages of batch normalisation lag "
        "behind its weights: loss, accuracy and features are unreliable before step 300"
    ]


def _by_hand(shards, folder, step, recipe, pipeline):
    """The means of loss and accuracy, computed one image at a time, without padding."""
    task = tasks.build(recipe)
    weights = tf.train.load_checkpoint(str(folder / f"model.ckpt-{step}"))
    with Loader(imagenet(shards, "test"), pipeline, 1, training=False) as loader:
        image = loader.element_spec.image.shape[-3:]

        def read(name, shape):
            found = weights.get_tensor(name)
            average = scope.averages.get(name)
            return average.unbiased(found, step) if average else found

        scope = Scope(values=read)
        model = task.model(recipe, scope, image, tf.float32)
        loss = compiled(lambda *batch: task.loss(model, tasks.Batch(*batch), training=False))
        values = [loss(*batch) for batch in loader]
    return {name: np.mean([v[name][0] for v in values]) for name in ("loss", "accuracy")}


@pytest.mark.parametrize("recipe", [tiny.ROTATION, tiny.JIGSAW], ids=["rotation", "jigsaw"])
def test_evaluation_counts_every_image_once_with_any_batch_size(shards, tmp_path, recipe):
    _train(shards, tmp_path, recipe, steps=6)
    results = {
        size: evaluate(str(tmp_path), shards, "test", size, device="cpu") for size in (1, 5, 13, 20)
    }
    for result in results.values():
        assert result["images"] == 13 and result["step"] == 6
        assert result["loss"] == pytest.approx(results[1]["loss"], rel=1e-6)
        assert result["accuracy"] == pytest.approx(results[1]["accuracy"], abs=1e-7)
    assert json.loads((tmp_path / "eval-test.json").read_text()) == results[20]

    by_hand = _by_hand(shards, tmp_path, 6, recipe, recipe.pipeline)
    for name in ("loss", "accuracy"):
        assert results[5][name] == pytest.approx(by_hand[name], rel=1e-6)


def test_evaluation_may_use_another_pipeline(shards, tmp_path):
    small = "resize(24)|crop(18)|range(-1, 1)|rotate"
    recipe = tiny.ROTATION.replace(eval_pipeline=small)
    _train(shards, tmp_path, recipe, steps=2)

    def loss(pipeline=None):
        found = evaluate(str(tmp_path), shards, "test", device="cpu", pipeline=pipeline)
        assert found.get("pipeline") == pipeline
        return found["loss"]

    smaller, whole = (
        _by_hand(shards, tmp_path, 2, recipe, text)["loss"] for text in (small, recipe.pipeline)
    )
    assert loss() == pytest.approx(smaller, rel=1e-5)
    assert loss(recipe.pipeline) == pytest.approx(whole, rel=1e-5) != loss()
    assert np.isfinite(loss("Rotation"))  # a preset
    written = json.loads((tmp_path / "eval-test.json").read_text())
    assert written == evaluate(str(tmp_path), shards, "test", device="cpu")
    with pytest.raises(ValueError, match="rotation needs 4 views of an image"):
        loss("resize(12)")
    with pytest.raises(ValueError, match="rotation needs 4 views of an image"):
        _train(shards, tmp_path, recipe.replace(eval_pipeline="resize(12)"), steps=3)


def test_evaluation_needs_a_run_with_a_checkpoint(shards, tmp_path):
    with pytest.raises(WorkdirError, match="holds no run"):
        evaluate(str(tmp_path), shards, device="cpu")
    _train(shards, tmp_path, steps=1)
    for path in tmp_path.glob("model.ckpt-*"):
        path.unlink()
    with pytest.raises(WorkdirError, match="has no checkpoint yet"):
        evaluate(str(tmp_path), shards, device="cpu")


def _process(shards, folder, *flags):
    command = [sys.executable, os.path.join(ROOT, "drive.py"), "tiny-rotation", "--data", shards]
    command += ["--workdir", str(folder), "--log-steps", "1", "--device", "cpu", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )


def test_a_run_killed_ten_times_has_the_metrics_of_one_never_killed():
    """Some of the kills come while a checkpoint is written; see the script."""
    script = os.path.join(ROOT, "..", "kills", "training_kills.py")
    process = subprocess.run(
        [sys.executable, script, "--kills", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    assert process.stdout.splitlines()[-1].startswith("10 kills of ")


def test_ctrl_c_saves_a_checkpoint_and_ends_the_run(shards, tmp_path):
    process = _process(shards, tmp_path, "--steps", "1000000")
    wait_for_step(tmp_path, 5, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    step = read_metrics(str(tmp_path))[-1]["step"]
    assert run_module.Checkpoints(str(tmp_path)).steps == [step]
    assert f"interrupted after step {step:,} of 1,000,000" in output
    assert "run the same command again to resume" in output and "Traceback" not in output


def test_the_plan_says_how_many_images_are_held_out(shards, tmp_path):
    for path in os.listdir(shards):
        os.symlink(os.path.join(shards, path), tmp_path / path)
    counts = {"train": {"records": 48}, "validation": {"records": 13}}
    (tmp_path / "dataset.json").write_text(json.dumps({"splits": counts}))
    for split, words in (
        ("train", "split train: 36 of 48 images, 12 held out as val, 6 steps"),
        ("trainval", "split trainval: 48 images, 8 steps"),
    ):
        said = []
        recipe = tiny.ROTATION.replace(train_split=split)
        options = Options(str(tmp_path), str(tmp_path / split), steps=1, device="cpu")
        pretrain(recipe, options, say=said.append)
        assert words in said[1]
