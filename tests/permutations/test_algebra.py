import itertools

import numpy as np
import pytest
from pretexture.permutations import algebra

ORDERS = [2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 25, 27]


@pytest.mark.parametrize("q", ORDERS)
def test_field_axioms(q):
    gf = algebra.field(q)
    add, multiply, every = gf.add, gf.multiply, np.arange(q)
    a, b, c = np.meshgrid(every, every, every, indexing="ij")
    for table in (add, multiply):
        assert (table == table.T).all(), "commutative"
        assert (table[table[a, b], c] == table[a, table[b, c]]).all(), "associative"
    assert (multiply[a, add[b, c]] == add[multiply[a, b], multiply[a, c]]).all(), "distributive"
    assert (add[0] == every).all()
    assert (multiply[1] == every).all()
    assert (multiply[0] == 0).all()
    assert (np.sort(add, axis=1) == every).all(), "every element has a negative"
    assert (multiply[every[1:], gf.inverse[1:]] == 1).all()


@pytest.mark.parametrize("q", [2, 3, 5, 7, 11, 13])
def test_a_prime_field_is_arithmetic_modulo_the_prime(q):
    gf, every = algebra.field(q), np.arange(q)
    assert (gf.add == (every[:, None] + every) % q).all()
    assert (gf.multiply == (every[:, None] * every) % q).all()


@pytest.mark.parametrize("q, p", [(4, 2), (8, 2), (9, 3), (27, 3)])
def test_adding_one_p_times_gives_zero(q, p):
    total = 0
    for _ in range(p):
        total = algebra.field(q).add[total, 1]
    assert total == 0


def test_prime_powers():
    # OEIS A246655
    expected = [2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32, 37, 41, 43, 47, 49]
    assert [q for q in range(51) if algebra.is_prime_power(q)] == expected


@pytest.mark.parametrize("q", [-1, 0, 1, 6, 10, 12])
def test_there_is_no_field_of_another_size(q):
    with pytest.raises(ValueError, match=f"prime power of elements, not {q}"):
        algebra.field(q)


def composed(rows, first, second):
    """Row numbers of the products, or an error if a product is not in the group."""
    number = {tuple(row): i for i, row in enumerate(rows.tolist())}
    return number[tuple(rows[first][rows[second]].tolist())]


@pytest.mark.parametrize("q", [4, 5, 8, 9])
def test_affine_maps_are_a_sharply_2_transitive_group(q):
    rows = algebra.affine(q)
    assert rows.shape == (q * (q - 1), q)
    for places in itertools.permutations(range(q), 2):
        images = rows[:, list(places)]
        assert len(np.unique(images, axis=0)) == len(rows) == q * (q - 1)
    random = np.random.RandomState(0)
    for first, second in random.randint(len(rows), size=(200, 2)):
        composed(rows, first, second)


@pytest.mark.parametrize("q", [3, 4, 5, 7, 8])
def test_projective_maps_are_a_sharply_3_transitive_group(q):
    rows = algebra.projective(q)
    assert rows.shape == ((q + 1) * q * (q - 1), q + 1)
    for places in itertools.permutations(range(q + 1), 3):
        images = rows[:, list(places)]
        # As many different images as there are triples of points: each is reached exactly once.
        assert len(np.unique(images @ [(q + 1) ** 2, q + 1, 1])) == len(rows)
    random = np.random.RandomState(0)
    for first, second in random.randint(len(rows), size=(200, 2)):
        composed(rows, first, second)


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 8, 9, 11, 13, 16])
def test_projective_maps_come_in_cosets_of_a_regular_cyclic_subgroup(q):
    k = q + 1
    rows = algebra.projective(q)
    subgroup = rows[:k]
    assert (subgroup[0] == np.arange(k)).all()
    for i in range(k):
        assert (subgroup[i] == subgroup[1][subgroup[i - 1]]).all(), "cyclic"
    for coset in rows.reshape(-1, k, k):
        assert (np.sort(coset, axis=0) == np.arange(k)[:, None]).all(), "a Latin square"


def test_a_few_rows_are_the_first_of_all():
    assert (algebra.affine(9, 13) == algebra.affine(9)[:13]).all()
    assert (algebra.projective(8, 100) == algebra.projective(8)[:100]).all()
