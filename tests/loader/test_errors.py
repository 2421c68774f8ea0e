"""What can be wrong with data: each fault names its file, its place and its cause, at once."""

import bz2
import contextlib
import functools
import gzip
import logging
import lzma
import os
import re
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from pretexture.loader import Loader, PipelineError, RecordError, TFRecords, _core

writer = pytest.importorskip("pretexture.loader.shards.writer")

pytestmark = pytest.mark.usefixtures("no_hang")

# Every row and column of the images counts.
WHOLE = "resize(24, antialias=True)"
BACKENDS = ["native", "reference"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "reference":
        pytest.importorskip("cv2")
    return request.param


def open_resources():
    """Names of open files that matter here, and the number of threads."""
    files = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink("/proc/self/fd/" + entry))
        except OSError:
            continue
    shards = sorted(path for path in files if "train-" in path)
    return shards, len(os.listdir("/proc/self/task"))


@pytest.fixture(scope="module")
def no_threads_of_opencv():
    """The reference backend's OpenCV would start threads of its own, and keep them."""
    try:
        import cv2
    except ImportError:
        yield
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(autouse=True)
def nothing_leaks(no_threads_of_opencv):
    if not os.path.isdir("/proc/self/task"):
        yield
        return
    before = open_resources()
    yield
    # The system counts a thread for a moment after it has ended.
    deadline = time.monotonic() + 5
    while open_resources() != before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert open_resources() == before


def run(paths, pipeline=WHOLE, **kwargs):
    """Takes all batches of an epoch in file order; returns record numbers and statistics."""
    kwargs = {"batch_size": 4, "training": False, "threads": 2, **kwargs}
    with Loader(TFRecords(paths), pipeline, **kwargs) as loader:
        index = [batch.index for batch in loader]
        return np.concatenate(index), loader.stats


def failure(paths, *args, **kwargs):
    """The RecordError of an epoch, which comes at once."""
    begin = time.perf_counter()
    with pytest.raises(RecordError) as info:
        run(paths, *args, **kwargs)
    assert time.perf_counter() - begin < 5
    return info.value


def offsets(path):
    return TFRecords(path).shard_index().offsets.tolist()


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


# Damage to the third of five records, from `at` to `end`, and what is said of it.
FRAMING = {
    "a bit of the length flips": (
        lambda path, at, end: flip(path, at + 1),
        r"damaged record header: CRC32C of the length is 0x\w{8}, the file says 0x\w{8}",
    ),
    "a bit of the length's checksum flips": (
        lambda path, at, end: flip(path, at + 9, 7),
        r"damaged record header: CRC32C of the length is 0x\w{8}, the file says 0x\w{8}",
    ),
    "the file ends in the header": (
        lambda path, at, end: os.truncate(path, at + 5),
        r"the file ends within a record header: it is truncated",
    ),
    "the file ends behind the header": (
        lambda path, at, end: os.truncate(path, at + 12),
        r"the record claims \d+ bytes of data, but only 0 are left: the file is truncated",
    ),
    "the file ends in the data": (
        lambda path, at, end: os.truncate(path, at + 500),
        r"the record claims \d+ bytes of data, but only 484 are left: the file is truncated",
    ),
    "the file ends in the checksum": (
        lambda path, at, end: os.truncate(path, end - 1),
        r"the record claims (\d+) bytes of data, but only \d+ are left: the file is truncated",
    ),
}


def claim(path, at, length):
    header = struct.pack("<Q", length)
    patch(path, at, header + struct.pack("<I", _core.masked_crc32c(header)))


for claimed in (2**31, 2**32, 2**40, 2**63, 2**64 - 1):
    FRAMING[f"the length is {claimed}"] = (
        lambda path, at, end, claimed=claimed: claim(path, at, claimed),
        rf"the record claims {claimed} bytes of data, but only \d+ are left",
    )


