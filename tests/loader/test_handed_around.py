"""A Loader that is copied, pickled, forked and continued by other workers."""

import copy
import json
import multiprocessing
import os
import pickle
import sys
import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture.loader import Loader, TFRecords
from pretexture.loader.epoch.order import record_at
from pretexture.loader.epoch.sharding import WorkerShare

pytestmark = pytest.mark.usefixtures("no_hang")

VARIABLES = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
VARIABLES += ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def make(shards, **options):
    options = {"seed": 5, "threads": 2, **options}
    return Loader(TFRecords(shards), "inception(16)", options.pop("batch_size", 4), **options)


def same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        for array, expected in zip(batch, other):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "copies", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))]
)
@pytest.mark.parametrize("taken", [0, 3, 9, 12])
def test_a_copy_continues_with_the_next_batch(copies, taken, shards):
    with make(shards) as loader:
        expected = [batch for _ in range(3) for batch in loader]
    with make(shards) as loader:
        iterator, seen = iter(loader), []
        while len(seen) < taken:
            try:
                seen.append(next(iterator))
            except StopIteration:
                iterator = iter(loader)
        with copies(loader) as other:
            rest = [batch for _ in range(2) for batch in other]
            same(rest, expected[taken : taken + len(rest)])
            assert other.pipeline == loader.pipeline and other.batch_size == loader.batch_size
        left = -taken % 9 if taken else 9
        same(list(iterator), expected[taken : taken + left])


def first_batches(loader, queue):
    queue.put([np.asarray(array) for batch in loader for array in batch])
    loader.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("began", [False, True])
def test_another_process_reads_on_its_own(method, began, shards):
    context = multiprocessing.get_context(method)
    with make(shards, shuffle=False) as loader:
        expected = list(loader)
    with make(shards, shuffle=False) as loader:
        iterator = iter(loader)
        if began:
            next(iterator)
            loader.set_epoch(0)
        queue = context.Queue()
        child = context.Process(target=first_batches, args=(loader, queue))
        child.start()
        found = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        for array, other in zip(found, [array for batch in expected for array in batch]):
            np.testing.assert_array_equal(array, other)
        same(list(loader), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_cannot_continue_the_iteration_of_the_other(shards):
    with make(shards) as loader:
        iterator = iter(loader)
        next(iterator)
        child = os.fork()
        if not child:
            code = 1
            try:
                next(iterator)
            except RuntimeError as error:
                good = "was forked" in str(error) and loader.stats.records == 0
                good = good and len(list(loader)) == 9 and loader.stats.records >= 36
                loader.close()
                code = 7 if good else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] >> 8 == 7
        assert len(list(iterator)) == 8


def test_set_epoch_begins_an_epoch_but_not_one_that_was_loaded(shards):
    with make(shards) as loader:
        epochs = [list(loader) for _ in range(4)]
    with make(shards) as loader:
        for epoch in (2, 0, 3, 3):
            loader.set_epoch(epoch)
            assert loader.begins_an_epoch
            same(list(loader), epochs[epoch])
        loader.set_epoch(1)
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        loader.set_epoch(2)
        with pytest.raises(RuntimeError, match="another iteration"):
            next(iterator)
        loader.load_state_dict(state)
        loader.set_epoch(1)
        same(list(loader), epochs[1][1:])
        loader.load_state_dict(state)
        loader.set_epoch(2)
        same(list(loader), epochs[2])
        for wrong in (-1, 2**32, 1.5, None):
            with pytest.raises(ValueError, match="epoch must be"):
                loader.set_epoch(wrong)


