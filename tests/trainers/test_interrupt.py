"""Ctrl-C, also while the main thread is in compiled code."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

tf = pytest.importorskip("tensorflow")

import several
import tiny
from learned import learned
from pretexture.loader import Loader, imagenet
from pretexture.loader.console.interrupt import Interrupt
from pretexture.trainers import engines, tasks
from pretexture.trainers.run import Options, Training, fit, pretrain
from pretexture.trainers.runs.checkpoints import Checkpoints
from pretexture.trainers.runs.mirror import open_workdir


def test_the_first_signal_is_noted_and_the_second_one_kills():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert interrupt.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


# Compiled code that runs for many minutes and that no signal ends.
COMPILED = "import hashlib; print('ready', flush=True); hashlib.pbkdf2_hmac('md5', b'', b'', 2**30)"


def _interrupted(program, *numbers):
    """Sends signals to a program once it is ready; returns its exit status and its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for number in numbers:
        time.sleep(0.2)
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output + errors


def test_ctrl_c_ends_a_command_in_compiled_code():
    program = "from pretexture.scripts.flags import short_errors\nwith short_errors(False):\n"
    assert _interrupted(f"{program}    {COMPILED}", signal.SIGINT) == (130, "")


def test_ctrl_c_raises_keyboard_interrupt_in_python_code():
    program = (
        "import time\n"
        "from pretexture.scripts.flags import short_errors\n"
        "with short_errors(False):\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(1000)\n"
        "    finally:\n"
        "        time.sleep(2); print('cleaned up')\n"
    )
    assert _interrupted(program, signal.SIGINT) == (130, "cleaned up\n")


def test_a_commands_own_signal_handler_is_respected():
    program = (
        "import signal, time\n"
        "from pretexture.scripts.flags import short_errors\n"
        "with short_errors(False):\n"
        "    signal.signal(signal.SIGINT, lambda number, frame: None)\n"
        "    print('ready', flush=True); time.sleep(3); print('the end')\n"
    )
    assert _interrupted(program, signal.SIGINT) == (0, "the end\n")


STEPPING = (
    "from pretexture.loader.console.interrupt import Interrupt\nwith Interrupt() as interrupt:\n"
)


def test_ctrl_c_ends_a_step_that_waits_for_another_worker():
    program = f"{STEPPING}  with interrupt.stepping():\n    {COMPILED}"
    for number in (signal.SIGINT, signal.SIGTERM):
        assert _interrupted(program, number) == (128 + number, "")


def test_a_second_signal_kills_even_in_compiled_code():
    program = f"{STEPPING}  {COMPILED}"
    assert _interrupted(program, signal.SIGINT, signal.SIGINT) == (130, "")


class _Stuck(Loader):
    """A loader that gives some batches and then waits until it is closed."""

    def __init__(self, batches, *arguments, **how):
        super().__init__(*arguments, **how)
        self._left = batches
        self._stuck_closed = threading.Event()

    def _next(self, iteration):
        if not self._left:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            self._stuck_closed.wait()
            self._check_open()
        self._left -= 1
        return super()._next(iteration)

    def close(self):
        super().close()
        self._stuck_closed.set()


@pytest.mark.parametrize("batches", [0, 4])
def test_ctrl_c_ends_the_wait_for_a_batch_with_a_checkpoint(shards, tmp_path, batches, no_hang):
    backend = engines.choose()
    place = backend.open_device("cpu")
    recipe = tiny.ROTATION
    records = imagenet(shards, "train")
    loader = _Stuck(batches, records, recipe.pipeline, recipe.batch_size)
    engine = backend.Engine(recipe, tasks.build(recipe), loader.element_spec, len(loader), 0, place)
    options = Options(shards, str(tmp_path / "stuck"), steps=9, log_steps=1, device="cpu")
    said = []
    training = Training(recipe, options, engine, loader, records)
    with open_workdir(options.workdir, options.storage, "train") as workdir:
        outcome = fit(training, workdir, said.append)
    assert (outcome.step, outcome.interrupted) == (batches, signal.SIGINT)
    steps = Checkpoints(str(tmp_path / "stuck")).steps
    if not batches:
        assert said[-1] == "interrupted before step 1 of 9"
        return
    assert steps == [batches]
    whole = Options(shards, str(tmp_path / "whole"), steps=9, log_steps=1, device="cpu")
    for run in (options, whole):
        assert pretrain(recipe, run, say=lambda line: None).step == 9
    assert learned(tmp_path / "stuck") == learned(tmp_path / "whole")


def test_ctrl_c_ends_a_wait_for_other_workers(shards, tmp_path):
    if not tf.executing_eagerly():
        pytest.skip("several workers on CPUs need TensorFlow 2")
    addresses = [f"127.0.0.1:{several.port()}" for _ in range(2)]
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    environment = {"TF_CONFIG": str(config).replace("'", '"'), "PRETEXTURE_SECRET": "a" * 16}
    process = subprocess.Popen(
        [sys.executable, *several.command(shards, tmp_path, "--steps", "1")],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    host, port = addresses[0].split(":")
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port))).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert several.done(process, 130) == ""
