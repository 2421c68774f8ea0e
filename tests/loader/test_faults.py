"""What a machine can do to a Loader: full disks, read-only folders, thousands of Loaders."""

import gc
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from disks import fill, mounted
from pretexture.loader import Loader, TFRecords

PIPELINE = "resize(16)"


def indexes_of(loader):
    return sorted(np.concatenate([batch.index for batch in loader]))


def test_a_full_disk_costs_the_index_cache_and_nothing_else(shards, tmp_path, caplog):
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        fill(disk)
        with caplog.at_level(logging.WARNING), Loader(
            TFRecords(shards, cache_dir=disk / "cache"), PIPELINE, 37, training=False
        ) as loader:
            assert indexes_of(loader) == list(range(37))
        (said,) = [record.getMessage() for record in caplog.records]
        assert "cannot be cached" in said
        assert "No space left on device" in said
        left = [name for _, _, names in os.walk(disk) for name in names]
        assert left == ["filler"]


def test_a_read_only_data_folder_is_read(write_shards, images, tmp_path):
    with mounted(tmp_path / "disk", 8 << 20) as disk:
        paths = write_shards(disk, images[:8], shards=2)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "new").touch()
        with Loader(
            TFRecords(paths, cache_dir=disk / "cache"), PIPELINE, 8, training=False
        ) as loader:
            assert indexes_of(loader) == list(range(8))


MANY = """
import gc, os, sys
from pretexture.loader import Loader, TFRecords
records = TFRecords(sys.argv[1:])

def held():
    gc.collect()
    kilobytes = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), kilobytes

def use(number):
    loader = Loader(records, "resize(64)", 4, threads=2, seed=number)
    batches = iter(loader)
    for _ in range(number % 3):
        next(batches)
    if number % 2:
        loader.close()

for number in range(200):
    use(number)
files, threads, memory = held()
for number in range(800):
    use(number)
files_then, threads_then, memory_then = held()
print(files_then - files, threads_then - threads, memory_then - memory)
"""


def test_a_thousand_loaders_leave_no_files_threads_or_memory(shards):
    run = subprocess.run(
        [sys.executable, "-c", MANY, *shards], capture_output=True, text=True, check=True
    )
    files, threads, kilobytes = map(int, run.stdout.split())
    assert files <= 0
    assert threads <= 0
    # 800 Loaders held two batches each, 12 kB an image: 77 MB if nothing were given back.
    assert kilobytes < 16 << 10


def test_a_batch_outlives_its_loader_and_is_then_freed(shards):
    kept = []
    for seed in range(20):
        with Loader(TFRecords(shards), PIPELINE, 4, seed=seed) as loader:
            kept.append(next(iter(loader)))
    copies = [batch.image.copy() for batch in kept]
    gc.collect()
    for batch, copy in zip(kept, copies):
        np.testing.assert_array_equal(batch.image, copy)
