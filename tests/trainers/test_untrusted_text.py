"""Files and environment variables of a run that others may have written."""

import json
import os
import re

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tiny
import trained
from pretexture.trainers.engines import ascend, devices, environment, require_one_process
from pretexture.trainers.exports.saved_model import ExportError, read_description
from pretexture.trainers.runs import folder as workdir
from pretexture.trainers.runs import metrics
from pretexture.trainers.runs.checkpoints import CheckpointError, Checkpoints, read

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text,found",
    [("", 7), ("0", 0), ("12", 12)],
)
def test_a_whole_number_is_read_from_the_environment(monkeypatch, text, found):
    monkeypatch.setenv("NUMBER", text)
    assert environment.whole("NUMBER", 7) == found


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", " 3", "²", "٣", "1e3", "9" * 5000, "2"])
def test_other_text_is_an_error_that_names_the_variable(monkeypatch, text):
    monkeypatch.setenv("NUMBER", text)
    message = re.escape(
        f"NUMBER in the environment must be a whole number from 0 to 1, not {text!r}"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        environment.whole("NUMBER", 0, 0, 2)


def test_ranks_that_are_not_numbers_are_errors_that_name_the_variable(monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "abc")
    for ask in (ascend.ranks, ascend.several_ranks, lambda: require_one_process("evaluation")):
        with pytest.raises(ValueError, match=r"^RANK_SIZE in the environment .* not 'abc'$"):
            ask()
    monkeypatch.setenv("RANK_SIZE", "2")
    monkeypatch.delenv("RANK_ID", raising=False)
    with pytest.raises(ValueError, match="RANK_SIZE is 2 and RANK_ID is not set"):
        ascend.ranks()
    monkeypatch.setenv("RANK_ID", "x")
    with pytest.raises(ValueError, match=r"^RANK_ID in the environment .* 0 to 1, not 'x'$"):
        ascend.ranks()


@pytest.mark.parametrize(
    "text,words",
    [
        (DEEP, "nests JSON values more than 64 deep"),
        ("[]", "must hold a JSON object"),
        (
            '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}',
            "'b:99999' is not HOST:PORT",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:²"]}, "task": {"type": "worker", "index": 0}}',
            "'b:²' is not HOST:PORT",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "abc"}}',
            "invalid literal",
        ),
        ('{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}', "not iterable"),
        ('{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}', "'int' object"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": ["worker"], "index": 0}}',
            "unhashable",
        ),
    ],
)
def test_an_invalid_tf_config_is_an_error_of_one_short_sentence(monkeypatch, text, words):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=words) as caught:
        devices.cluster()
    message = str(caught.value)
    assert message.startswith("TF_CONFIG must be as {") and len(message) < 700


def _config(folder, **changes):
    """Writes a run's config.json with some fields changed; returns its path."""
    trained.write_config(folder, tiny.ROTATION)
    path = os.path.join(str(folder), "config.json")
    with open(path) as file:
        values = json.load(file)
    recipe = values["recipe"]
    for name, value in changes.items():
        parts = (recipe["network"], recipe["optimizer"], recipe)
        next((part for part in parts if name in part), values)[name] = value
    with open(path, "w") as file:
        json.dump(values, file)
    return path


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    _config(tmp_path)
    assert workdir.read_config(str(tmp_path)).recipe == tiny.ROTATION


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"steps": "many"}, "steps of it must be a whole number, not 'many'"),
        ({"steps": True}, "steps of it must be a whole number, not True"),
        ({"steps_per_epoch": 0}, "fewer steps"),
        ({"seed": None}, "seed of it must be a whole number, not None"),
        ({"data": ["a"]}, r"data of it must be a string, not \['a'\]"),
        ({"lr": "fast"}, "lr of the recipe must be a number, not 'fast'"),
        ({"lr": -1}, "lr must be above 0"),
        ({"decay_epochs": 3}, "decay_epochs of the recipe must be a list of numbers, not 3"),
        ({"decay_epochs": ["x"]}, "decay_epochs of the recipe must be a list of numbers"),
        ({"last_relu": 1}, "last_relu of the recipe must be true or false, not 1"),
        ({"recipe": []}, "the recipe is not a JSON object"),
        ({"color": "red"}, "it has no field 'color'"),
    ],
)
def test_a_configuration_with_invalid_values_is_an_error_that_names_the_field(
    tmp_path, changes, words
):
    path = _config(tmp_path, **changes)
    with pytest.raises(
        workdir.WorkdirError, match=f"^{path} is not a run's configuration: .*{words}"
    ):
        workdir.read_config(str(tmp_path))


@pytest.mark.parametrize("text", [DEEP, "{", "[1]", b"\xff"], ids=["deep", "cut", "array", "latin"])
def test_damaged_files_are_errors_of_one_line_that_name_the_file(tmp_path, text):
    data = text if isinstance(text, bytes) else text.encode()
    for name in ("config.json", "pretexture.json"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + data + b"\n")
    for error, name, ask in (
        (workdir.WorkdirError, "config.json", workdir.read_config),
        (ExportError, "pretexture.json", read_description),
        (
            ValueError,
            "metrics.jsonl, line 2,",
            lambda run: metrics.read_lines(run + "/metrics.jsonl"),
        ),
    ):
        with pytest.raises(error, match=name) as caught:
            ask(str(tmp_path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "line,field",
    [
        ('{"loss": 1.0}', "step"),
        ('{"step": "1", "loss": 1.0}', "step"),
        ('{"step": 1, "loss": null}', "loss"),
        ('{"step": 1, "loss": 1.0, "waiting": "long"}', "waiting"),
    ],
)
def test_a_line_of_metrics_without_numbers_is_an_error_that_names_it(tmp_path, line, field):
    good = '{"step": 1, "loss": NaN, "images_per_second": 3.0, "waiting": 0}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_text(good + line + "\n")
    with pytest.raises(ValueError, match=f"{path}, line 2, has no number as its {field}"):
        metrics.read_metrics(str(tmp_path))


def test_an_invalid_loader_state_in_a_checkpoint_is_an_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path))
    monkeypatch.setattr(json, "dumps", lambda value: DEEP)
    path = checkpoints.save(1, {"a": np.float32(1)}, {})
    with pytest.raises(CheckpointError, match="loader_state nests JSON values more than 64 deep"):
        read(path, ["a"])