@settings(deadline=None)
@given(
    st.integers(1, 60),
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    st.booleans(),
    st.data(),
)
def test_other_workers_continue_after_the_last_record_that_was_read(
    records, before, after, drop, data
):
    """Told by a list of the epoch's order from which batches are dealt."""

    def shares(workers, size, begin=(0, 0)):
        return [
            WorkerShare(records, 3, True, w, workers, size, drop, begin) for w in range(workers)
        ]

    old, new = shares(*before), shares(*after)
    steps = min(share.batches for share in old)
    step = data.draw(st.integers(0, steps))
    order = [record_at(3, 6, records, True, position) for position in range(records)]
    read = sorted(r for share in old for b in range(step) for r in share.records(6, b).tolist())
    whole = before[0] * before[1] * step
    assert read == sorted(order[: min(whole, records)])

    resumed = [share.resume(old[0].state(6, step), elastic=True) for share in new]
    assert len({result[1:] for result in resumed}) == 1
    epoch, batch = resumed[0][1:]
    if epoch == 7:
        assert batch == 0 and all(share.begin == (0, 0) for share, *_ in resumed)
        assert step == old[0].batches or records - whole < after[0] * after[1] or not drop
        return
    rest = [
        r
        for share, *_ in resumed
        for b in range(batch, share.batches_in(6))
        for r in share.records(6, b).tolist()
    ]
    assert len(set(rest) | set(read)) == len(rest) + len(read)
    if not drop:
        assert sorted(rest + read) == list(range(records))
    else:
        assert records - len(rest) - len(read) < after[0] * after[1]
    for share, *_ in resumed:
        assert [share.records(7, b).tolist() for b in range(share.batches)] == [
            new[share.worker].records(7, b).tolist() for b in range(share.batches)
        ]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_a_loader_continues_elastically_and_again(backend, training, shards):
    """Three workers of 2, then one of 5, then two of 4: every record of the epoch once."""
    options = {"backend": backend, "training": training, "shuffle": True, "drop_remainder": False}
    with make(shards, **options) as loader:
        views = {int(i): image for batch in loader for i, image in zip(batch.index, batch.image)}
    seen = []

    state = None
    for workers, size, steps in ((3, 2, 2), (1, 5, 1), (2, 4, 0)):
        loaders = [
            make(shards, shard=(w, workers), batch_size=size, **options) for w in range(workers)
        ]
        for loader in loaders:
            if state:
                loader.load_state_dict(state, elastic=True)
                assert not loader.begins_an_epoch
            iterator = iter(loader)
            for batch in iterator if not steps else (next(iterator) for _ in range(steps)):
                for number, image in zip(batch.index, batch.image):
                    seen.append(int(number))
                    np.testing.assert_array_equal(image, views[int(number)])
        state = loaders[0].state_dict()
        for loader in loaders:
            loader.close()
    assert sorted(seen) == sorted(views)
    with make(shards, **{**options, "batch_size": 7}) as loader:
        loader.load_state_dict(state, elastic=True)
        assert loader.begins_an_epoch
        assert sorted(int(i) for batch in loader for i in batch.index) == sorted(views)


def test_an_elastic_state_is_saved_and_loaded_like_any_other(shards):
    with make(shards) as loader:
        whole = [batch.index.tolist() for _ in range(2) for batch in loader]
        loader.set_epoch(0)
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = loader.state_dict()
    with make(shards, batch_size=6) as loader, make(shards, batch_size=6) as other:
        loader.load_state_dict(state, elastic=True)
        first, *_ = loader
        loader.load_state_dict(state, elastic=True)
        next(iter(loader))
        state = loader.state_dict()
        assert (state["version"], state["begin"], state["batch"]) == (2, [0, 8], 1)
        other.load_state_dict(state)
        rest = [batch.index.tolist() for _ in range(2) for batch in other]
    order = np.concatenate(whole[:9]).tolist()
    assert [first.index.tolist(), *rest[:3]] == [order[i : i + 6] for i in (8, 14, 20, 26)]
    assert rest[3] == np.concatenate(whole[9:]).tolist()[:6]


def test_without_elastic_the_message_says_that_there_is_elastic(shards):
    with make(shards, batch_size=5) as other, make(shards) as loader:
        with pytest.raises(ValueError, match=r"batch_size=5.*elastic=True\) continues"):
            loader.load_state_dict(other.state_dict())
        with pytest.raises(ValueError, match=r"seed=5, this Loader has 6$"):
            make(shards, seed=6).load_state_dict(loader.state_dict(), elastic=True)


