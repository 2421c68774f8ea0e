"""Sets of permutations for the jigsaw task: construction, statistics and files.

A set is an integer array [n, k] whose rows are permutations of 0..k-1. The farther apart its rows
are, the less the task can be solved from a few patches alone.
"""

import itertools
import math
import os
import struct
from typing import NamedTuple, Optional, Tuple, Union

import numpy as np

from . import algebra

Path = Union[str, "os.PathLike[str]"]

PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published_100.bin")

# `greedy` goes through all k! permutations up to this many places, and through a sample if k is
# larger.
_LISTED_PLACES = 9
_SAMPLE = 200_000


class Hamming(NamedTuple):
    """The numbers of places in which the permutations of a set differ, over all pairs.

    Attributes:
        smallest: distance of the closest pair.
        mean: mean distance of all pairs.
        histogram: number of pairs at each distance 0..k.
    """

    smallest: int
    mean: float
    histogram: Tuple[int, ...]


def maximal(n: int = 100, k: int = 9) -> np.ndarray:
    """n permutations of k places that are as far apart as possible.

    Up to k (k - 1) permutations come from AGL(1, k) and differ pairwise in k - 1 places or, if
    n <= k, in all places. Up to k (k - 1) (k - 2) come from PGL(2, k - 1) and differ in k - 2. That
    is optimal for n > k (k - 1), because at most k (k - 1) permutations can differ pairwise in
    k - 1 places (Deza and Vanstone, "Bounds for permutation arrays", 1978).

    The mean distance is also the largest possible: it is largest if every value stands equally
    often in every place, and here these counts differ by at most one.

    Args:
        n: number of permutations.
        k: number of places. k must be a prime power, or k - 1 if n needs the larger group.

    Returns: int64 [n, k].
    Raises: ValueError if no such group is large enough.
    """
    _check(n, k)
    if algebra.is_prime_power(k) and n <= k * (k - 1):
        return algebra.affine(k, n)
    if algebra.is_prime_power(k - 1) and n <= k * (k - 1) * (k - 2):
        return algebra.projective(k - 1, n)
    limits = []
    if algebra.is_prime_power(k):
        limits.append(k * (k - 1))
    if algebra.is_prime_power(k - 1):
        limits.append(k * (k - 1) * (k - 2))
    reason = (
        f"for {k} places it makes at most {max(limits)}"
        if limits
        else f"neither {k} nor {k - 1} is a prime power"
    )
    raise ValueError(
        f"maximal({n}, {k}) has no algebraic construction: {reason}; use greedy({n}, {k}, seed)"
    )


def greedy(n: int, k: int, seed: int) -> np.ndarray:
    """n permutations of k places, chosen one by one (Noroozi and Favaro, 2016, algorithm 1).

    The first is random. Each further one has the largest mean distance to those chosen before, of
    all k! permutations up to k = 9, and of a random sample of 200,000 if k is larger.

    Args:
        n: number of permutations.
        k: number of places.
        seed: random seed; the same seed gives the same set.

    Returns: int64 [n, k].
    Raises: ValueError if there are not that many.
    """
    _check(n, k)
    random = np.random.RandomState(seed)
    if k <= _LISTED_PLACES:
        candidates = np.array(list(itertools.permutations(range(k))), np.uint8)
    else:
        sample = np.argsort(random.random_sample((_SAMPLE, k)), axis=1, kind="mergesort")
        candidates = np.unique(sample.astype(np.uint16), axis=0)
    if n > len(candidates):
        raise ValueError(f"greedy chooses among {len(candidates)} permutations of {k}, not {n}")
    candidates = np.ascontiguousarray(candidates.T)  # a place at a time: [k, candidates]
    distance = np.zeros(candidates.shape[1], np.int64)
    chosen = [random.randint(len(distance))]
    while len(chosen) < n:
        for place in candidates:
            distance += place != place[chosen[-1]]
        distance[chosen[-1]] = -1 - k * n  # chosen: stays below all others
        chosen.append(int(distance.argmax()))
    return candidates[:, chosen].T.astype(np.int64)


