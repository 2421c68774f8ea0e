import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import several
import tiny
from learned import learned, wait_for_step
from pretexture.loader import Batch
from pretexture.trainers import tasks
from pretexture.trainers.engines import optimization
from pretexture.trainers.run import Options, pretrain, share
from pretexture.trainers.runs.metrics import read_metrics

if not tf.executing_eagerly():
    pytest.skip("several workers on CPUs need TensorFlow 2", allow_module_level=True)

from pretexture.trainers.engines import tf2
from pretexture.trainers.engines.devices import cluster
from pretexture.trainers.engines.engine import Place
from pretexture.trainers.engines.places import Strategy


def _assert_learned_alike(folder, other):
    lines, others = learned(folder), learned(other)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other_line in zip(lines, others):
        assert line == pytest.approx(other_line, abs=1e-5)


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """A run of 5 steps in one process, 3 steps per epoch, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch.setitem)
        options = Options(
            shards, str(folder), steps=5, log_steps=1, checkpoint_steps=1, device="cpu"
        )
        pretrain(tiny.PLAIN, options, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def two_workers(shards, tmp_path_factory):
    """A run of 4 steps by two workers, and the record numbers that each of them saw."""
    folder, seen = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("seen")
    flags = ("--steps", "4", "--checkpoint-steps", "1")
    process = several.launch(
        2, several.command(shards, folder, *flags), environment={"SEEN": str(seen)}
    )
    output = several.done(process)
    assert "2 x CPU, 2 workers" in output and "[1] " not in output
    records = [np.array(path.read_text().split(), int).reshape(4, 6) for path in seen.iterdir()]
    return folder, records


@pytest.mark.parametrize("step", [1, 4])
def test_gradients_of_two_workers_equal_those_of_one_with_the_whole_batch(alone, two_workers, step):
    # The network has no batch normalisation, and after the first step the momentum is the gradient.
    folder, _ = two_workers
    several.assert_equal_within(
        several.variables(folder, step), several.variables(alone, step), 1e-5
    )


def test_metrics_of_two_workers_equal_those_of_one_with_the_whole_batch(
    alone, two_workers, tmp_path
):
    folder, _ = two_workers
    lines = learned(alone)[:4]
    for line, expected in zip(learned(folder), lines):
        assert line == pytest.approx(expected, abs=1e-5)
    assert len(learned(folder)) == 4


def test_workers_see_every_record_once_an_epoch(two_workers):
    _, records = two_workers
    assert len(records) == 2
    for epoch in (slice(0, 3), slice(3, 4)):
        seen = np.concatenate([worker[epoch].ravel() for worker in records])
        assert len(seen) == len(set(seen)) and set(seen) <= set(range(36))


def test_a_run_of_two_workers_is_resumed_by_one(shards, alone, two_workers, tmp_path):
    folder, _ = two_workers
    options = Options(shards, str(folder), steps=5, log_steps=1, device="cpu")
    pretrain(tiny.PLAIN, options, say=lambda line: None)
    _assert_learned_alike(folder, alone)
    several.assert_equal_within(several.variables(folder, 5), several.variables(alone, 5), 1e-5)


def test_a_killed_worker_ends_all_and_the_run_resumes_from_the_checkpoint(shards, alone, tmp_path):
    command = several.command(shards, tmp_path, "--checkpoint-steps", "1")
    process = several.launch(3, [*command, "--steps", "1000000"])
    wait_for_step(tmp_path, 3, process)
    os.kill(several.children(process.pid)[2], signal.SIGKILL)
    output = several.done(process, 128 + signal.SIGKILL)
    assert output.splitlines()[-1] == "launch: process 2 was killed by SIGKILL"
    assert "another worker is gone" in output and "Traceback" not in output

    # Another number of workers resumes, on two machines with a launcher each.
    reached = read_metrics(str(tmp_path))[-1]["step"] + 4
    hosts = f"127.0.0.1:{several.port()},127.0.0.2:{several.port()}"
    command += ["--steps", str(reached)]
    secret = {"PRETEXTURE_SECRET": "the same on both machines"}
    machines = [
        several.launch(
            1, command, "--hosts", hosts, "--host-index", str(number), environment=secret
        )
        for number in range(2)
    ]
    outputs = [several.done(machine) for machine in machines]
    assert "2 x CPU, 2 workers" in outputs[0] and not outputs[1]
    for line, expected in zip(learned(tmp_path), learned(alone)):
        assert line == pytest.approx(expected, abs=1e-4)
    assert read_metrics(str(tmp_path))[-1]["step"] == reached


def test_ctrl_c_ends_all_workers_at_the_same_step_with_a_checkpoint(shards, tmp_path):
    command = several.command(shards, tmp_path, "--steps", "1000000")
    process = several.launch(2, command)
    wait_for_step(tmp_path, 3, process)
    process.send_signal(signal.SIGINT)
    output = several.done(process, 128 + signal.SIGINT)
    step = read_metrics(str(tmp_path))[-1]["step"]
    assert os.path.exists(tmp_path / f"model.ckpt-{step}.index")
    assert f"interrupted after step {step:,}" in output and "another worker" not in output


def _on_two_devices(shards, folder, *flags, **how):
    command = several.command(shards, folder, "--devices", "2", *flags, **how)
    output = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert output.returncode == 0, output.stdout.decode()
    assert b"device    2 x CPU, TensorFlow" in output.stdout


def test_a_checkpoint_has_the_mean_over_devices_of_the_running_averages(shards, tmp_path):
    _on_two_devices(shards, tmp_path / "two", "--steps", "1", recipe="tiny-rotation")
    options = Options(shards, str(tmp_path / "one"), steps=1, device="cpu")
    pretrain(tiny.ROTATION, options, say=lambda line: None)
    # In the first step, the mean of a batch is the mean of the means of its halves.
    found, expected = (
        several.variables(tmp_path / name, 1)["module/batch_normalization/moving_mean"]
        for name in ("two", "one")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_two_devices_of_a_process_train_as_one_does(shards, alone, tmp_path):
    _on_two_devices(shards, tmp_path, "--steps", "2")
    several.assert_equal_within(several.variables(tmp_path, 2), several.variables(alone, 2), 1e-5)


def _engine(place, initial):
    place.loss_scale = lambda *how: optimization.LossScale(initial=initial, interval=2)
    return tf2.Engine(tiny.PLAIN, tasks.build(tiny.PLAIN), tiny.specification(12), 3, 0, place)


def _batch(largest):
    random = np.random.RandomState(0)
    image = random.uniform(-1, 1, (12, 4, 12, 12, 3)).astype(np.float32) * largest
    return Batch(image, np.tile(np.arange(4, dtype=np.int32), (12, 1)), np.arange(12))


def test_an_overflowing_step_is_skipped_and_halves_the_scale_with_a_strategy_too():
    engines = [
        _engine(Place(), 8.0),
        _engine(Strategy(tf.distribute.MirroredStrategy(["CPU:0"]), "CPU"), 8.0),
    ]
    scales = []
    for engine in engines:
        batches = [_batch(1), _batch(np.inf), _batch(1), _batch(1)]
        scales.append([values["loss_scale"] for values in tiny.train(engine, batches)])
    assert scales == [[8, 8, 4, 4]] * 2
    states = [engine.state() for engine in engines]
    assert np.array_equal(states[1]["loss_scale"], 8) and states[1]["good_steps"] == 0
    for name, value in states[0].items():
        assert np.allclose(value, states[1][name], rtol=1e-5, atol=1e-7), name


def test_a_batch_size_that_devices_cannot_share_evenly_is_refused():
    place = Place(workers=2, replicas=2)
    assert share(64, place) == 32
    with pytest.raises(ValueError, match="66 counts the images of all 4 devices together"):
        share(66, place)


@pytest.mark.parametrize(
    "config,found",
    [
        ("", (0, 1)),
        ("{}", (0, 1)),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}, (1, 2)),
        (
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
                "task": {"type": "worker", "index": 1},
            },
            (2, 3),
        ),
        (
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
                "task": {"type": "chief", "index": 0},
            },
            (0, 2),
        ),
    ],
)
def test_tf_config_gives_the_number_of_this_worker(monkeypatch, config, found):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)
    assert (cluster().worker, cluster().workers) == found


@pytest.mark.parametrize(
    "text,message",
    [
        ("worker 1", "not 'worker 1': it is not JSON: Expecting value"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "'task'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "there is no task worker 1",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "ps cannot be used",
        ),
        (
            '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
            "'a' is not HOST:PORT",
        ),
    ],
)
def test_an_invalid_tf_config_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        cluster()
