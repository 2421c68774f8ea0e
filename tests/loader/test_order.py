"""The order of an epoch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture.loader.epoch.draws import ORDER_BLOCKS, ORDER_WINDOW, permute
from pretexture.loader.epoch.order import (
    WindowShuffle,
    record_at,
    records_at,
    window_at,
    window_blocks,
)

seeds = st.integers(0, 2**64 - 1)


def order(seed, epoch, n, shuffle):
    return [record_at(seed, epoch, n, shuffle, position) for position in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_without_shuffling_records_come_in_file_order(n):
    assert order(0, 0, n, False) == list(range(n))


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(0, 1000), st.integers(1, 300))
def test_a_global_shuffle_gives_each_record_once(seed, epoch, n):
    assert sorted(order(seed, epoch, n, True)) == list(range(n))


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_a_window_shuffle_is_what_its_description_says(seed, n, block, blocks):
    """Built the long way: all records of each window in a list, then permuted."""
    count = -(-n // block)
    by_block = [list(range(n))[i * block : (i + 1) * block] for i in range(count)]
    by_block = [by_block[permute(seed, 2, ORDER_BLOCKS, 0, count, i)] for i in range(count)]
    expected = []
    for window in range(-(-count // blocks)):
        records = [r for b in by_block[window * blocks : (window + 1) * blocks] for r in b]
        expected += [
            records[permute(seed, 2, ORDER_WINDOW, window, len(records), place)]
            for place in range(len(records))
        ]
        shuffle = WindowShuffle(block, blocks)
        found = [list(range(*b)) for b in window_blocks(seed, 2, n, shuffle, window)]
        assert found == by_block[window * blocks : (window + 1) * blocks]
        first = len(expected) - len(records)
        for position in (first, first + len(records) // 2, len(expected) - 1):
            assert window_at(seed, 2, n, shuffle, position) == window
    assert sorted(expected) == list(range(n))
    assert order(seed, 2, n, shuffle) == expected


@given(seeds, st.integers(1, 2**32 - 1), st.data())
def test_a_window_shuffle_of_any_size_is_looked_up_at_once(seed, n, data):
    position = data.draw(st.integers(0, n - 1))
    shuffle = WindowShuffle(
        block=data.draw(st.integers(1, 2**20)), blocks=data.draw(st.integers(1, 2**10))
    )
    assert 0 <= record_at(seed, 0, n, shuffle, position) < n


@pytest.mark.parametrize("shuffle", [True, False, WindowShuffle(7, 3)])
def test_many_positions_are_looked_up_as_one_by_one(shuffle):
    assert records_at(5, 2, 100, shuffle, range(100)).tolist() == order(5, 2, 100, shuffle)
    assert records_at(5, 2, 100, shuffle, [9, 3]).tolist() == [
        record_at(5, 2, 100, shuffle, position) for position in (9, 3)
    ]


def test_epochs_differ_and_repeat():
    for shuffle in (True, WindowShuffle(8, 3)):
        assert order(0, 0, 100, shuffle) != order(0, 1, 100, shuffle)
        assert order(0, 0, 100, shuffle) != order(1, 0, 100, shuffle)
        assert order(0, 0, 100, shuffle) == order(0, 0, 100, shuffle)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8", 2**32])
def test_a_window_shuffle_needs_whole_numbers(wrong):
    with pytest.raises(ValueError, match=r"^block must be a whole number from 1"):
        WindowShuffle(block=wrong)
    with pytest.raises(ValueError, match=r"^blocks must be a whole number from 1"):
        WindowShuffle(blocks=wrong)
