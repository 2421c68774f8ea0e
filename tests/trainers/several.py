"""Runs of several real processes, started by `pretexture launch`, and what they learned."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys

import numpy as np
import tensorflow as tf

ROOT = os.path.dirname(os.path.abspath(__file__))
PLUGINS = os.path.join(ROOT, "plugins")
LAUNCH = os.path.join(ROOT, "..", "..", "scripts", "launch.py")


def command(shards, folder, *flags, recipe="tiny-plain", device="cpu"):
    """The command that trains with a recipe of `tiny`."""
    return [
        *(os.path.join(ROOT, "drive.py"), recipe, "--data", shards, "--workdir", str(folder)),
        *("--log-steps", "1", "--threads", "1", "--device", device, *flags),
    ]


def launch(nproc, arguments, *flags, environment=()):
    """Starts the launcher; returns its process."""
    return subprocess.Popen(
        [sys.executable, LAUNCH, "--nproc", str(nproc), *flags, "--", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def children(pid):
    """The numbers of the processes that a process has started, in order."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def done(process, status=0):
    """Waits for a process, which must end with the status; returns what it printed."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def port():
    """A free port below the range from which the system takes ports for connections."""
    while True:
        number = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", number))
            return number


def npus(folder, count):
    """Flags and environment of a test's NPUs: a rank table, the stand-ins, a file for their calls.

    Returns: flags of the launcher, the environment, and the path of the calls.
    """
    table = folder / "rank_table.json"
    devices = [{"device_id": str(i), "device_ip": "127.0.0.1"} for i in range(count)]
    for rank, device in enumerate(devices):
        device["rank_id"] = str(rank)
    table.write_text(json.dumps({"server_list": [{"server_id": "a", "device": devices}]}))
    calls = folder / "calls"
    environment = {"PYTHONPATH": PLUGINS, "HCCL_IF_BASE_PORT": str(port())}
    environment["NPU_CALLS"] = str(calls)
    return ["--rank-table", str(table)], environment, calls


def read_calls(path):
    """The calls of the stand-ins: names with arguments."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def variables(folder, step):
    """The values of a checkpoint by name."""
    reader = tf.train.load_checkpoint(os.path.join(str(folder), f"model.ckpt-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name != "loader_state"}


def assert_equal_within(found, expected, tolerance):
    """Names are equal, and values differ by at most a share of the largest one."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        difference = np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-3)
        assert difference < tolerance, (name, difference)
