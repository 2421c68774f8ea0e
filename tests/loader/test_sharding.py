"""What a worker owns of an epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretexture.loader import Loader, TFRecords
from pretexture.loader.epoch.sharding import WorkerShare


def share(records, worker, workers, size, drop):
    return WorkerShare(records, 3, False, worker, workers, size, drop)


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 9), st.booleans())
def test_workers_share_the_positions_out_like_cards(records, workers, size, drop):
    """Dealt one by one; with drop_remainder a round that does not reach all workers is left out."""
    hands = [[] for _ in range(workers)]
    for position in range(records // workers * workers if drop else records):
        hands[position % workers].append(position)
    for worker, hand in enumerate(hands):
        mine = share(records, worker, workers, size, drop)
        batches = [hand[i : i + size] for i in range(0, len(hand), size)]
        if drop:
            batches = [batch for batch in batches if len(batch) == size]
        assert mine.size == len(hand)
        assert mine.batches == len(batches)
        assert [list(mine.positions(0, i)) for i in range(len(batches))] == batches
        assert [mine.records(0, i).tolist() for i in range(len(batches))] == batches


def test_after_the_last_batch_comes_the_next_epoch_or_nothing():
    mine = share(10, 0, 1, 4, False)
    assert mine.after(5, 1, into_next_epoch=False) == (5, 2)
    assert mine.after(5, 2, into_next_epoch=False) is None
    assert mine.after(5, 2, into_next_epoch=True) == (6, 0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_a_loader_reads_what_its_share_says(shards, training, shard):
    with Loader(TFRecords(shards), "crop(8)", 4, training=training, shard=shard) as loader:
        for epoch in range(2):
            found = [batch.index.tolist() for batch in loader]
            expected = [loader.share.records(epoch, b).tolist() for b in range(len(loader))]
            assert found == expected


def test_the_options_of_a_loader_are_its_attributes(shards):
    with Loader(TFRecords(shards), "crop(8)", 4, shard=(1, 2), dtype="uint8") as loader:
        assert (loader.batch_size, loader.dtype, loader.shard) == (4, "uint8", (1, 2))
        assert (loader.training, loader.shuffle, loader.drop_remainder) == (True, True, True)
        with pytest.raises(AttributeError, match="no attribute 'shards'"):
            _ = loader.shards