def published() -> np.ndarray:
    """The 100 permutations of 9 places that the paper uses: int64 [100, 9]."""
    return load(PUBLISHED)


def load(path: Path) -> np.ndarray:
    """Reads a set of permutations.

    The file has the format of the published code, little-endian int32: the number of permutations,
    the number of places, and the values, row by row, counted from 1.

    Returns: int64 [n, k], counted from 0.
    Raises: OSError; ValueError, naming the file, if it holds anything else.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(8)
        if len(header) < 8:
            raise ValueError(f"{path}: {size} bytes are too few for a permutation file")
        n, k = struct.unpack("<ii", header)
        if n < 1 or k < 2:
            raise ValueError(
                f"{path}: not a permutation file: it announces {n} permutations of {k} places"
            )
        expected = 8 + 4 * n * k
        if size != expected:
            state = "truncated" if size < expected else "too long"
            raise ValueError(
                f"{path}: {state}: {n} permutations of {k} places take {expected} bytes, "
                f"the file has {size}"
            )
        data = file.read(4 * n * k)
    if len(data) != 4 * n * k:
        raise ValueError(f"{path}: truncated while it was read")
    rows = np.frombuffer(data, "<i4").reshape(n, k)
    wrong = _first_wrong(rows, 1)
    if wrong is not None:
        raise ValueError(
            f"{path}: row {wrong} of {n} is not a permutation of 1..{k}: {rows[wrong].tolist()}"
        )
    return rows.astype(np.int64) - 1


def save(path: Path, set: np.ndarray) -> None:
    """Writes a set of permutations to a file that `load` reads.

    The file appears complete or not at all: it is written under a temporary name and renamed.

    Raises: OSError; ValueError if `set` is not an array [n, k] of permutations of 0..k-1.
    """
    rows = _checked_set(set)
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<ii", *rows.shape))
            file.write((rows + 1).astype("<i4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def hamming(set: np.ndarray) -> Hamming:
    """The Hamming distances between all pairs of a set of at least two permutations.

    Raises: ValueError if `set` is not such an array [n, k].
    """
    rows = _checked_set(set)
    n, k = rows.shape
    if n < 2:
        raise ValueError("distances need at least two permutations")
    histogram = np.zeros(k + 1, np.int64)
    for i in range(n - 1):
        distances = (rows[i + 1 :] != rows[i]).sum(axis=1)
        histogram += np.bincount(distances, minlength=k + 1)
    mean = float(histogram @ np.arange(k + 1) / histogram.sum())
    return Hamming(int(np.flatnonzero(histogram)[0]), mean, tuple(histogram.tolist()))


def _check(n: int, k: int) -> None:
    if k < 2:
        raise ValueError(f"permutations need at least 2 places, not {k}")
    if n < 1:
        raise ValueError(f"a set needs at least 1 permutation, not {n}")
    if k < 20 and n > math.factorial(k):
        raise ValueError(f"there are only {math.factorial(k)} permutations of {k} places, not {n}")


def _checked_set(set: np.ndarray) -> np.ndarray:
    rows = np.asarray(set)
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"a set is an integer array [n, k], not {rows.dtype} {list(rows.shape)}")
    rows = rows.astype(np.int64)
    wrong = _first_wrong(rows, 0)
    if wrong is not None:
        raise ValueError(
            f"row {wrong} is not a permutation of 0..{rows.shape[1] - 1}: {rows[wrong].tolist()}"
        )
    return rows


def _first_wrong(rows: np.ndarray, first: int) -> Optional[int]:
    """Number of the first row that is not a permutation of first, first + 1, …"""
    good = (np.sort(rows, axis=1) == np.arange(first, first + rows.shape[1])).all(axis=1)
    return None if good.all() else int(np.argmin(good))