@pytest.fixture
def five(write_shards, images, tmp_path):
    """A shard of five records, the offset of the third and of the fourth."""
    (path,) = write_shards(tmp_path, images[:5])
    _, _, at, end, _ = offsets(path)
    return path, at, end


@pytest.mark.parametrize("case", FRAMING)
def test_broken_framing_names_the_file_and_the_offset(case, five):
    path, at, end = five
    damage, reason = FRAMING[case]
    damage(path, at, end)
    error = failure(path)
    assert (error.path, error.offset, error.record) == (path, at, None)
    assert re.match(reason, error.reason)
    assert str(error) == f"{path} at byte {at}: {error.reason}"


@pytest.mark.parametrize("case", FRAMING)
def test_skipping_goes_on_with_what_stands_before_the_damage(case, five, backend, caplog):
    path, at, end = five
    FRAMING[case][0](path, at, end)
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        index, stats = run(path, on_error="skip", backend=backend, batch_size=1)
    assert index.tolist() == [0, 1]
    assert stats.skipped == 1
    assert f"{path} at byte {at}" in caplog.text


@pytest.mark.parametrize("place", [12, 40, -5, -4, -1])
def test_flipped_bits_of_the_data_or_their_checksum_name_the_record(place, five, backend):
    path, at, end = five
    flip(path, at + place if place > 0 else end + place)
    error = failure(path, backend=backend)
    assert (error.path, error.offset, error.record) == (path, at, 2)
    assert re.match(r"CRC32C of the data is 0x\w{8}, the file says 0x\w{8}$", error.reason)
    assert str(error) == f"{path} at byte {at} (record 2): {error.reason}"


GIF = b"GIF89a" + bytes(100)
OTHER = "the image is neither a JPEG nor a PNG but"

NOT_SHARDS = {
    "empty": (b"", "the file is empty"),
    "text": (b"words, words, words\n" * 20, "not a TFRecord file but text"),
    "a GIF": (GIF, "not a TFRecord file, or a damaged one"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(99), "not a TFRecord file but a JPEG image"),
    "zeros": (bytes(1000), "not a TFRecord file but zeros"),
    "short": (b"wo\x80d", "the file ends within a record header"),
    "gzip": (
        gzip.compress(b"records" * 99),
        "not a TFRecord file but a gzip file; decompress it first",
    ),
    "zlib": (
        zlib.compress(b"records" * 99),
        "not a TFRecord file but zlib-compressed data; decompress it first",
    ),
    "fast zlib": (
        zlib.compress(b"records" * 99, 1),
        "not a TFRecord file but zlib-compressed data",
    ),
    "bzip2": (
        bz2.compress(b"records" * 99),
        "not a TFRecord file but a bzip2 file; decompress it first",
    ),
    "xz": (
        lzma.compress(b"records" * 99),
        "not a TFRecord file but an xz file; decompress it first",
    ),
    "zstd": (
        b"\x28\xb5\x2f\xfd" + bytes(99),
        "not a TFRecord file but a zstd file; decompress it first",
    ),
    "Zip": (b"PK\3\4" + bytes(99), "not a TFRecord file but a Zip archive; unpack it first"),
    "tar": (bytes(257) + b"ustar\0" + bytes(999), "not a TFRecord file but a tar archive"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid 1\n",
        "not a TFRecord file but a Git LFS pointer",
    ),
    "DALI": (
        b"0 1234\n1234 5678\n",
        "not a TFRecord file but lines of numbers, such as a DALI index",
    ),
    "HTML": (b"\n <!DOCTYPE html><html>Not found</html>", "not a TFRecord file but an HTML page"),
    "XML": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>",
        "not a TFRecord file but an XML document",
    ),
    "JSON": (b'{"message": "gone"}', "not a TFRecord file but JSON text"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "not a TFRecord file but an HDF5 file"),
}


