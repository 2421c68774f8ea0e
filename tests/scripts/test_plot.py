"""`pretexture plot`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

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