@pytest.mark.parametrize("where", range(0, 6, 2))
def test_auto_finds_the_worker_that_a_launcher_names(where, shards, monkeypatch):
    rank, size = VARIABLES[where : where + 2]
    monkeypatch.setenv(rank, "1")
    with make(shards, shard="auto") as loader:  # half of a pair
        assert loader.shard == (0, 1)
    monkeypatch.setenv(size, "3")
    with make(shards, shard="auto") as loader:
        assert loader.shard == (1, 3)
        monkeypatch.setenv(rank, "2")
        with pickle.loads(pickle.dumps(loader)) as other:
            assert other.shard == (2, 3)
    for wrong in ("3", "-1", "x", ""):
        monkeypatch.setenv(rank, wrong)
        with pytest.raises(ValueError, match=f"shard='auto': {rank}='{wrong}' and {size}='3' must"):
            make(shards, shard="auto")


def test_auto_asks_the_frameworks_first(shards, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    jax = types.SimpleNamespace(process_index=lambda: 4, process_count=lambda: 8)
    jax.distributed = types.SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "jax", jax)
    with make(shards, shard="auto", batch_size=2) as loader:
        assert loader.shard == (4, 8)
    torch = types.SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True)
    torch.get_rank, torch.get_world_size = lambda: 1, lambda: 5
    monkeypatch.setitem(sys.modules, "torch.distributed", torch)
    with make(shards, shard="auto") as loader:
        assert loader.shard == (1, 5)


def test_every_process_reading_all_records_is_warned_of_once(shards, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({"training": False}, {"shard": (1, 2)}, {"shard": "auto"}):
            with make(shards, **options) as loader:
                next(iter(loader))
    with make(shards) as loader, pytest.warns(UserWarning) as caught:
        next(iter(loader))
        next(iter(loader))
    assert len(caught) == 1
    assert "this process is number 1 of 2" in str(caught[0].message)
    assert "shard='auto' or (1, 2)" in str(caught[0].message)


def test_labels_are_int64_if_asked(shards):
    with make(shards) as loader, make(shards, label_dtype="int64") as other:
        for batch, wide in zip(loader, other):
            assert batch.label.dtype == np.int32 and wide.label.dtype == np.int64
            np.testing.assert_array_equal(batch.label, wide.label)
        assert other.element_spec.label.dtype == "int64"
    with pytest.raises(ValueError, match="label_dtype must be one of int32, int64"):
        make(shards, label_dtype="int8")


def numbers(batches):
    return [batch.index.tolist() for batch in batches]


def test_the_state_of_an_iterator_is_json_in_bytes_as_with_grain(shards):
    with make(shards) as loader:
        iterator = iter(loader)
        next(iterator)
        state = iterator.get_state()
        assert isinstance(state, bytes)
        assert json.loads(state.decode()) == loader.state_dict()


@pytest.mark.parametrize("taken", [0, 3, 9])
def test_an_iterator_continues_from_a_state(taken, shards):
    with make(shards) as loader:
        expected = numbers(batch for _ in range(2) for batch in loader)
    with make(shards) as loader:
        iterator = iter(loader)
        for _ in range(taken):
            next(iterator)
        assert len(expected) == 18
        state = iterator.get_state()
    with make(shards) as loader:
        iterator = iter(loader)
        next(iterator)
        iterator.set_state(state)
        assert numbers(iterator) == expected[taken : 9 if taken < 9 else 18][: 9 - taken % 9]
        with pytest.raises(StopIteration):
            next(iterator)


def test_an_iterator_goes_back_to_its_own_state_even_after_its_end(shards):
    with make(shards) as loader:
        iterator = iter(loader)
        next(iterator)
        state = iterator.get_state()
        rest = numbers(iterator)
        for _ in range(2):
            iterator.set_state(state)
            assert numbers(iterator) == rest
        assert len(rest) == 8
        following = numbers(loader)
    with make(shards) as loader:
        list(loader)
        assert following == numbers(loader)


def test_an_iterator_refuses_the_state_of_another_seed(shards):
    with make(shards, seed=6) as loader:
        state = iter(loader).get_state()
    with make(shards) as loader, pytest.raises(ValueError, match="seed=6"):
        iter(loader).set_state(state)
