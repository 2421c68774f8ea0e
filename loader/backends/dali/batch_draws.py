"""The random draws of `epoch.draws` for many views at once, in NumPy."""

from typing import Any, List

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(seed: int, *counter: np.ndarray) -> List[np.ndarray]:
    """`draws.philox` of arrays of counter words: four arrays."""
    x0, x1, x2, x3 = np.broadcast_arrays(*(np.asarray(x, np.uint64) for x in counter))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            (p1 >> _HALF) ^ x1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ x3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return [x0, x1, x2, x3]


def uniform(words: np.ndarray) -> np.ndarray:
    """`draws.uniform` of an array."""
    return words / 2.0**32


def below(words: np.ndarray, n: Any) -> np.ndarray:
    """`draws.below` of an array; n is a number or an array."""
    return (words * np.asarray(n).astype(np.uint64) >> _HALF).astype(np.int64)
