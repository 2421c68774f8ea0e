"""Weighted nearest neighbours in a stream of vectors, in NumPy.

The classifier of Wu et al. (2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", section 3.4), as DINO (Caron et al., 2021) uses it: the k vectors that are most
similar to a query by cosine vote for their classes, each with the weight exp(cosine / temperature).
Nothing is trained.
"""

from typing import List, Sequence, Tuple

import numpy as np

_ROWS, _COLUMNS = 1024, 4096


class Neighbours:
    """The k nearest neighbours, by cosine, of some queries among vectors that come in parts.

    Memory is bounded, however many vectors there are: the queries, float32 [Q, size]; a cosine and
    a label for each of their neighbours, 8 bytes x Q x k; up to 4,096 waiting vectors, float32
    [4096, size], and twice that while they are compared. They are compared with 1,024 queries at a
    time: the cosines of such a block, their copy and their order take 64 MiB.

    Args:
        queries: float32 [Q, size].
        k: number of neighbours.

    Attributes:
        count: number of vectors so far.
    """

    def __init__(self, queries: np.ndarray, k: int):
        self.count = 0
        self._queries = unit(queries)
        self._k = k
        self._cosines = np.full((len(queries), k), -np.inf, np.float32)
        self._labels = np.full((len(queries), k), -1, np.int32)
        self._waiting: List[Tuple[np.ndarray, np.ndarray]] = []

    def add(self, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Takes up to 4,096 more vectors, float32 [N, size], and their classes, int32 [N]."""
        if sum(len(few) for few, _ in self._waiting) + len(vectors) > _COLUMNS:
            self._compare()
        self.count += len(vectors)
        self._waiting.append((vectors, labels))

    def votes(
        self, classes: np.ndarray, temperature: float, rows: slice = slice(None)
    ) -> np.ndarray:
        """What the neighbours of each query say, float64 [Q, number of classes].

        If there are fewer than k vectors, all of them vote.

        Args:
            classes: int32 [number of classes], all labels of the vectors in ascending order.
            temperature: the weight of a cosine c is exp(c / temperature), up to a factor that is
                the same for all neighbours of a query.
            rows: the queries.
        """
        self._compare()
        cosines, labels = self._cosines[rows].astype(np.float64), self._labels[rows]
        votes = np.zeros((len(labels), len(classes)))
        query, place = np.nonzero(labels >= 0)
        # Relative to the nearest neighbour's, so that no temperature overflows or underflows.
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
        chosen = np.searchsorted(classes, labels[query, place])
        np.add.at(votes, (query, chosen), weights[query, place])
        return votes

    def accuracies(
        self, labels: np.ndarray, classes: np.ndarray, temperature: float, tops: Sequence[int]
    ) -> List[float]:
        """How often the label of a query is among the classes with the most votes.

        Ties count against it, and so does a label without votes.

        Args:
            labels: int32 [Q].
            classes, temperature: see `votes`.
            tops: numbers of classes, such as 1 and 5.

        Returns: a share of the queries for each of `tops`.
        """
        right = np.zeros(len(tops))
        for row in range(0, len(labels), _ROWS):
            rows = slice(row, row + _ROWS)
            votes = self.votes(classes, temperature, rows)
            own = (votes * (labels[rows, np.newaxis] == classes)).sum(axis=1, keepdims=True)
            rank = (votes >= own).sum(axis=1)  # 1 if no other class has as many
            right += [((own[:, 0] > 0) & (rank <= top)).sum() for top in tops]
        return [float(share) for share in right / len(labels)]

    def _compare(self) -> None:
        """Compares the waiting vectors with all queries."""
        if not self._waiting:
            return
        parts, marks = zip(*self._waiting)
        self._waiting = []
        vectors, labels = unit(np.concatenate(parts)).T, np.concatenate(marks)
        for row in range(0, len(self._queries), _ROWS):
            self._merge(slice(row, row + _ROWS), vectors, labels)

    def _merge(self, rows: slice, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Keeps the k nearest of the known neighbours of some queries and of vectors [size, N]."""
        k = self._k
        cosines = np.concatenate([self._cosines[rows], self._queries[rows] @ vectors], axis=1)
        chosen = np.argpartition(cosines, -k, axis=1)[:, -k:]
        old = np.take_along_axis(self._labels[rows], np.minimum(chosen, k - 1), axis=1)
        new = labels[np.maximum(chosen - k, 0)]
        self._labels[rows] = np.where(chosen < k, old, new)
        self._cosines[rows] = np.take_along_axis(cosines, chosen, axis=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [N, size] divided by their lengths; one of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
