"""`pretexture runs`, and the names of runs."""

import json

import pytest

pytest.importorskip("tensorflow")

import tiny
from pretexture.scripts import runs as script
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs import listing
from pretexture.trainers.runs.folder import read_config
from pretexture.trainers.runs.metrics import read_metrics


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    tiny.register(monkeypatch.setitem)


@pytest.fixture(scope="module")
def data(images, write_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, images[:12], 2, "train")
    write_shards(folder, images[12:17], 1, "validation")
    return str(folder)


RECIPE = tiny.ROTATION.replace(train_split="trainval", eval_split="test")


def _train(data, folder, **options):
    how = {"log_steps": 1, "device": "cpu", "steps": 3, **options}
    return pretrain(RECIPE, Options(data, str(folder), **how), lambda line: None)


def _listed(folder, capsys):
    assert script.main([str(folder), "--json"]) == 0
    return {run["name"]: run for run in json.loads(capsys.readouterr().out)}


def test_runs_are_listed_with_what_they_have_reached(data, tmp_path, capsys):
    _train(data, tmp_path / "b" / "finished")
    evaluated = evaluate(str(tmp_path / "b" / "finished"), data, device="cpu")
    during = []

    def stop(line):
        during.append(_listed(tmp_path, capsys)["half way"])
        raise RuntimeError

    options = Options(
        data, str(tmp_path / "a"), name="half way", log_steps=2, device="cpu", steps=3
    )
    with pytest.raises(RuntimeError):
        pretrain(RECIPE, options, lambda line: None, hook=stop)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")  # of another program

    found = _listed(tmp_path, capsys)
    assert list(found) == ["half way", "finished"]
    last = read_metrics(str(tmp_path / "b" / "finished"))[-1]
    assert found["finished"] == {
        "folder": str(tmp_path / "b" / "finished"),
        "name": "finished",
        "task": "rotation",
        "state": "done",
        "step": 3,
        "steps": 3,
        "loss": last["loss"],
        "accuracy": last["accuracy"],
        "images_per_second": last["images_per_second"],
        "knn": None,
        "evaluated": {"test": evaluated["accuracy"]},
    }
    assert during[0]["state"] == "running" and during[0]["step"] == 2
    assert found["half way"]["state"] == "stopped"

    assert script.main([str(tmp_path)]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    columns = ["name", "task", "state", "step", "loss", "accuracy", "evaluated", "images/s"]
    assert head.split() == columns
    assert first.split()[:5] == ["half", "way", "rotation", "stopped", "2/3"]
    assert second.split()[:6] == [
        "finished", "rotation", "done", "3/3", f"{last['loss']:.4f}", f"{last['accuracy']:.1%}"
    ]  # fmt: skip


def test_a_name_is_kept_unless_another_is_given(data, tmp_path):
    folder = tmp_path / "run"
    _train(data, folder, steps=1)
    assert read_config(str(folder)).name == ""
    _train(data, folder, steps=2, name="first")
    _train(data, folder, steps=3)
    assert read_config(str(folder)).name == "first"
    _train(data, folder, steps=4, name="second")
    (run,) = listing.runs(str(folder))
    assert (run.name, run.steps, run.state) == ("second", 4, "done")


def test_a_linear_evaluation_shows_its_best_end_point(tmp_path, capsys):
    import trained
    from pretexture.trainers.recipes import LINEAR_EVAL

    trained.write_config(tmp_path, LINEAR_EVAL)
    line = {"step": 1, "loss": 3.0, "block1/accuracy": 0.25, "logits/accuracy": 0.5, "x/top5": 0.9}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    points = {"block1": {"top1": 0.125}, "logits": {"top1": 0.375}}
    (tmp_path / "results.json").write_text(json.dumps({"split": "test", "end_points": points}))
    (run,) = _listed(tmp_path, capsys).values()
    assert (run["task"], run["accuracy"], run["evaluated"]) == ("linear", 0.5, {"test": 0.375})


@pytest.mark.parametrize(
    "files,message",
    [
        ({}, "holds no runs: no folder in it has a config.json of one"),
        ({"config.json": '{"recipe": {}, "steps": 1}'}, "config.json is not a run's configuration"),
    ],
)
def test_errors_take_one_line(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as exit:
        script.main([str(tmp_path)])
    assert exit.value.code.startswith("error: ") and "\n" not in exit.value.code
    assert message in exit.value.code
    with pytest.raises(SystemExit, match="error: there is no folder "):
        script.main([str(tmp_path / "none")])
