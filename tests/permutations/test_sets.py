import itertools
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture import permutations


def distances(rows):
    return [int((a != b).sum()) for a, b in itertools.combinations(rows, 2)]


def largest_mean(n, k):
    """Pairs agree least often if the n values of each place are spread as evenly as possible."""
    counts = np.full(k, n // k)
    counts[: n % k] += 1
    agreements = k * (counts * (counts - 1) // 2).sum()
    return k - agreements / (n * (n - 1) / 2)


def assert_permutations(rows, n, k):
    assert rows.shape == (n, k)
    assert np.issubdtype(rows.dtype, np.integer)
    assert (np.sort(rows, axis=1) == np.arange(k)).all()
    assert len({tuple(row) for row in rows.tolist()}) == n


def test_the_100_permutations_of_9_meet_both_bounds():
    rows = permutations.maximal(100)
    assert_permutations(rows, 100, 9)
    found = distances(rows)
    # At most 72 permutations of 9 differ pairwise in 8 places, so 7 is the best for 100.
    assert min(found) == 7
    assert sum(found) / 4950 == 9 - 9 * 506 / 4950 == pytest.approx(8.08)


@pytest.mark.parametrize(
    "n, k, smallest",
    [
        *[(n, 9, 9) for n in (2, 8, 9)],
        *[(n, 9, 8) for n in (10, 50, 71, 72)],
        *[(n, 9, 7) for n in (73, 74, 81, 300, 503, 504)],
        *[(4, 4, 4), (12, 4, 3), (24, 4, 2)],
        *[(6, 3, 2), (2, 2, 2)],
        *[(30, 6, 4), (120, 6, 4)],
        *[(240, 16, 15), (100, 16, 15)],
        *[(90, 25, 24)],
    ],
)
def test_maximal_meets_both_bounds_wherever_it_says_so(n, k, smallest):
    rows = permutations.maximal(n, k)
    assert_permutations(rows, n, k)
    found = distances(rows)
    assert min(found) == smallest
    assert sum(found) / len(found) == pytest.approx(largest_mean(n, k), abs=1e-12)


@pytest.mark.parametrize(
    "n, k, reason",
    [
        (505, 9, r"at most 504; use greedy\(505, 9, seed\)"),
        (241, 16, r"at most 240; use greedy\(241, 16, seed\)"),
        (100, 15, r"neither 15 nor 14 is a prime power; use greedy\(100, 15, seed\)"),
        (25, 4, "only 24 permutations of 4"),
        (0, 9, "at least 1 permutation"),
        (1, 1, "at least 2 places"),
    ],
)
def test_maximal_refuses_what_it_cannot_make(n, k, reason):
    with pytest.raises(ValueError, match=reason):
        permutations.maximal(n, k)


def test_greedy_is_deterministic_per_seed():
    first, again, other = (permutations.greedy(30, 7, seed) for seed in (1, 1, 2))
    assert_permutations(first, 30, 7)
    assert (first == again).all()
    assert (first != other).any()


def test_greedy_takes_the_candidate_of_the_largest_mean_distance():
    rows = permutations.greedy(12, 5, 3)
    everything = list(itertools.permutations(range(5)))
    for count in range(1, 12):
        chosen = rows[:count].tolist()
        totals = [
            sum(a != b for row in chosen for a, b in zip(row, candidate))
            for candidate in everything
            if list(candidate) not in chosen
        ]
        assert sum(a != b for row in chosen for a, b in zip(row, rows[count])) == max(totals)


def test_greedy_can_take_every_permutation():
    assert_permutations(permutations.greedy(24, 4, 0), 24, 4)


def test_greedy_samples_where_there_are_too_many_to_list():
    rows = permutations.greedy(20, 16, 5)
    assert_permutations(rows, 20, 16)
    assert (rows == permutations.greedy(20, 16, 5)).all()
    assert np.mean(distances(rows)) > 15  # random permutations differ in 15 on average


def test_the_published_set_has_its_known_distances():
    rows = permutations.published()
    assert_permutations(rows, 100, 9)
    found = permutations.hamming(rows)
    assert found.smallest == 2
    assert found.mean == pytest.approx(8.08)


def test_the_published_set_is_the_published_file():
    shared = os.path.join(os.path.dirname(__file__), *[".."] * 3, "shared", "data")
    path = os.path.join(shared, "permutations_100_max.bin")
    if not os.path.exists(path):
        pytest.skip("shared/data/permutations_100_max.bin is not here")
    assert (permutations.load(path) == permutations.published()).all()


def test_hamming_counts_pairs_at_each_distance():
    found = permutations.hamming(np.array([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 3, 0]]))
    assert found == (2, 3.0, (0, 0, 1, 1, 1))


sets = st.integers(2, 12).flatmap(
    lambda k: st.lists(st.permutations(range(k)), min_size=1, max_size=20)
)


@given(sets)
@settings(max_examples=50, deadline=None)
def test_a_saved_set_is_loaded_unchanged(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("sets") / "set.bin"
    permutations.save(path, np.array(rows))
    expected = struct.pack("<ii", len(rows), len(rows[0]))
    expected += b"".join(struct.pack("<i", value + 1) for row in rows for value in row)
    assert path.read_bytes() == expected
    assert permutations.load(path).tolist() == rows


def test_saving_leaves_nothing_else_and_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "set.bin"
    permutations.save(path, permutations.maximal(4, 4))
    before = path.read_bytes()

    def fail(file_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        permutations.save(path, permutations.maximal(5, 4))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.bin"]


GOOD = struct.pack("<11i", 3, 3, 1, 2, 3, 3, 2, 1, 2, 1, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "0 bytes are too few"),
        (GOOD[:7], "7 bytes are too few"),
        (GOOD[:-1], "truncated: 3 permutations of 3 places take 44 bytes, the file has 43"),
        (GOOD + b"\0", "too long"),
        (struct.pack("<2i", -1, 9), "announces -1 permutations"),
        (struct.pack("<2i", 100, 0), "announces 100 permutations of 0 places"),
        (struct.pack("<2i", 2**31 - 1, 2**31 - 1), "truncated"),
        (struct.pack("<4i", 1, 2, 0, 1), r"row 0 of 1 is not a permutation of 1..2: \[0, 1\]"),
        (struct.pack("<6i", 2, 2, 1, 2, 2, 2), r"row 1 of 2 is not a permutation of 1..2"),
        (struct.pack("<4i", 1, 2, -(2**31), 2**31 - 1), "not a permutation"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "bad.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason) as error:
        permutations.load(str(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("rows", [[[1, 2]], [[0, 0]], [0, 1], [[0.0, 1.0]], np.zeros((0, 3), int)])
def test_only_sets_are_saved_and_measured(tmp_path, rows):
    for use in (permutations.hamming, lambda r: permutations.save(tmp_path / "set.bin", r)):
        with pytest.raises(ValueError, match=r"permutation of 0\.\.|integer array"):
            use(np.asarray(rows))
    assert not list(tmp_path.iterdir())
