"""Permutation files: `permutations.load` against a plain reader."""

import struct
import sys

import atheris
import files
from pretexture import permutations

files.instrument(permutations.sets)
FILE = files.scratch("permutations")


def expected(data):
    """What the format says the file holds, counted from 0; None if it is not such a file."""
    if len(data) < 8 or len(data) % 4:
        return None
    n, k, *values = struct.unpack(f"<{len(data) // 4}i", data)
    if n < 1 or k < 2 or len(values) != n * k:
        return None
    rows = [[value - 1 for value in values[i * k : i * k + k]] for i in range(n)]
    return rows if all(sorted(row) == list(range(k)) for row in rows) else None


def test_one_input(data):
    files.write(FILE, data)
    rows = expected(data)
    try:
        loaded = permutations.load(FILE).tolist()
    except ValueError as error:
        assert rows is None, error
        assert FILE in str(error), error
    else:
        assert loaded == rows, loaded


def mutate(data, max_size, seed):
    """A mutation, and half of the time a header that fits the size."""
    data = atheris.Mutate(data, max_size)
    if seed % 2:
        k = 2 + seed // 2 % 7
        n = (len(data) - 8) // (4 * k)
        if n > 0:
            data = struct.pack("<ii", n, k) + data[8 : 8 + 4 * n * k]
    return data


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
