"""docs/examples/fit_keras.py, run as a user runs it."""

import os
import re
import subprocess
import sys
import time

import pytest

keras = pytest.importorskip("keras", minversion="3", reason="needs Keras 3, as `make test` has it")

FILE = os.path.join(os.path.dirname(__file__), "../../docs/examples/fit_keras.py")


def start(data, folder, epochs):
    command = [sys.executable, FILE, "--data", data, "--epochs", str(epochs), "--batch-size", "6"]
    command += ["--size", "32", "--classes", "40", "--backup", str(folder / "backup")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True)


def losses(lines):
    """By epoch, its losses in training and validation."""
    found, epoch = {}, None
    for line in lines:
        epoch = int(line.split()[1].split("/")[0]) if line.startswith("Epoch ") else epoch
        values = re.findall(r"loss: ([0-9.]+)", line)
        if values:
            found[epoch] = [float(value) for value in values]
    return found


def test_a_fit_that_is_killed_in_its_second_epoch_ends_as_one_that_is_not(
    write_shards, images, shards, tmp_path
):
    write_shards(tmp_path, images, 3)
    write_shards(tmp_path, images[:9], 1, "validation")
    (tmp_path / "whole").mkdir()
    run = start(str(tmp_path), tmp_path / "whole", 3)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0
    expected = losses(said.splitlines())
    assert sorted(expected) == [1, 2, 3]
    assert "6 batches of training, 2 of validation" in said
    assert not (tmp_path / "whole" / "backup").exists()

    (tmp_path / "killed").mkdir()
    run = start(str(tmp_path), tmp_path / "killed", 3)
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith("Epoch 2/"):
            time.sleep(0.05)
            run.kill()
            break
    run.communicate()
    before = losses(lines)
    run = start(str(tmp_path), tmp_path / "killed", 3)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0
    after = losses(said.splitlines())
    assert min(after) > 1, "BackupAndRestore has not restored the first epoch"
    for epoch, values in {**before, **after}.items():
        assert values == pytest.approx(expected[epoch], rel=1e-3)
