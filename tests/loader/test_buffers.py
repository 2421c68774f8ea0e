"""Batches belong to whoever keeps them; their memory goes back to a pool when nobody does."""

import gc
import os

import numpy as np
import pytest
from pretexture.loader import Loader, TFRecords

pytestmark = pytest.mark.usefixtures("no_hang")

PIPELINE = "inception(48)"


def make(shards, **kwargs):
    return Loader(TFRecords(shards), PIPELINE, 4, **{"threads": 2, **kwargs})


def address(array):
    return array.__array_interface__["data"][0]


def test_kept_batches_are_never_overwritten(shards):
    with make(shards) as loader:
        kept = [batch for _ in range(5) for batch in loader]
        copies = [batch.image.copy() for batch in kept]
        for _ in range(3):
            for _ in loader:
                pass
    assert len({address(batch.image) for batch in kept}) == len(kept) == 45
    for batch, copy in zip(kept, copies):
        np.testing.assert_array_equal(batch.image, copy)
    with make(shards, threads=1) as loader:
        again = [batch.image for _ in range(5) for batch in loader]
    for a, b in zip(copies, again):
        np.testing.assert_array_equal(a, b)


def test_a_part_of_a_batch_keeps_all_of_it(shards):
    with make(shards) as loader:
        rows, copies = [], []
        for batch in loader:
            rows.append(batch.image[1, 5:7, ::2].T)
            copies.append(rows[-1].copy())
        del batch
        for _ in range(3):
            for _ in loader:
                pass
        for row, copy in zip(rows, copies):
            np.testing.assert_array_equal(row, copy)
    gc.collect()
    for row, copy in zip(rows, copies):
        np.testing.assert_array_equal(row, copy)


def test_batches_outlive_their_loader(shards):
    loader = make(shards)
    batch = next(iter(loader))
    copies = [array.copy() for array in batch]
    loader.close()
    del loader
    gc.collect()
    for array, copy in zip(batch, copies):
        np.testing.assert_array_equal(array, copy)
        array[...] = 0  # and may be written to


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_images_are_aligned_to_64_bytes(dtype, shards):
    with make(shards, dtype=dtype) as loader:
        kept = [batch for _ in range(3) for batch in loader]
    assert all(address(batch.image) % 64 == 0 for batch in kept)
    assert all(batch.image.flags.aligned and batch.image.flags.writeable for batch in kept)


def test_buffers_are_used_again(shards):
    with make(shards) as loader:
        seen = {address(batch.image) for _ in range(20) for batch in loader}
    # The one in use, two made ahead, and one that was still in use while the next was begun.
    assert len(seen) <= 5


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_memory_does_not_grow_over_many_epochs(shards):
    batch_bytes = 12 * 4 * 96 * 96 * 3 * 4
    with Loader(TFRecords(shards), "inception(96, views=4)", 12, threads=2) as loader:

        def run(epochs):
            for _ in range(epochs):
                for batch in loader:
                    assert batch.image.nbytes == batch_bytes
            return resident_bytes()

        before = run(5)
        assert run(25) < before + 2 * batch_bytes

    def make_loaders(number):
        for _ in range(number):
            with Loader(TFRecords(shards), "inception(96, views=4)", 12, threads=2) as loader:
                next(iter(loader))
        gc.collect()
        return resident_bytes()

    before = make_loaders(10)  # what malloc keeps for new threads is there afterwards
    assert make_loaders(40) < before + 6 * batch_bytes


@pytest.mark.skipif(not hasattr(np, "from_dlpack"), reason="needs NumPy 1.22 or later")
def test_images_are_handed_over_by_dlpack_without_a_copy(shards):
    with make(shards) as loader:
        batch = next(iter(loader))
        expected = batch.image.copy()
        other = np.from_dlpack(batch.image)
        assert address(other) == address(batch.image)
        del batch
        for _ in range(2):
            for _ in loader:
                pass
        np.testing.assert_array_equal(other, expected)


def test_incomplete_batches_show_only_their_records(shards):
    with make(shards, drop_remainder=False) as loader:
        *_, last = loader
    assert last.image.shape == (1, 48, 48, 3)
    assert last.label.shape == last.index.shape == (1,)
