"""Two runs never write to one workdir."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")

import tiny
from learned import learned, wait_for_step
from pretexture.loader.shards.remote import DEFAULT_STORAGE
from pretexture.trainers.evaluation import evaluate, follow
from pretexture.trainers.exports.saved_model import export_run
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.folder import WorkdirError
from pretexture.trainers.runs.mirror import USES, fetched, files_in, open_workdir

ROOT = os.path.dirname(os.path.abspath(__file__))


def _open(folder, use="train", worker=0):
    return open_workdir(str(folder), DEFAULT_STORAGE, use, worker)


def _start(shards, folder, steps):
    command = [sys.executable, os.path.join(ROOT, "drive.py"), "tiny-rotation", "--data", shards]
    command += ["--workdir", str(folder), "--device", "cpu", "--log-steps", "1"]
    command += ["--steps", str(steps), "--checkpoint-steps", "4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "universal_newlines": True}
    return subprocess.Popen(command, **pipes)


def test_a_second_run_ends_with_an_error_until_the_first_is_killed(shards, tmp_path):
    folder = tmp_path / "run"
    first = _start(shards, folder, 1000000)
    try:
        wait_for_step(folder, 8, first)
        first.send_signal(signal.SIGSTOP)  # its checkpoints are unchanged
        second = _start(shards, folder, 8)
        _, said = second.communicate()
        assert second.returncode == 1
        error = said.splitlines()[-1]
        assert error.startswith(f"error: another run is using {folder}: ")
        assert "Traceback" not in said and first.poll() is None

        # Commands that only read may still use the workdir.
        how = {"split": "test", "device": "cpu"}
        assert next(follow(str(folder), shards, timeout=60, poll=0.01, **how))["images"] == 13
        assert evaluate(str(folder), shards, **how)["images"] == 13
        assert export_run(str(folder), str(tmp_path / "export"))
        assert fetched(str(folder), DEFAULT_STORAGE, "plot") == str(folder)
    finally:
        first.kill()
        first.communicate()

    made = max(line["step"] for line in learned(folder))
    options = Options(shards, str(folder), steps=made + 5, log_steps=1, device="cpu")
    assert pretrain(tiny.ROTATION, options, say=lambda line: None).step == made + 5


def test_only_the_first_worker_locks_the_workdir(tmp_path):
    with _open(tmp_path), _open(tmp_path, worker=1), _open(tmp_path, worker=2):
        with pytest.raises(WorkdirError, match=f"another run is using {tmp_path}: .*--workdir"):
            _open(tmp_path).__enter__()
        for use in set(USES) - {"train"}:
            with _open(tmp_path, use):
                pass
    with _open(tmp_path):
        pass


def test_the_lock_file_does_not_belong_to_the_run(tmp_path):
    with _open(tmp_path):
        assert os.listdir(tmp_path) and files_in(str(tmp_path)) == []


def test_without_fcntl_workdirs_are_still_read(tmp_path):
    code = (
        "import sys; sys.modules['fcntl'] = None; "
        "from pretexture.trainers.runs.mirror import fetched; "
        "from pretexture.loader.shards.remote import DEFAULT_STORAGE; "
        f"print(fetched({str(tmp_path)!r}, DEFAULT_STORAGE, 'plot'))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], universal_newlines=True)
    assert output.strip() == str(tmp_path)
