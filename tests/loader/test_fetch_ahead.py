"""Remote shards are told what a Loader reads, before it does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture.loader.epoch.order import WindowShuffle, record_at
from pretexture.loader.epoch.sharding import WorkerShare
from pretexture.loader.shards.fetch_ahead import FetchAhead
from pretexture.loader.shards.index import Index


class Told:
    """Stands for remote shards; knows the last thing that it was told."""

    def expect(self, now, following=()):
        self.now, self.following = list(now), list(following)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_read_is_announced_as_read_now_and_before_that_as_coming(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    shuffle = data.draw(
        st.one_of(st.just(False), st.builds(WindowShuffle, st.integers(1, 9), st.integers(1, 3)))
    )
    n, workers = sum(sizes), data.draw(st.integers(1, 3))
    worker, size = data.draw(st.integers(0, workers - 1)), data.draw(st.integers(1, 6))
    drop, run_ahead = data.draw(st.booleans()), data.draw(st.booleans())
    own = n // workers if drop else -(-(n - worker) // workers)
    batches = own // size if drop else -(-own // size)
    if not batches:
        return
    prefetch = data.draw(st.integers(1, 4))
    begin = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    empty = np.zeros(0, np.uint64)
    share = WorkerShare(n, 7, shuffle, worker, workers, size, drop)
    told = Told()
    ahead = FetchAhead(told, Index(empty, empty, begin, ()), share, prefetch, run_ahead)

    def shards(epoch, batch):
        places = range(batch * size, min(own, (batch + 1) * size))
        records = [record_at(7, epoch, n, shuffle, worker + workers * p) for p in places]
        return {int(np.searchsorted(begin, r, side="right")) - 1 for r in records}

    order = [(epoch, batch) for epoch in range(3) for batch in range(batches)]
    for number, (epoch, batch) in enumerate(order[: 2 * batches]):
        ahead.at(epoch, batch)
        under_way = order[number : number + 1 + prefetch]
        if not run_ahead:
            under_way = [place for place in under_way if place[0] == epoch]
        for place in under_way:
            assert shards(*place) <= set(told.now)
        assert len(set(told.now)) == len(told.now)
        coming = order[number + 1 + prefetch : number + 2 + prefetch]
        if not shuffle and coming and (run_ahead or coming[0][0] == epoch):
            announced = set(told.now) | set(told.following)
            assert min(shards(*coming[0])) in announced


def test_a_window_and_the_next_are_announced_and_nothing_else():
    sizes = [10] * 100
    begin = np.arange(0, 1001, 10, dtype=np.uint64)
    assert len(begin) == len(sizes) + 1
    told = Told()
    empty = np.zeros(0, np.uint64)
    share = WorkerShare(1000, 7, WindowShuffle(20, 3), 0, 1, 5, True)
    ahead = FetchAhead(told, Index(empty, empty, begin, ()), share, 1, run_ahead=True)
    ahead.at(0, 0)
    first, second = told.now, told.following
    assert len(first) == len(second) == 6 and not set(first) & set(second)
    ahead.at(0, 12)  # of 12 batches in a window
    assert told.now == second and not set(told.following) & {*first, *second}
    ahead.at(0, 199)
    ahead.at(1, 0)
    assert set(told.now) != set(first)  # another epoch, another order


@pytest.mark.parametrize("batch", [0, 3])
def test_of_a_global_shuffle_there_is_nothing_to_tell(batch):
    empty = np.zeros(0, np.uint64)
    index = Index(empty, empty, np.array([0, 10], np.uint64), ())
    told = Told()
    share = WorkerShare(10, 7, True, 0, 1, 2, True)
    FetchAhead(told, index, share, 2, run_ahead=True).at(0, batch)
    assert not hasattr(told, "now")
