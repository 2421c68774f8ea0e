"""Runs on a disk that fills up give a clear error, and resume when there is room again."""

import os
import re

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import tiny
from disks import fill, make_room
from learned import learned
from pretexture.scripts import flags
from pretexture.trainers import run as run_module
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.checkpoints import Checkpoints
from pretexture.trainers.transfer import features


def _train(shards, folder, **options):
    options = {"log_steps": 1, "device": "cpu", **options}
    return pretrain(tiny.ROTATION, Options(shards, str(folder), **options), say=lambda line: None)


@pytest.fixture
def full_after(small_disk, monkeypatch):
    """full_after(step): fills the disk after that step, the first time that it is made."""

    def prepare(full_step):
        after = run_module._Loop.after
        left = [full_step]

        def filling(self, result):
            if result.step in left:
                left.remove(result.step)
                fill(small_disk)
            return after(self, result)

        monkeypatch.setattr(run_module._Loop, "after", filling)

    return prepare


@pytest.mark.parametrize(
    "what,options,last",
    [
        (r"model\.ckpt-4", {"checkpoint_steps": 2}, "its last checkpoint is of step 2"),
        # The last block of the files has room for a few more lines.
        (r"metrics\.jsonl|events\.out", {"steps": 400}, "without a checkpoint"),
    ],
    ids=["checkpoint", "metrics"],
)
def test_a_full_disk_ends_the_run_which_resumes_when_there_is_room(
    shards, small_disk, full_after, tmp_path, what, options, last
):
    folder = small_disk / "run"
    full_after(3)
    message = rf"^no space left on the device for .*({what}).*; the run ends, {last}: make room"
    with pytest.raises(OSError, match=message):
        _train(shards, folder, **{"steps": 8, **options})
    assert not list(folder.glob(".model*")) and not list(folder.glob("*.tmp"))
    make_room(small_disk)
    assert _train(shards, folder, steps=8).step == 8
    _train(shards, tmp_path / "whole", steps=8)
    assert learned(folder) == learned(tmp_path / "whole")


def test_a_disk_that_is_already_full_is_an_error_of_one_line(shards, small_disk):
    folder = small_disk / "run"
    folder.mkdir()
    fill(small_disk)
    with pytest.raises(SystemExit) as exit, flags.short_errors(False):
        _train(shards, folder, steps=1)
    assert exit.value.code == (
        f"error: no space left on the device for {folder}/config.json; the run ends, without a "
        "checkpoint: make room, and run the same command again to resume"
    )


def _nothing(ranges):
    raise AssertionError("features are computed before there is room for them")


@pytest.mark.parametrize("reserve", [True, False], ids=["fallocate", "zeros"])
def test_too_little_room_for_features_is_an_error_at_the_start(small_disk, monkeypatch, reserve):
    if not reserve:
        monkeypatch.delattr(os, "posix_fallocate")
    folder = small_disk / "features"
    with pytest.raises(
        OSError, match=r"no space left on the device .*the features of 30 records take 1,200,376 by"
    ):
        features.extract(str(folder), 30, 5, 10_000, _nothing, {})
    assert not list(folder.glob("*.npy"))
    with pytest.raises(AssertionError):  # fewer features fit
        features.extract(str(folder), 20, 5, 10_000, _nothing, {})
    # All of its space is reserved, in blocks of 512 bytes.
    assert os.stat(str(folder / "features.npy")).st_blocks * 512 >= 20 * 10_000 * 4


def test_an_extraction_resumes_when_there_is_room_for_its_notes(small_disk):
    calls = []

    def parts(ranges):
        for first, last in ranges:
            for number in range(first, last):
                if number == 2 and 2 not in calls:
                    fill(small_disk)
                calls.append(number)
                yield number, np.full((5, 1000), number), np.full(5, number)

    folder = small_disk / "features"
    with pytest.raises(OSError, match="No space left on device"):
        features.extract(str(folder), 20, 5, 1000, parts, {})
    make_room(small_disk)
    values, labels = features.extract(str(folder), 20, 5, 1000, parts, {})
    expected = np.repeat(np.arange(4), 5)
    assert labels.tolist() == expected.tolist() and values[:, 999].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "error,words",
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), "too little memory"),
        (
            tf.errors.ResourceExhaustedError(None, None, "/disk/a; No space left on device"),
            "no space left on the device: /disk/a",
        ),
        (OSError(28, "No space left on device", "/disk/b"), "no space left on the device: /disk/b"),
        (OSError(122, "Disk quota exceeded", "/disk/c"), "no space left on the device: /disk/c"),
        (MemoryError("std::bad_alloc"), r"not enough memory \(std::bad_alloc\): lower --batch-"),
    ],
)
def test_a_full_disk_and_a_full_device_memory_are_distinguished(error, words):
    with pytest.raises(SystemExit) as exit, flags.short_errors(False):
        raise error
    assert re.match(f"error: .*{words}", exit.value.code)
    assert "\n" not in exit.value.code


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(small_disk):
    checkpoints = Checkpoints(str(small_disk))
    checkpoints.save(1, {"a": np.zeros(1000, np.float32)}, {})
    before = sorted(os.listdir(str(small_disk)))
    with pytest.raises(OSError, match=r"No space left on device: .*model\.ckpt-2"):
        checkpoints.save(2, {"a": np.zeros(1_000_000, np.float32)}, {})
    assert sorted(os.listdir(str(small_disk))) == before and checkpoints.steps == [1]
