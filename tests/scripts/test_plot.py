"""`pretexture plot`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.folder import Config, write_config

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from pretexture.loader.pyplot import pyplot
from pretexture.trainers.runs import curves

SCRIPT = Path(__file__).parents[2] / "scripts" / "plot.py"


def run(folder, losses):
    folder.mkdir()
    lines = [
        {"step": 10 * i, "epoch": i / 10, "loss": loss, "accuracy": 1 - loss / 2, "lr": 0.1}
        for i, loss in enumerate(losses, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def plot(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def colors(path):
    """The numbers of pixels that have matplotlib's first and second colour."""
    pixels = [tuple(p) for row in np.asarray(Image.open(path).convert("RGB")) for p in row]
    return pixels.count((0x1F, 0x77, 0xB4)), pixels.count((0xFF, 0x7F, 0x0E))


def test_one_run_is_drawn_into_its_folder(tmp_path):
    folder = run(tmp_path / "one", [1.4, 1.2, 1.0])
    assert plot(folder).returncode == 0
    first, second = colors(folder / "curves.png")
    assert first > 100
    assert second == 0


def test_several_runs_share_the_same_axes(tmp_path):
    folders = [run(tmp_path / "one", [1.4, 1.2, 1.0]), run(tmp_path / "two", [1.9, 1.8, 1.7])]
    out = tmp_path / "new" / "both.png"
    assert plot(*folders, "--out", out).returncode == 0
    assert min(colors(out)) > 100


def test_a_folder_without_metrics_is_an_error_that_names_it(tmp_path):
    result = plot(tmp_path)
    assert result.returncode == 1
    assert result.stderr.decode().startswith("error: ")
    assert str(tmp_path / "metrics.jsonl") in result.stderr.decode()
    assert "Traceback" not in result.stderr.decode()


def test_a_run_at_a_url_is_drawn_to_a_local_file(s3, tmp_path):
    s3.put([run(tmp_path / "one", [1.4, 1.2, 1.0]) / "metrics.jsonl"], "runs/one")
    storage = ["--endpoint-url", s3.endpoint, "--cache-dir", tmp_path / "cache"]
    out = tmp_path / "one.png"
    result = plot(f"{s3.bucket}/runs/one", *storage, "--out", out)
    assert result.returncode == 0, result.stderr
    assert colors(out)[0] > 100
    result = plot(f"{s3.bucket}/runs/none", *storage)
    assert f"error: {s3.bucket}/runs/none/metrics.jsonl holds no metrics" in result.stderr.decode()


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    return figures


def test_evaluations_and_chance_are_drawn_beside_the_training(tmp_path, drawn):
    folder = run(tmp_path / "one", [1.4, 1.2, 1.0])
    evaluated = [{"step": 20, "loss": 1.3, "accuracy": 0.4}, {"step": 30, "loss": 1.1}]
    (folder / "eval-test.jsonl").write_text("".join(json.dumps(e) + "\n" for e in evaluated))
    config = Config(RECIPES["rotation"], 0, 48, 3, 30, 1, "shards", "2")
    write_config(str(folder), config)
    curves.plot([str(folder)])
    loss, accuracy = drawn[0].axes[:2]
    legend = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert legend == [
        "chance",
        "training, mean of 10 steps",
        "training, running mean of 5 of them",
        "evaluation on test",
    ]
    lines = accuracy.get_lines()
    assert list(lines[0].get_ydata()) == [0.25, 0.25]  # one of four rotations
    assert (list(lines[3].get_xdata()), list(lines[3].get_ydata())) == ([20], [0.4])
    assert list(loss.get_lines()[-1].get_ydata()) == [1.3, 1.1]
    pyplot.close(drawn[0])


def test_a_mean_over_few_steps_is_left_out(tmp_path):
    def lines(*steps):
        return [{"step": step, "loss": 1.0} for step in steps]

    assert curves.steady(lines(10, 20, 22)) == lines(10, 20)  # Ctrl-C after two more steps
    assert curves.steady(lines(10, 20, 22, 30, 40)) == lines(10, 20, 30, 40)  # resumed
    assert curves.steady(lines(3)) == lines(3)
    assert curves.steady(lines(1, 2, 3)) == lines(1, 2, 3)
