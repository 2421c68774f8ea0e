"""TensorFlow 1.15 on NPUs: how `npu_bridge` is called, and what a run learns."""

import dataclasses
import json
import os
import signal
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import resumed
import several
import tiny
from device_rules import broken
from learned import learned, wait_for_step
from pretexture.trainers.engines.npu_options import NpuOptions
from pretexture.trainers.engines.optimization import LossScale
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.checkpoints import CheckpointError, Checkpoints, read
from pretexture.trainers.runs.metrics import read_metrics
from tensorflow.python.client.session import BaseSession

if not tf.__version__.startswith("1.15"):
    pytest.skip("npu_bridge is for TensorFlow 1.15", allow_module_level=True)

RECIPE = tiny.ROTATION
FULL = NpuOptions(precision_mode="must_keep_origin_dtype")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Removes the variables of a job from the environment, also after a test."""
    for name in ("JOB_ID", "RANK_ID", "RANK_SIZE", "TF_CONFIG", "RESTORE_FROM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def calls(monkeypatch):
    """Installs the stand-in; the list of its calls, as (name, arguments)."""
    monkeypatch.syspath_prepend(several.PLUGINS)
    # The plugin changes the class of sessions.
    monkeypatch.setattr(BaseSession, "__init__", BaseSession.__init__)
    import calls

    del calls.CALLS[:]
    yield calls.CALLS
    for name in ("calls", "hccl_world", "npu_bridge", "npu_bridge.npu_init"):
        sys.modules.pop(name, None)


def _train(shards, folder, recipe=RECIPE, device="npu", **options):
    options = {"log_steps": 1, **options}
    given = Options(shards, str(folder), device=device, **options)
    return pretrain(recipe, given, say=lambda line: None)


def _asked(calls, name):
    return [arguments for called, arguments in calls if called == name]


def test_a_missing_plugin_is_an_error_that_says_where_to_get_it(shards, tmp_path):
    message = "needs npu_bridge, Huawei's TF Adapter for TensorFlow 1.15.*not on PyPI.*CANN toolkit"
    with pytest.raises(ImportError, match=message):
        _train(shards, tmp_path, steps=1)


def test_an_npu_estimator_with_the_given_options_makes_the_steps(shards, tmp_path, calls):
    npu = NpuOptions(
        precision_mode="allow_mix_precision",
        iterations_per_loop=2,
        profiling_dir=str(tmp_path / "made" / "profiles"),
        dump_dir=str(tmp_path / "made" / "dumps"),
        dump_steps="0|5",
        dump_mode="all",
    )
    # The stand-in raises an error if the folders are missing; the plugin ends the process.
    _train(shards, tmp_path / "run", steps=2, npu=npu)
    (config,) = _asked(calls, "NPURunConfig")
    options = config.pop("profiling_options")
    assert config == {
        "use_off_line": True,
        "iterations_per_loop": 2,
        "enable_data_pre_proc": True,
        "precision_mode": "allow_mix_precision",
        "hcom_parallel": False,
        "enable_profiling": True,
        "enable_dump": True,
        "dump_path": npu.dump_dir,
        "dump_step": "0|5",
        "dump_mode": "all",
        "save_checkpoints_steps": 0,  # the Estimator saves no checkpoints
    }
    assert json.loads(options) == {
        "output": npu.profiling_dir,
        "training_trace": "on",
        "task_trace": "on",
    }
    assert _asked(calls, "NPUEstimator") == [
        {"optimizers": ["NpuOptimizer"], "warm_start_from": None}
    ]
    assert not _asked(calls, "NPUDistributedOptimizer")
    assert (os.environ["JOB_ID"], os.environ["RANK_ID"], os.environ["RANK_SIZE"]) == (
        "10086",
        "0",
        "1",
    )


def test_every_session_says_whether_it_runs_on_the_npu(shards, tmp_path, calls):
    _train(shards, tmp_path / "run", steps=0)
    _train(shards, tmp_path / "run", steps=2, checkpoint_steps=1)
    evaluate(str(tmp_path / "run"), shards, device="npu")
    made = _asked(calls, "session")
    assert not any(session["by_default"] for session in made)
    # On the device are only the sessions of Estimators: of both runs and of the evaluation.
    assert sum(session["on_npu"] for session in made) == len(_asked(calls, "graph"))
    assert sum(not session["on_npu"] for session in made) >= 2  # those that write checkpoints


def test_features_are_computed_in_the_given_precision(calls):
    from npu_bridge import npu_init  # noqa: F401
    from pretexture.trainers.engines import sessions

    with tf.Graph().as_default() as graph:
        two = tf.constant(1.0) + 1.0
    with sessions.on_device(graph, FULL) as session:
        assert session.run(two) == 2
    with graph.as_default(), sessions.on_host() as session:
        assert session.run(two) == 2
    device, host = _asked(calls, "session")
    assert device["on_npu"] and device["precision_modes"] == ["must_keep_origin_dtype"]
    assert not host["on_npu"] and not host["by_default"]


def test_checkpoints_named_by_the_jobs_environment_are_ignored(
    shards, tmp_path, calls, monkeypatch
):
    monkeypatch.setenv("LOCAL_CHECKPOINT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("RESTORE_FROM", str(tmp_path / "other"))
    _train(shards, tmp_path, steps=1)
    assert _asked(calls, "NPUEstimator")[0]["warm_start_from"] is None


def test_in_full_precision_an_npu_learns_what_a_cpu_does(shards, tmp_path, calls):
    _train(shards, tmp_path / "npu", steps=8, npu=FULL)
    _train(shards, tmp_path / "cpu", steps=8, device="cpu")
    assert learned(tmp_path / "npu") == learned(tmp_path / "cpu")
    assert not _asked(calls, "NPULossScaleOptimizer")
    result = evaluate(str(tmp_path / "npu"), shards, device="npu")
    expected = evaluate(str(tmp_path / "cpu"), shards, device="cpu")
    assert result.pop("chance") == expected.pop("chance")
    assert result == pytest.approx(expected, abs=1e-6)
    assert _asked(calls, "graph")[-1]["mode"] == "eval"


@pytest.mark.parametrize("steps", [8, 10, 3])
def test_loops_on_the_device_change_nothing_that_is_learned(shards, tmp_path, calls, steps):
    npu = dataclasses.replace(FULL, iterations_per_loop=4)
    _train(shards, tmp_path / "loops", steps=steps, npu=npu, checkpoint_steps=3)
    _train(shards, tmp_path / "plain", steps=steps, npu=FULL)
    loops, plain = learned(tmp_path / "loops"), learned(tmp_path / "plain")
    told = [step for step in (4, 8) if step <= steps]
    told += range(steps // 4 * 4 + 1, steps + 1)
    assert loops == [plain[step - 1] for step in told]
    several.assert_equal_within(
        several.variables(tmp_path / "loops", steps),
        several.variables(tmp_path / "plain", steps),
        1e-7,
    )
    sizes = [config["iterations_per_loop"] for config in _asked(calls, "NPURunConfig")]
    assert sizes == [4] * (steps >= 4) + [1] * (steps % 4 > 0) + [1]


def test_a_run_with_loops_on_the_device_is_resumed(shards, tmp_path, calls):
    npu = dataclasses.replace(FULL, iterations_per_loop=3)
    _train(shards, tmp_path / "parts", steps=5, npu=npu)
    _train(shards, tmp_path / "parts", steps=12, npu=npu)
    _train(shards, tmp_path / "whole", steps=12, npu=FULL)
    assert learned(tmp_path / "parts")[-1] == learned(tmp_path / "whole")[-1]


def test_the_loss_scale_for_16_bits_is_part_of_the_checkpoint(shards, tmp_path, calls):
    _train(shards, tmp_path, steps=4)
    (manager,) = _asked(calls, "ExponentialUpdateLossScaleManager")
    assert manager["given"] == (2.0**15, 2000, 1, 2, 0.5)
    assert _asked(calls, "NPULossScaleOptimizer") == [
        {"opt": "MomentumOptimizer", "is_distributed": False}
    ]
    assert {line["loss_scale"] for line in learned(tmp_path)} == {2.0**15}
    found = several.variables(tmp_path, 4)
    assert (found["loss_scale"], found["good_steps"]) == (2.0**15, 4)

    _train(shards, tmp_path, steps=6)
    assert several.variables(tmp_path, 6)["good_steps"] == 6
    # Scales that are powers of two change no bit, so the run learns what a CPU does.
    _train(shards, tmp_path / "cpu", steps=6, device="cpu")
    assert learned(tmp_path, "loss_scale") == learned(tmp_path / "cpu")


def test_a_run_moves_between_cpu_and_npu(shards, tmp_path, calls):
    _train(shards, tmp_path / "moved", steps=2, device="cpu")
    _train(shards, tmp_path / "moved", steps=4)
    assert several.variables(tmp_path / "moved", 4)["good_steps"] == 2
    _train(shards, tmp_path / "moved", steps=6, device="cpu")
    _train(shards, tmp_path / "stayed", steps=6, device="cpu")
    assert learned(tmp_path / "moved", "loss_scale") == learned(tmp_path / "stayed")


def test_the_loss_scale_may_be_fixed(shards, tmp_path, calls):
    _train(shards, tmp_path, RECIPE.replace(loss_scale=128.0), steps=2)
    assert _asked(calls, "FixedLossScaleManager") == [{"loss_scale": 128.0}]
    assert not _asked(calls, "ExponentialUpdateLossScaleManager")
    assert [line["loss_scale"] for line in learned(tmp_path)] == [128, 128]


def test_an_overflowing_step_is_skipped_and_halves_the_scale(shards, tmp_path, calls, monkeypatch):
    # Gradients of weight decay are some hundreds, and become infinite when they are scaled.
    recipe = RECIPE.replace(weight_decay=1e3, lr=1e-6, warmup_epochs=0.0)
    monkeypatch.setattr(LossScale, "INITIAL", 2.0**127)
    _train(shards, tmp_path, recipe, steps=3, checkpoint_steps=1)
    scales = [line["loss_scale"] for line in learned(tmp_path)]
    assert scales == [2.0**127, 2.0**126, 2.0**125]
    first, last = (several.variables(tmp_path, step) for step in (1, 3))
    assert np.array_equal(first["module/conv2d/kernel"], last["module/conv2d/kernel"])
    assert not first["module/conv2d/kernel/Momentum"].any() and last["good_steps"] == 0


@pytest.mark.parametrize("optimizer,loss_scale", resumed.KINDS)
def test_every_optimizer_resumes(shards, tmp_path, calls, optimizer, loss_scale):
    recipe = RECIPE.replace(optimizer=optimizer, loss_scale=loss_scale or 0.0, lr=0.1)
    npu = FULL if loss_scale is None else NpuOptions()
    for folder, steps in (("whole", 6), ("parts", resumed.BEFORE), ("parts", 6)):
        _train(shards, tmp_path / folder, recipe, steps=steps, npu=npu)
    assert learned(tmp_path / "parts") == learned(tmp_path / "whole")
    resumed.assert_powers(tmp_path / "parts", optimizer)


@pytest.mark.parametrize("lacking", ["beta1_power", "module/conv2d/kernel/Adam_1"])
def test_a_checkpoint_that_lacks_a_variable_is_refused(shards, tmp_path, calls, lacking):
    adam = RECIPE.replace(optimizer="adam")
    _train(shards, tmp_path, adam, steps=2)
    (path,) = (str(index)[: -len(".index")] for index in tmp_path.glob("model.ckpt-2.index"))
    values = several.variables(tmp_path, 2)
    _, loader_state = read(path, [])
    del values[lacking]
    for file in tmp_path.glob("model.ckpt-2.*"):
        file.unlink()
    Checkpoints(str(tmp_path)).save(2, values, loader_state)
    with pytest.raises(CheckpointError, match=f"has no variable {lacking}$"):
        _train(shards, tmp_path, adam, steps=4)


def test_graphs_for_the_device_keep_the_rules(shards, tmp_path, calls):
    for recipe in (RECIPE, tiny.JIGSAW):
        folder = tmp_path / recipe.task
        _train(shards, folder, recipe, steps=1)
        evaluate(str(folder), shards, device="npu")
    graphs = [arguments["graph"] for arguments in _asked(calls, "graph")]
    assert len(graphs) == 4
    for graph in graphs:
        from pretexture.trainers.engines import estimator

        fetches = tf.nest.flatten(graph.get_collection(estimator._FETCHES))
        assert broken(fetches) == []


def test_a_checkpoint_that_does_not_fit_is_an_error_of_one_line(shards, tmp_path, calls):
    _train(shards, tmp_path, steps=1)
    for path in tmp_path.glob("model.ckpt-1.data*"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        _train(shards, tmp_path, steps=2)


def test_several_workers_need_npus(shards, tmp_path, monkeypatch):
    config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=r"TF_CONFIG names several workers.* TensorFlow 2\.6"):
        _train(shards, tmp_path, device="cpu", steps=1)


def test_workers_in_tf_config_are_refused(shards, tmp_path, calls, monkeypatch):
    config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="NPUs are found by RANK_ID and RANK_SIZE"):
        _train(shards, tmp_path, steps=1)


def test_empty_environment_variables_count_as_unset(shards, tmp_path, calls, monkeypatch):
    for name in ("RANK_SIZE", "RANK_ID", "JOB_ID", "TF_CONFIG"):
        monkeypatch.setenv(name, "")
    assert _train(shards, tmp_path, steps=1).step == 1


def test_ranks_need_a_rank_table(shards, tmp_path, calls, monkeypatch):
    monkeypatch.setenv("RANK_ID", "0")
    monkeypatch.setenv("RANK_SIZE", "2")
    with pytest.raises(ValueError, match="RANK_TABLE_FILE names no file"):
        _train(shards, tmp_path, steps=1)
    monkeypatch.setenv("RANK_ID", "2")
    with pytest.raises(ValueError, match=r"^RANK_ID in the env.* 0 to 1, not '2'"):
        _train(shards, tmp_path, steps=1)


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch.setitem)
        _train(shards, folder, tiny.PLAIN, device="cpu", steps=3, checkpoint_steps=1)
    return folder


def test_two_ranks_average_gradients_and_start_from_the_first_ranks_variables(
    shards, alone, tmp_path
):
    flags, environment, path = several.npus(tmp_path, 2)
    command = several.command(
        *(shards, tmp_path, "--steps", "3", "--checkpoint-steps", "1"),
        *("--precision-mode", "must_keep_origin_dtype"),
        device="npu",
    )
    several.done(several.launch(2, command, *flags, environment=environment))
    for step in (1, 3):
        several.assert_equal_within(
            several.variables(tmp_path, step), several.variables(alone, step), 1e-5
        )
    calls = several.read_calls(path)
    assert len(_asked(calls, "broadcast")) == len(_asked(calls, "NPUDistributedOptimizer")) == 2
    assert all(config["hcom_parallel"] for config in _asked(calls, "NPURunConfig"))
    # Only the first rank writes.
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_a_killed_rank_ends_the_run_with_an_error(shards, alone, tmp_path):
    flags, environment, _ = several.npus(tmp_path, 2)
    command = several.command(
        *(shards, tmp_path, "--steps", "1000000", "--checkpoint-steps", "1"), device="npu"
    )
    process = several.launch(2, command, *flags, environment=environment)
    wait_for_step(tmp_path, 3, process)
    os.kill(several.children(process.pid)[1], signal.SIGKILL)
    output = several.done(process, 128 + signal.SIGKILL)
    assert "launch: process 1 was killed by SIGKILL" in output
    # The other rank ends by itself: its step fails, or it is asked to end between two steps.
    words = (
        "[0] error: another worker is gone, or this one failed",
        "[0] run the same command again",
    )
    assert any(word in output for word in words)
    _train(
        shards, tmp_path, tiny.PLAIN, device="cpu", steps=read_metrics(str(tmp_path))[-1]["step"]
    )
