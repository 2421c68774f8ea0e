"""TensorFlow 2.6.5 on NPUs: how `npu_device` is called, and what a run learns.

The device must be opened before TensorFlow is used, so each run has a process of its own.
"""

import os
import signal
import subprocess
import sys

import pytest

tf = pytest.importorskip("tensorflow")

import resumed
import several
import tiny
from device_rules import broken
from learned import learned, wait_for_step
from pretexture.trainers import tasks
from pretexture.trainers.engines.npu_options import NpuOptions
from pretexture.trainers.run import Options, pretrain

if not tf.__version__.startswith("2.6"):
    pytest.skip("npu_device is for TensorFlow 2.6.5", allow_module_level=True)

from pretexture.trainers.engines import places, tf2

FULL = ("--precision-mode", "must_keep_origin_dtype")


def _run(shards, folder, *flags, recipe="tiny-rotation", plugin=True):
    """Trains in a process; returns its exit status, its output and the calls of the plugin."""
    folder.mkdir(exist_ok=True)
    calls = folder / "calls"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "NPU_CALLS": str(calls)}
    if plugin:
        environment["PYTHONPATH"] = several.PLUGINS
    process = subprocess.run(
        [sys.executable, *several.command(shards, folder, *flags, recipe=recipe, device="npu")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    asked = several.read_calls(calls) if calls.exists() else []
    return process.returncode, process.stdout, asked


def _on_cpu(shards, folder, recipe=tiny.ROTATION, **options):
    options = {"log_steps": 1, "device": "cpu", **options}
    return pretrain(recipe, Options(shards, str(folder), **options), say=lambda line: None)


def test_a_missing_plugin_is_an_error_that_says_where_to_get_it(shards, tmp_path):
    status, output, _ = _run(shards, tmp_path, plugin=False)
    assert status == 1
    assert output.splitlines()[-1].startswith(
        "error: --device npu needs npu_device, Huawei's TF Adapter for TensorFlow 2.6.5. It is not "
        "on PyPI: its wheel comes with the CANN toolkit"
    )


def test_the_device_is_opened_first_with_the_given_options(shards, tmp_path):
    profiles, dumps = str(tmp_path / "made" / "profiles"), str(tmp_path / "made" / "dumps")
    flags = ["--precision-mode", "allow_mix_precision", "--profiling-dir", profiles]
    flags += ["--dump-dir", dumps, "--dump-steps", "0|5", "--dump-mode", "all"]
    # The stand-in raises an error if TensorFlow was used before, or if the folders are missing.
    status, output, asked = _run(shards, tmp_path / "run", *flags, "--steps", "2")
    assert status == 0, output
    assert "device    Ascend NPU, allow_mix_precision, TensorFlow 2.6.5" in output
    assert [call[0] for call in asked[-3:]] == ["open", "as_default", "NpuLossScaleOptimizer"]
    assert asked[-3][1] == {"device_id": 0}
    assert {option["name"]: option["value"] for _, option in asked[:-3]} == {
        "precision_mode": "allow_mix_precision",
        "profiling_config.enable_profiling": True,
        "profiling_config.profiling_options": (
            f'{{"output": "{profiles}", "training_trace": "on", "task_trace": "on"}}'
        ),
        "dump_config.enable_dump": True,
        "dump_config.dump_path": dumps,
        "dump_config.dump_step": "0|5",
        "dump_config.dump_mode": "all",
    }
    assert asked[-1][1] == {
        "dynamic": True,
        "initial_scale": 2.0**15,
        "dynamic_growth_steps": 2000,
    }


@pytest.fixture
def plugin(monkeypatch):
    """The stand-in with an open device."""
    monkeypatch.syspath_prepend(several.PLUGINS)
    import npu_device

    monkeypatch.setattr(npu_device, "_opened", True)
    return npu_device


@pytest.mark.parametrize("optimizer,loss_scale", resumed.KINDS)
def test_every_optimizer_resumes(tmp_path, plugin, optimizer, loss_scale):
    recipe = tiny.ROTATION.replace(optimizer=optimizer, loss_scale=loss_scale or 0.0, lr=0.1)
    mode = "must_keep_origin_dtype" if loss_scale is None else "allow_fp32_to_fp16"
    place = places.Npu(plugin, NpuOptions(precision_mode=mode))

    def engine():
        return tf2.Engine(recipe, tasks.build(recipe), tiny.specification(6), 6, 0, place)

    resumed.assert_resumes(engine, tmp_path, optimizer)


def test_the_graph_for_the_device_keeps_the_rules(plugin):
    place = places.Npu(plugin, NpuOptions())
    task = tasks.build(tiny.ROTATION)
    graph = tf2.Engine(tiny.ROTATION, task, tiny.specification(6), 6, 0, place)._compiled()
    graph = graph.get_concrete_function().graph
    assert any(op.type == "If" for op in graph.get_operations())  # whether the step is skipped
    assert broken([*graph.outputs, *graph.control_outputs]) == []


def test_workers_in_tf_config_are_refused(shards, tmp_path, monkeypatch):
    config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", config)
    status, output, _ = _run(shards, tmp_path)
    assert status == 1
    assert "NPUs are found by RANK_ID and RANK_SIZE" in output.splitlines()[-1]


def test_empty_environment_variables_count_as_unset(shards, tmp_path, monkeypatch):
    for name in ("RANK_SIZE", "RANK_ID", "JOB_ID", "TF_CONFIG"):
        monkeypatch.setenv(name, "")
    status, output, _ = _run(shards, tmp_path, "--steps", "1")
    assert status == 0, output


def test_runs_move_between_npu_and_cpu_with_the_same_losses(shards, tmp_path):
    _on_cpu(shards, tmp_path / "stayed", steps=6)
    moved = tmp_path / "moved"
    _on_cpu(shards, moved, steps=2)
    status, output, _ = _run(shards, moved, "--steps", "4")
    assert status == 0, output
    found = several.variables(moved, 4)
    assert (found["loss_scale"], found["good_steps"]) == (2.0**15, 2)
    assert found["good_steps"].dtype == "int32"  # the type with which `npu_bridge` counts
    status, output, _ = _run(shards, moved, "--steps", "5")
    assert status == 0 and several.variables(moved, 5)["good_steps"] == 3, output
    _on_cpu(shards, moved, steps=6)
    # Scales that are powers of two change no bit.
    assert learned(moved, "loss_scale") == learned(tmp_path / "stayed")


def test_full_precision_has_no_loss_scale_and_others_may_have_a_fixed_one(shards, tmp_path):
    _, output, asked = _run(shards, tmp_path / "full", "--steps", "1", *FULL)
    assert "NpuLossScaleOptimizer" not in dict(asked), output
    _, output, asked = _run(shards, tmp_path / "fixed", "--steps", "1", "--loss-scale", "128")
    assert dict(asked)["NpuLossScaleOptimizer"] == {
        "dynamic": False,
        "initial_scale": 128,
        "dynamic_growth_steps": None,
    }, output
    assert learned(tmp_path / "fixed")[0]["loss_scale"] == 128


@pytest.mark.parametrize(
    "flags,message",
    [
        (("--iterations-per-loop", "2"), "--iterations-per-loop is for TensorFlow 1.15"),
        (("--devices", "2"), "each NPU needs its own process; pretexture launch --nproc 2"),
        (("--precision", "mixed"), "for an NPU, --precision-mode chooses the type"),
        (("--dump-steps", "1"), "say what goes to dump_dir"),
    ],
)
def test_flags_for_other_devices_are_refused_in_one_line(shards, tmp_path, flags, message):
    status, output, _ = _run(shards, tmp_path, *flags)
    assert status == 1
    assert message in output.splitlines()[-1] and "Traceback" not in output


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch.setitem)
        _on_cpu(shards, folder, tiny.PLAIN, steps=3, checkpoint_steps=1)
    return folder


def test_two_ranks_average_gradients_and_metrics_and_start_from_the_first_ranks_variables(
    shards, alone, tmp_path
):
    flags, environment, path = several.npus(tmp_path, 2)
    command = several.command(
        *(shards, tmp_path, "--steps", "3", "--checkpoint-steps", "1", *FULL), device="npu"
    )
    several.done(several.launch(2, command, *flags, environment=environment))
    for step in (1, 3):
        several.assert_equal_within(
            several.variables(tmp_path, step), several.variables(alone, step), 1e-5
        )
    for line, expected in zip(learned(tmp_path), learned(alone)):
        assert line == pytest.approx(expected, abs=1e-5)
    asked = several.read_calls(path)
    assert [options for name, options in asked if name == "broadcast"] == [{"values": 7}] * 2
    assert sorted(o["device_id"] for name, o in asked if name == "open") == [0, 1]


def test_a_killed_rank_ends_the_run_with_an_error(shards, tmp_path):
    flags, environment, _ = several.npus(tmp_path, 2)
    command = several.command(shards, tmp_path, "--steps", "1000000", device="npu")
    process = several.launch(2, command, *flags, environment=environment)
    wait_for_step(tmp_path, 3, process)
    os.kill(several.children(process.pid)[0], signal.SIGKILL)
    output = several.done(process, 128 + signal.SIGKILL)
    assert "launch: process 0 was killed by SIGKILL" in output
    assert "[1] error: another worker is gone, or this one failed" in output


def test_ranks_that_would_resume_from_different_steps_are_an_error(shards, tmp_path):
    flags, environment, _ = several.npus(tmp_path, 2)
    _on_cpu(shards, tmp_path / "0", tiny.PLAIN, steps=2)
    # Each rank has its own workdir, and only one of them holds a run.
    words = [f"'{word}'" for word in several.command(shards, "WORKDIR", device="npu")]
    line = f"{sys.executable} {' '.join(words)}".replace("'WORKDIR'", f"{tmp_path}/$RANK_ID")
    process = several.launch(
        2, ["sh", "-c", line, "--device", "npu"], *flags, environment=environment
    )
    assert "--workdir must be the same folder for all of them" in several.done(process, 1)
