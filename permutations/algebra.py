"""Finite fields, and the two families of permutation groups whose elements differ most.

A permutation group is sharply t-transitive if exactly one of its elements sends any t places to any
t values. Two different elements of it agree in fewer than t places, so their Hamming distance is at
least k - t + 1. The affine maps of GF(q) are sharply 2-transitive on q points, the projective maps
of its projective line sharply 3-transitive on q + 1 points (Dixon and Mortimer, "Permutation
groups", 1996).

A permutation is a row of values: value `row[i]` stands in place i.
"""

import functools
import itertools
from typing import List, NamedTuple, Optional, Sequence

import numpy as np


class Field(NamedTuple):
    """GF(q) as tables; an element is a number 0..q-1, and 0 and 1 are the field's own.

    Attributes:
        q: number of elements.
        add: int64 [q, q].
        multiply: int64 [q, q].
        inverse: int64 [q], the inverse of each element; 0 for element 0.
    """

    q: int
    add: np.ndarray
    multiply: np.ndarray
    inverse: np.ndarray


def is_prime_power(q: int) -> bool:
    """Whether there is a field of q elements."""
    return q >= 2 and _power_of(_smallest_factor(q), q) is not None


@functools.lru_cache(maxsize=16)
def field(q: int) -> Field:
    """GF(q).

    With q = p**m, an element stands for the polynomial over GF(p) whose coefficients are its m
    digits in base p. Multiplication is modulo a monic polynomial for which the powers of x run
    through all q - 1 elements but 0. That makes each of them a unit, hence a field, and turns
    multiplication into the addition of exponents.

    Raises: ValueError if q is not a prime power.
    """
    p = _smallest_factor(q) if q >= 2 else 1
    m = _power_of(p, q) if q >= 2 else None
    if m is None:
        raise ValueError(f"a field has a prime power of elements, not {q}")
    digits = np.array(list(itertools.product(range(p), repeat=m)))[:, ::-1]  # lowest first
    place_values = p ** np.arange(m)
    add = (digits[:, None] + digits[None]) % p @ place_values

    powers = next(filter(None, (_powers_of_x(tail, p) for tail in digits.tolist())))
    exp = np.array(powers) @ place_values
    log = np.zeros(q, np.int64)
    log[exp] = np.arange(q - 1)
    multiply = exp[(log[:, None] + log[None]) % (q - 1)]
    multiply[0, :] = multiply[:, 0] = 0
    inverse = exp[-log % (q - 1)]
    inverse[0] = 0
    for table in (add, multiply, inverse):
        table.setflags(write=False)
    return Field(q, add, multiply, inverse)


def affine(q: int, count: Optional[int] = None) -> np.ndarray:
    """AGL(1, q), the maps x -> a x + b of GF(q) with a other than 0.

    The rows come in cosets of the translations: q rows with a = 1 and b = 0, 1, …, then q rows with
    the next a. Within a coset every value stands once in every place.

    Args:
        q: a prime power.
        count: number of rows to make, of q (q - 1); all by default.

    Returns: int64 [count, q].
    """
    gf = field(q)
    number = np.arange(q * (q - 1) if count is None else count)
    return gf.add[gf.multiply[1 + number // q], (number % q)[:, None]]


def projective(q: int, count: Optional[int] = None) -> np.ndarray:
    """PGL(2, q), the maps x -> (a x + b) / (c x + d) of the projective line; infinity is point q.

    The rows come in cosets of a regular cyclic subgroup: exactly one of its q + 1 elements sends a
    given point to a given point, so within a coset every value stands once in every place. The maps
    that keep infinity are the affine maps. Each coset has exactly one of them, so they enumerate
    the cosets.

    Args:
        q: a prime power.
        count: number of rows to make, of (q + 1) q (q - 1); all by default.

    Returns: int64 [count, q + 1].
    """
    if count is None:
        count = (q + 1) * q * (q - 1)
    cycle = _long_cycle(q)
    subgroup = [np.arange(q + 1)]
    while len(subgroup) < q + 1:
        subgroup.append(cycle[subgroup[-1]])
    cosets = -(-count // (q + 1))
    fixing_infinity = np.pad(affine(q, cosets), ((0, 0), (0, 1)), "constant", constant_values=q)
    rows = np.array(subgroup)[:, fixing_infinity]  # [element, coset, point]
    return rows.transpose(1, 0, 2).reshape(-1, q + 1)[:count]


def _long_cycle(q: int) -> np.ndarray:
    """A map x -> b / (x + d) that takes any point through all q + 1 points.

    Such a map exists: multiplication by a generator of GF(q**2), written as a companion matrix, is
    a Singer cycle.
    """
    gf = field(q)
    for b, d in itertools.product(range(1, q), range(q)):
        row = np.append(gf.multiply[b, gf.inverse[gf.add[d]]], 0)  # infinity goes to 0
        row[np.flatnonzero(gf.add[d] == 0)] = q  # and -d to infinity
        point, length = row[0], 1
        while point != 0:
            point, length = row[point], length + 1
        if length == q + 1:
            return row
    raise AssertionError(f"no Singer cycle over GF({q})")


def _powers_of_x(tail: Sequence[int], p: int) -> List[List[int]]:
    """The powers of x modulo x**m + tail, as digits, if they are all p**m - 1; else nothing."""
    m = len(tail)
    one = [1] + [0] * (m - 1)
    powers, power = [], one
    for _ in range(p**m - 1):
        powers.append(power)
        carry = power[-1]
        power = [(low - carry * t) % p for low, t in zip([0, *power[:-1]], tail)]
        if power == one:
            break
    return powers if power == one and len(powers) == p**m - 1 else []


def _smallest_factor(n: int) -> int:
    return next((f for f in range(2, int(n**0.5) + 1) if n % f == 0), n)


def _power_of(p: int, q: int) -> Optional[int]:
    """The m for which q = p**m; None if there is none."""
    m, power = 1, p
    while power < q:
        m, power = m + 1, power * p
    return m if power == q else None