@pytest.mark.parametrize("case", NOT_SHARDS)
def test_what_is_no_shard_is_said_to_be_none(case, tmp_path):
    content, reason = NOT_SHARDS[case]
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(content)
    error = failure(path)
    assert (error.path, error.offset, error.record) == (str(path), 0, None)
    assert error.reason.startswith(reason)


def test_the_first_broken_shard_is_named(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:9], 4)
    for path in paths[1:3]:
        os.truncate(path, 100)
    assert failure(paths).path == paths[1]


def test_a_folder_or_a_pipe_among_the_shards_is_refused(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:3])
    (tmp_path / "train-folder").mkdir()
    os.mkfifo(str(tmp_path / "train-pipe"))
    assert failure([*paths, tmp_path / "train-folder"]).reason == "cannot read: is a folder"
    assert failure([tmp_path / "train-pipe"]).reason == "cannot read: is not a regular file"


def broken_jpegs(image):
    """Bytes that are not an image, by the reason in the error; None if any reason will do."""
    frame = max(image.find(b"\xff\xc0"), image.find(b"\xff\xc2"))
    size = frame + 5
    return {
        "GIF": (GIF, f"{OTHER} a GIF"),
        "WebP": (b"RIFF\x40\0\0\0WEBPVP8 " + bytes(50), f"{OTHER} a WebP"),
        "HTML": (b"<html>gone</html>", f"{OTHER} unknown bytes"),
        "cut in the header": (image[:300], "the JPEG cannot be decoded: the data end early"),
        "cut in the pixels": (
            image[: len(image) * 2 // 3],
            "the JPEG cannot be decoded: the data end early",
        ),
        "huge": (
            image[:size] + b"\xff\xdc\xff\xdc" + image[size + 4 :],
            "the JPEG claims 65500x65500 pixels, more than max_pixels=100000000",
        ),
        "12 bits": (
            image[: frame + 1] + b"\xc1" + image[frame + 2 : frame + 4] + b"\x0c" + image[size:],
            "the JPEG cannot be decoded: Unsupported JPEG data precision 12",
        ),
        "lossless": (
            image[: frame + 1] + b"\xc3" + image[frame + 2 :],
            "the JPEG cannot be decoded: Unsupported JPEG process: SOF type 0xc3",
        ),
        "no quantisation tables": (
            image.replace(b"\xff\xdb", b"\xff\xeb"),
            "the JPEG cannot be decoded: Quantization table 0x00 was not defined",
        ),
        "markers only": (b"\xff\xd8\xff\xd9" * 9, "the JPEG cannot be decoded"),
    }


CASES = list(broken_jpegs(b""))


@pytest.mark.parametrize("case", CASES)
def test_an_image_that_is_none_names_its_record(case, write_shards, images, tmp_path, backend):
    data, reason = broken_jpegs(images[2])[case]
    (path,) = write_shards(tmp_path, [images[0], images[1], data, images[3]])
    error = failure(path, backend=backend)
    assert (error.path, error.offset, error.record) == (path, offsets(path)[2], 2)
    # libjpeg tells OpenCV, which tells us no more than that it failed.
    expected = reason if backend == "native" else reason.split(" but ")[0].split(": ")[0]
    assert error.reason.startswith(expected)


def test_a_jpeg_cut_anywhere_is_an_error(write_shards, images, tmp_path):
    for n, share in enumerate(np.linspace(0.01, 0.97, 40)):
        cut = images[1][: int(len(images[1]) * share)]
        folder = tmp_path / str(n)
        folder.mkdir()
        (path,) = write_shards(folder, [images[0], cut])
        assert failure(path).record == 1


FEATURES = {
    "no image": ({"image/class/label": 1}, "no feature 'image/encoded' with bytes in it"),
    "a number": ({"image/encoded": 1}, "no feature 'image/encoded' with bytes in it"),
    "an empty image": ({"image/encoded": b""}, "no feature 'image/encoded' with bytes in it"),
    "a label of 64 bits": (
        {"image/encoded": None, "image/class/label": 2**40},
        "the label 1099511627776 less label_offset=1 does not fit in 32 bits",
    ),
    "the lowest label": (
        {"image/encoded": None, "image/class/label": -(2**63)},
        "the label -9223372036854775808 less label_offset=1 is below 0",
    ),
    "a label that counts from 0": (
        {"image/encoded": None, "image/class/label": 0},
        "the label 0 less label_offset=1 is below 0; if labels count from 0, use label_offset=0",
    ),
    "a label of bytes": (
        {"image/encoded": None, "image/class/label": b"7"},
        "the label feature 'image/class/label' holds bytes; a class label is an int64",
    ),
    "a label of floats": (
        {"image/encoded": None, "image/class/label": 3.0},
        "the label feature 'image/class/label' holds floating-point numbers; a class label is",
    ),
}


@pytest.mark.parametrize("case", FEATURES)
def test_a_missing_feature_or_a_label_out_of_range_is_named(case, images, tmp_path, backend):
    features, reason = FEATURES[case]
    features = {name: images[0] if v is None else v for name, v in features.items()}
    path = str(tmp_path / "train-00000-of-00001")
    with writer.TFRecordWriter(path) as shard:
        shard.write(writer.example({"image/encoded": images[0]}))
        shard.write(writer.example(features))
    error = failure(path, backend=backend)
    assert (error.path, error.offset, error.record) == (path, offsets(path)[1], 1)
    assert reason in error.reason


def test_what_is_no_example_is_malformed(images, tmp_path, backend):
    path = str(tmp_path / "train-00000-of-00001")
    with writer.TFRecordWriter(path) as shard:
        shard.write(b"\xff" * 50)
    assert failure(path, backend=backend).reason == "not a well-formed tf.train.Example"


def test_a_crop_larger_than_the_image_tells_both_sizes(write_shards, images, tmp_path, backend):
    (path,) = write_shards(tmp_path, images[:2])
    height, width = _core.decode_jpeg(images[0]).shape[:2]
    error = failure(path, "crop(300, 200)", backend=backend)
    assert error.reason == f"a crop of 300x200 does not fit in {height}x{width} pixels"
    assert error.record == 0


@pytest.fixture(params=["raise", "skip"])
def on_error(request):
    return request.param


def changed(paths, change, backend, on_error):
    """The error of an epoch whose shards change after they were indexed.

    It is the same with `on_error="skip"`: what happens to a file is not a fault of its records.
    """
    with Loader(
        TFRecords(paths), WHOLE, 4, training=False, backend=backend, on_error=on_error
    ) as loader:
        change()
        with pytest.raises(RecordError) as info:
            list(loader)
        assert loader.stats.skipped == 0
    return info.value


def test_a_shard_truncated_after_it_was_indexed(five, backend, on_error):
    path, at, _ = five
    error = changed(path, lambda: os.truncate(path, at + 99), backend, on_error)
    assert (error.path, error.offset, error.record) == (path, at, 2)
    assert error.reason.startswith(
        "the file ends within the record: it was truncated after it was indexed"
    )


def test_a_shard_replaced_after_it_was_indexed(five, images, write_shards, backend, on_error):
    path, _, _ = five
    change = functools.partial(write_shards, os.path.dirname(path), images[5:10])
    error = changed(path, change, backend, on_error)
    assert (error.path, error.record) == (path, 0)
    assert "the file was replaced after it was indexed" in error.reason


def test_a_shard_removed_after_it_was_indexed(five, backend, on_error):
    path, _, _ = five
    error = changed(path, lambda: os.unlink(path), backend, on_error)
    assert (error.path, error.offset, error.record) == (path, 0, 0)
    assert "No such file or directory" in error.reason


@contextlib.contextmanager
def file_limit(soft):
    """Few files may be open at a time."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_shards_cannot_be_opened_without_file_descriptors(shards, on_error):
    records = TFRecords(shards)
    len(records)
    with Loader(records, WHOLE, 4, training=False, on_error=on_error) as loader:
        with file_limit(0), pytest.raises(RecordError, match="cannot open: Too many open files"):
            list(loader)
        assert loader.stats.skipped == 0


def test_loaders_share_the_files_that_a_process_may_open(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:1] * 120, shards=120)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with contextlib.ExitStack() as stack, file_limit(highest + 60):
        for seed in range(4):
            loader = stack.enter_context(Loader(TFRecords(paths), WHOLE, 20, seed=seed, threads=2))
            seen = np.concatenate([batch.index for batch in loader])
            assert sorted(seen) == list(range(120))
        # What others do then has room.
        for file in [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]:
            os.close(file)


def test_a_loader_gives_way_when_others_take_all_files(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:1] * 40, shards=40)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with Loader(TFRecords(paths), WHOLE, 20, threads=1) as loader, file_limit(highest + 20):
        list(loader)
        taken = []
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            seen = np.concatenate([batch.index for batch in loader])
            assert sorted(seen) == list(range(40))
        finally:
            for file in taken:
                os.close(file)


def test_the_error_of_a_batch_does_not_depend_on_threads(write_shards, images, tmp_path):
    broken = [GIF if i % 5 == 3 else image for i, image in enumerate(images)]
    (path,) = write_shards(tmp_path, broken)
    errors = set()
    for threads in (1, 2, 4):
        for _ in range(3):
            errors.add(
                str(failure(path, training=True, shuffle=True, batch_size=16, threads=threads))
            )
    assert len(errors) == 1


def test_after_an_error_the_next_epoch_can_be_run(write_shards, images, tmp_path, backend):
    (path,) = write_shards(tmp_path, [*images[:9], GIF, images[10]])
    with Loader(TFRecords(path), WHOLE, 4, training=False, backend=backend) as loader:
        for epoch in range(2):
            iterator = iter(loader)
            for batch in range(2):
                assert next(iterator).index.tolist() == list(range(4 * batch, 4 * batch + 4))
            with pytest.raises(RecordError):
                next(iterator)
            assert loader.state_dict()["epoch"] == epoch
            with pytest.raises(StopIteration):
                next(iterator)


@pytest.fixture
def spoilt(write_shards, images, tmp_path):
    """Shards in which a third of the records is broken, in several ways."""
    kinds = [images[0][: len(images[0]) // 2], GIF, b"", None, b"BM", images[1][:40]]
    mixed = [kinds[i // 3 % 6] if i % 3 == 0 else image for i, image in enumerate(images)]
    paths = write_shards(tmp_path, mixed, 2)
    flip(paths[1], offsets(paths[1])[2] + 30)
    return paths


def test_skipping_replaces_what_is_broken_and_nothing_else(
    write_shards, images, tmp_path, backend, caplog
):
    (path,) = write_shards(tmp_path, [GIF if i == 5 else images[i] for i in range(12)])
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        index, stats = run(path, on_error="skip", backend=backend)
    assert np.delete(index, 5).tolist() == [i for i in range(12) if i != 5]
    assert index[5] != 5
    assert (stats.records, stats.skipped) == (12, 1)
    (logged,) = [record.getMessage() for record in caplog.records]
    place = f"{path} at byte {offsets(path)[5]} (record 5)"
    assert logged == f"skipped: {place}: {OTHER} a GIF"


def test_a_loader_dropped_after_an_error_leaves_nothing_behind(write_shards, images, tmp_path):
    (path,) = write_shards(tmp_path, [images[0], GIF])
    for _ in range(5):
        loader = Loader(TFRecords(path), WHOLE, 1, training=False, threads=4)
        with pytest.raises(RecordError):
            list(loader)
        del loader  # and is not closed


@pytest.mark.parametrize("training", [True, False])
def test_skipping_is_the_same_on_any_number_of_threads_and_in_the_reference(
    training, spoilt, caplog
):
    def epochs(threads=1, backend="native"):
        kwargs = {"training": training, "on_error": "skip", "seed": 3}
        with Loader(
            TFRecords(spoilt), WHOLE, 5, threads=threads, backend=backend, **kwargs
        ) as loader:
            batches = [batch for _ in range(2) for batch in loader]
            return batches, loader.stats

    with caplog.at_level(logging.CRITICAL, "pretexture.loader"):
        expected, stats = epochs()
        assert stats.skipped >= 26
        for batch in expected:
            assert not any(index % 3 == 0 for index in batch.index.tolist())
            np.testing.assert_array_equal(batch.label, batch.index)
        for threads in (2, 4):
            batches, other = epochs(threads)
            for a, b in zip(batches, expected):
                assert all(map(np.array_equal, a, b))
            if not training:  # in training, more or less of the next epoch is under way
                assert other.skipped == stats.skipped
        pytest.importorskip("cv2")
        batches, other = epochs(backend="reference")
        assert [b.index.tolist() for b in batches] == [b.index.tolist() for b in expected]
        if not training:
            assert other.skipped == stats.skipped


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_of_each_kind_is_logged(threads, spoilt, caplog):
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        run(spoilt, on_error="skip", threads=threads)
        logged = [record.getMessage() for record in caplog.records]
    assert all(
        re.match(r"skipped: .*train-0000\d-of-00002 at byte \d+ \(record \d+\): ", m)
        for m in logged
    )
    # Several threads may meet any of the two records without an image first, and their other
    # features differ.
    reasons = [message.split("): ")[1].split("; it has")[0] for message in logged]
    assert sorted(reason.split(" 0x")[0] for reason in reasons) == [
        "CRC32C of the data is",
        "the JPEG cannot be decoded: the data end early",
        f"{OTHER} a BMP",
        f"{OTHER} a GIF",
        "the record has no feature 'image/encoded' with bytes in it",
    ]
    if threads == 1:
        (message,) = [m for m in logged if "no feature" in m]
        assert message.endswith("; it has 'image/class/label', 'image/encoded'")


def test_the_reference_logs_what_the_core_logs(spoilt, caplog):
    pytest.importorskip("cv2")
    logged = []
    for backend in BACKENDS:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pretexture.loader"):
            run(spoilt, on_error="skip", backend=backend, threads=1)
        logged.append([record.getMessage().split(" but a")[0] for record in caplog.records])
    assert set(logged[0]) == set(logged[1])


def test_where_every_record_is_broken_skipping_ends(write_shards, tmp_path, backend):
    (path,) = write_shards(tmp_path, [GIF] * 7)
    error = failure(path, on_error="skip", backend=backend)
    assert error.path == path
    assert re.search(
        r"neither a JPEG.* \(the last of 100 records tried in place of record 0\)$", error.reason
    )


def test_tolerated_defects_are_counted(write_shards, images, tmp_path):
    place = images[0].index(b"\xff\xdb")
    stray = images[0][:place] + b"\x12\x34" + images[0][place:]
    (path,) = write_shards(tmp_path, [images[0], stray, stray])
    index, stats = run(path)
    assert index.tolist() == [0, 1, 2]
    assert (stats.warnings, stats.skipped) == (2, 0)


def test_a_pipeline_error_comes_before_any_thread(shards):
    for pipeline, reason in {
        "crop(8)|gary(0.5)": r"step 2: there is no step 'gary'; did you mean gray\?",
        "crop(40)|resize(32)|crop(33)": r"step 3, crop\(33\): a crop of 33x33 does not fit in 32",
        "resize(30, 20)|rotate": r"step 2, rotate\(\): only square views can be turned",
        "flip": "no fixed size",
    }.items():
        threads = threading.active_count()
        with pytest.raises(PipelineError, match=reason):
            Loader(TFRecords(shards), pipeline, 4)
        assert threading.active_count() == threads
