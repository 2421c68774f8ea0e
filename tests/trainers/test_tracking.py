"""Metrics in Weights & Biases (offline) and in MLflow (in a folder), read back with their tools."""

import json
import struct
import sys

import pytest

pytest.importorskip("tensorflow")

import tiny
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs import tracking
from pretexture.trainers.runs.metrics import read_metrics


def _train(shards, folder, steps, track, **options):
    how = {"log_steps": 2, "device": "cpu", "track": track, "steps": steps, **options}
    return pretrain(tiny.ROTATION, Options(shards, str(folder), **how), lambda line: None)


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    mlflow.set_tracking_uri(uri)
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # so that what MLflow sets is forgotten after the test
        monkeypatch.delenv(name)
    return mlflow


def test_mlflow_has_every_line_of_a_run_and_of_its_continuation(mlflow, shards, tmp_path):
    _train(shards, tmp_path / "fast", 4, "mlflow")
    _train(shards, tmp_path / "fast", 8, "mlflow")
    client = mlflow.tracking.MlflowClient()
    experiment = client.get_experiment_by_name("pretexture")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("fast", "FINISHED")
    assert (run.data.params["task"], run.data.params["lr"]) == ("rotation", "2.0")
    assert run.data.params["seed"] == "0"
    lines = read_metrics(str(tmp_path / "fast"))
    for field in ("loss", "accuracy", "epoch", "images_per_second"):
        history = client.get_metric_history(run.info.run_id, field)
        found = [(metric.step, metric.value) for metric in history]
        assert found == [(line["step"], line[field]) for line in lines]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]


def test_mlflow_says_that_a_run_has_failed(mlflow, shards, tmp_path):
    with pytest.raises(RuntimeError):
        pretrain(
            tiny.ROTATION,
            Options(shards, str(tmp_path / "run"), device="cpu", track="mlflow", steps=20),
            lambda line: None,
            hook=_fail,
        )
    client = mlflow.tracking.MlflowClient()
    experiment = client.get_experiment_by_name("pretexture")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def _fail(line):
    raise RuntimeError("a hook fails")


@pytest.fixture
def wandb(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return wandb


def _records(path):
    """The records in a file of an offline run, which has the format of LevelDB's logs."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:  # the end of a block has no room for a header
            at += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def _offline(path):
    """The run in a file of an offline run, and the lines of its history."""
    from wandb.proto import wandb_internal_pb2

    run, lines = None, []
    for data in _records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run
        if record.HasField("history"):
            items = record.history.item
            lines.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return run, lines


def test_wandb_has_every_line_of_a_run_and_of_its_continuation(wandb, shards, tmp_path):
    _train(shards, tmp_path / "run", 4, "wandb", name="first try")
    _train(shards, tmp_path / "run", 8, "wandb")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    (first, before), (second, after) = map(_offline, files)
    assert first.run_id == second.run_id  # `wandb sync` joins them
    assert (first.display_name, first.project) == ("first try", "pretexture")
    config = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert (config["task"], config["lr"], config["steps"]) == ("rotation", 2.0, 4)
    lines = read_metrics(str(tmp_path / "run"))
    found = [*before, *after]
    assert [line["_step"] for line in found] == [line["step"] for line in lines] == [2, 4, 6, 8]
    for got, line in zip(found, lines):
        assert {name: got[name] for name in line if name != "step"} == {
            name: value for name, value in line.items() if name != "step"
        }


def test_a_tracker_that_fails_is_warned_of_once_and_the_run_continues(
    shards, tmp_path, monkeypatch, caplog
):
    calls = []

    def log(step, values):
        calls.append(step)
        raise ConnectionError("the server is gone")

    class Tracker:
        def __init__(self, folder, name, about, known, remember):
            remember("id")

        def __enter__(self):
            return log

        def __exit__(self, *error):
            pass

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Tracker)
    assert _train(shards, tmp_path, 6, "mlflow").step == 6
    assert calls == [2, 4, 6]
    messages = [r.getMessage() for r in caplog.records if r.name == "pretexture.trainers"]
    assert messages == ["mlflow does not take metrics: the server is gone; the run continues"]
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"mlflow": "id"}


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_tracker_names_its_extra(name, shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'pretexture\[{name}\]'"):
        _train(shards, tmp_path, 2, name)


def test_an_unknown_tracker_is_an_error(shards, tmp_path):
    with pytest.raises(ValueError, match="track must be wandb or mlflow, not 'comet'"):
        _train(shards, tmp_path, 2, "comet")
