"""A source of records that a user writes in Python."""

import threading
import time

import numpy as np
import pytest
from pretexture.loader import Loader, Record, RecordError, Records, TFRecords

pytestmark = pytest.mark.usefixtures("no_hang")

BACKENDS = ["native", "reference"]
PIPELINE = "inception(24)"


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "reference":
        pytest.importorskip("cv2")
    return request.param


class Images(Records):
    """Images in a list; `faults` are raised instead of reading a record."""

    def __init__(self, images, faults=None):
        self.images, self.faults = images, faults or {}
        self.read_now, self.most_at_once = 0, 0

    def __len__(self):
        return len(self.images)

    def record(self, number):
        self.read_now += 1
        self.most_at_once = max(self.most_at_once, self.read_now)
        time.sleep(0.0002)
        self.read_now -= 1
        if number in self.faults:
            raise self.faults[number]
        return self.images[number], number, f"image {number}"


def batches(records, backend="native", state=None, **options):
    options = {"batch_size": 5, "seed": 3, "threads": 3, **options}
    with Loader(records, PIPELINE, backend=backend, **options) as loader:
        if state is not None:
            loader.load_state_dict(state)
        return list(loader), loader.stats


def same(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected):
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.label, b.label)
        np.testing.assert_array_equal(a.image, b.image)


@pytest.mark.parametrize("options", [{}, {"shard": (1, 2)}, {"training": False}])
def test_its_batches_are_those_of_the_same_images_in_shards(
    images, write_shards, tmp_path, backend, options
):
    shards = write_shards(tmp_path, images, shards=2)  # labels 1, 2, …
    expected, _ = batches(TFRecords(shards), backend, **options)
    ours, stats = batches(Images(images), backend, **options)
    same(ours, expected)
    assert stats.bytes >= sum(len(images[i]) for batch in ours for i in batch.index)


def test_it_is_resumed_in_the_middle_of_an_epoch(images, backend):
    records = Images(images)
    whole, _ = batches(records, backend)
    with Loader(records, PIPELINE, 5, seed=3) as loader:
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = loader.state_dict()
    same(batches(records, backend, state)[0], whole[2:])


def test_it_is_called_by_one_thread_at_a_time(images):
    records = Images(images * 4)
    batches(records, threads=8)
    assert records.most_at_once == 1


@pytest.mark.parametrize(
    "fault, reason",
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("a torn page"), "a torn page"),
        (OSError("the disk is gone"), "the disk is gone"),
    ],
)
def test_what_it_raises_becomes_a_record_error(images, backend, fault, reason):
    with pytest.raises(RecordError) as caught:
        batches(Images(images, {7: fault}), backend, training=False)
    assert (caught.value.record, caught.value.offset) == (7, None)
    assert caught.value.reason == reason
    assert str(caught.value) == f"Images (record 7): {reason}"


@pytest.mark.parametrize(
    "record, reason",
    [
        (("text", 1, "a"), "TypeError: record() must return bytes first, not str"),
        ((b"\xff\xd8", -2, "a"), "the label -2 is not from -1 to 2147483647"),
        ((b"\xff\xd8", 2**31, "a"), "the label 2147483648 is not from -1 to 2147483647"),
    ],
)
def test_what_it_returns_is_checked(backend, record, reason):
    class One(Records):
        def __len__(self):
            return 1

        def record(self, number):
            return record

    with pytest.raises(RecordError) as caught:
        batches(One(), backend, batch_size=1, training=False)
    assert caught.value.reason == reason


def test_an_image_that_cannot_be_decoded_is_named(images, backend):
    records = Images([*images[:4], b"no image", *images[5:]])
    with pytest.raises(RecordError, match=r"^image 4 \(record 4\): "):
        batches(records, backend, training=False)


def test_a_record_that_cannot_be_used_is_replaced_by_the_same_one_as_in_shards(
    images, write_shards, tmp_path, backend
):
    damaged = [*images[:4], b"no image", *images[5:]]
    shards = write_shards(tmp_path, damaged)
    expected, _ = batches(TFRecords(shards), backend, on_error="skip")
    ours, stats = batches(Images(images, {4: KeyError(4)}), backend, on_error="skip")
    same(ours, expected)
    assert stats.skipped >= 1


def test_a_fault_of_the_machine_is_raised_even_if_records_are_skipped(images, backend):
    records = Images(images, {4: TimeoutError("no answer")})
    with pytest.raises(RecordError, match="no answer"):
        batches(records, backend, training=False, on_error="skip")


def test_too_little_memory_is_no_fault_of_the_record(images):
    with pytest.raises(RecordError, match="not enough memory"):
        batches(Images(images, {4: MemoryError()}), training=False, on_error="skip")


def test_it_is_a_sequence(images):
    records = Images(images)
    assert records[-1] == Record(images[36], 36, "image 36", 0)
    assert [record.label for record in records[3:6]] == [3, 4, 5]
    with pytest.raises(IndexError, match="record 37 of 37"):
        records[37]
    with pytest.raises(RecordError, match=r"Images.*boom"):
        Images(images, {0: RuntimeError("boom")})[0]


def test_the_loader_closes_while_it_is_being_read(images):
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Images):
        def record(self, number):
            inside.set()
            go_on.wait(30)
            return super().record(number)

    loader = Loader(Slow(images), PIPELINE, 5, threads=2)
    ended = []

    def read():
        try:
            next(iter(loader))
        except RuntimeError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(30)
    closer = threading.Thread(target=loader.close)
    closer.start()
    go_on.set()
    closer.join(30)
    reader.join(30)
    assert not closer.is_alive() and not reader.is_alive()
    assert len(ended) == 1
