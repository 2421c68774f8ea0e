import numpy as np
import pytest
from pretexture.trainers.transfer import neighbours
from pretexture.trainers.transfer.neighbours import Neighbours


def _data(seed, count=300, queries=70, size=12, classes=8):
    """Noisy vectors around a mean for each class: (vectors, labels, queries, labels)."""
    random = np.random.RandomState(seed)
    means = random.randn(classes, size)
    labels = random.randint(0, classes, count + queries).astype(np.int32)
    labels[:classes] = range(classes)
    vectors = means[labels] + 1.5 * random.randn(count + queries, size)
    vectors *= random.uniform(0.1, 10, (count + queries, 1))  # lengths do not matter
    vectors = vectors.astype(np.float32)
    return vectors[:count], labels[:count], vectors[count:], labels[count:]


def _found(vectors, labels, queries, k, part=37):
    found = Neighbours(queries, k)
    for first in range(0, len(vectors), part):
        found.add(vectors[first : first + part], labels[first : first + part])
    assert found.count == len(vectors)
    return found


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_and_accuracies_are_those_of_scikit_learn(k, temperature):
    classifiers = pytest.importorskip("sklearn.neighbors")
    vectors, labels, queries, truth = _data(k)
    classes = np.arange(8, dtype=np.int32)
    classifier = classifiers.KNeighborsClassifier(
        k,
        weights=lambda distance: np.exp((1 - distance) / temperature),
        algorithm="brute",
        metric="cosine",
    ).fit(vectors, labels)
    expected = classifier.predict_proba(queries)
    found = _found(vectors, labels, queries, k)
    votes = found.votes(classes, temperature)
    np.testing.assert_allclose(votes / votes.sum(1, keepdims=True), expected, atol=1e-5)
    (top1,) = found.accuracies(truth, classes, temperature, [1])
    assert top1 == pytest.approx(classifier.score(queries, truth))
    assert 0.3 < top1 < 0.95  # neither chance nor trivial


def test_the_nearest_are_those_of_the_whole_product():
    vectors, labels, queries, truth = _data(0)
    # The formula of the paper, in double precision and all at once.
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float64) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    expected = np.zeros((len(queries), 8))
    for query, row in enumerate(cosines):
        for neighbour in np.argsort(-row)[:20]:
            expected[query, labels[neighbour]] += np.exp(row[neighbour] / 0.07)
    classes = np.arange(8, dtype=np.int32)
    found = _found(vectors, labels, queries, 20)
    votes = found.votes(classes, 0.07)
    scale = expected.max(1, keepdims=True) / votes.max(1, keepdims=True)
    np.testing.assert_allclose(votes * scale, expected, rtol=1e-4, atol=1e-6 * expected.max())
    order = np.argsort(-expected, axis=1, kind="stable")
    for top in (1, 5):
        right = [
            truth[i] in order[i, :top] and expected[i, truth[i]] > 0 for i in range(len(truth))
        ]
        assert found.accuracies(truth, classes, 0.07, [top]) == [pytest.approx(np.mean(right))]


def test_blocks_do_not_change_the_result(monkeypatch):
    vectors, labels, queries, _ = _data(1)
    classes = np.arange(8, dtype=np.int32)
    whole = _found(vectors, labels, queries, 9, part=300).votes(classes, 0.07)
    monkeypatch.setattr(neighbours, "_ROWS", 16)
    monkeypatch.setattr(neighbours, "_COLUMNS", 41)
    in_blocks = _found(vectors, labels, queries, 9, part=10).votes(classes, 0.07)
    np.testing.assert_allclose(in_blocks, whole, rtol=1e-4)


def test_fewer_vectors_than_neighbours_all_vote():
    vectors = np.float32([[1, 0], [0, 2], [3, 3]])
    found = Neighbours(np.float32([[5, 0]]), 20)
    found.add(vectors, np.int32([4, 9, 4]))
    votes = found.votes(np.int32([4, 9]), 0.5)
    np.testing.assert_allclose(votes, [[1 + np.exp((0.5**0.5 - 1) / 0.5), np.exp(-2)]], rtol=1e-6)


def test_ties_labels_without_votes_and_unknown_labels_count_as_wrong():
    found = Neighbours(np.float32([[1, 0]] * 4), 2)
    found.add(np.float32([[1, 1], [1, 1], [-1, 0]]), np.int32([0, 3, 7]))
    classes = np.int32([0, 3, 7])
    labels = np.int32([0, 3, 7, 5])
    assert found.accuracies(labels, classes, 0.07, [1, 2, 3]) == [0, 0.5, 0.5]


def test_low_temperatures_and_vectors_of_zeros_give_finite_votes():
    found = Neighbours(np.float32([[0, 0], [1, 1]]), 2)
    found.add(np.float32([[0, 0], [1, 0]]), np.int32([0, 1]))
    votes = found.votes(np.int32([0, 1]), 1e-6)
    np.testing.assert_array_equal(votes, [[1, 1], [0, 1]])


def test_memory_does_not_grow_with_the_number_of_vectors():
    tracemalloc = pytest.importorskip("tracemalloc")
    queries = np.random.RandomState(0).randn(64, 256).astype(np.float32)

    def peak(parts):
        tracemalloc.start()
        found = Neighbours(queries, 20)
        random = np.random.RandomState(1)
        for _ in range(parts):
            vectors = random.randint(-100, 100, (1024, 256)).astype(np.float32)
            found.add(vectors, np.zeros(1024, np.int32))
        found.votes(np.int32([0]), 0.07)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(40) < 1.2 * peak(10)  # the vectors of 40 parts take four times those of 10
