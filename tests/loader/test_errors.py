"""What is wrong with the data is said with its place, at once, and nothing hangs or leaks."""

import logging
import os
import struct
import threading

import numpy as np
import pytest
from pretexture.loader import Loader, PipelineError, RecordError, TFRecords, _core

PIPELINE = "resize(24)|range(0, 1)"
BAD = 5  # the record that is damaged
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
GIF = b"GIF89a" + bytes(40)
WEBP = b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40)


def one_epoch(records, **options):
    """The record numbers of an epoch in file order, in a thread that may not take long."""
    result = []

    def run():
        try:
            options.setdefault("training", False)
            with Loader(records, PIPELINE, 4, threads=2, **options) as loader:
                result.append(np.concatenate([batch.index for batch in loader]))
                result.append(loader.stats)
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the loader hangs"
    if isinstance(result[-1], Exception):
        raise result[-1]
    return result


def offsets(path):
    with open(path, "rb") as file:
        data = file.read()
    found, offset = [], 0
    while offset < len(data):
        found.append(offset)
        offset += 16 + struct.unpack_from("<Q", data, offset)[0]
    return found


def change(path, at, new):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(new)


def flip(path, at):
    with open(path, "rb") as file:
        file.seek(at)
        byte = file.read(1)[0]
    change(path, at, bytes([byte ^ 0x10]))


@pytest.fixture
def shard(write_shards, images, tmp_path):
    """A shard of 12 good records."""
    return write_shards(tmp_path, images[:12])[0]


@pytest.fixture
def shard_with(write_shards, images, tmp_path):
    """shard_with(image): a shard whose record BAD holds something else."""

    def make(image):
        some = list(images[:12])
        some[BAD] = image
        return write_shards(tmp_path, some)[0]

    return make


def damage_data(path):
    flip(path, offsets(path)[BAD] + 12 + 100)


def damage_data_crc(path):
    at = offsets(path)[BAD + 1] - 2
    flip(path, at)


@pytest.mark.parametrize("damage", [damage_data, damage_data_crc])
def test_a_flipped_bit_names_its_record(shard, damage):
    offset = offsets(shard)[BAD]
    damage(shard)
    with pytest.raises(RecordError, match=r"CRC32C of the data is 0x.*the file says 0x") as info:
        one_epoch(TFRecords(shard))
    error = info.value
    assert (error.path, error.offset, error.record) == (shard, offset, BAD)
    assert str(error).startswith(f"{shard} at byte {offset} (record {BAD}): ")


@pytest.mark.parametrize("place", [0, 9])  # the length, its checksum
def test_a_flipped_bit_in_a_header_names_its_place(shard, place):
    offset = offsets(shard)[BAD]
    flip(shard, offset + place)
    with pytest.raises(RecordError, match="damaged record header: CRC32C of the length") as info:
        one_epoch(TFRecords(shard))
    assert (info.value.path, info.value.offset) == (shard, offset)


@pytest.mark.parametrize("keep", [5, 40, -2])
def test_a_truncated_shard_names_its_file_and_offset(shard, keep):
    begins = offsets(shard)
    end = begins[-1] + keep if keep > 0 else os.path.getsize(shard) + keep
    os.truncate(shard, end)
    with pytest.raises(RecordError, match="truncated") as info:
        one_epoch(TFRecords(shard))
    assert (info.value.path, info.value.offset) == (shard, begins[-1])


def test_an_absurd_length_with_a_right_checksum_is_refused(shard):
    offset = offsets(shard)[BAD]
    length = struct.pack("<Q", 2**62)
    change(shard, offset, length + struct.pack("<I", _core.masked_crc32c(length)))
    with pytest.raises(RecordError, match=f"claims {2**62} bytes of data, but only") as info:
        one_epoch(TFRecords(shard))
    assert info.value.offset == offset


def test_files_that_are_no_shards_say_so(tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.write_bytes(b"")
    text.write_text("This is a text and not a TFRecord file.\n" * 9)
    with pytest.raises(RecordError, match=r"empty at byte 0: the file is empty"):
        one_epoch(TFRecords(str(empty)))
    with pytest.raises(RecordError, match=r"text at byte 0: not a TFRecord file"):
        one_epoch(TFRecords(str(text)))
    with pytest.raises(FileNotFoundError, match="nothing"):
        TFRecords(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "no feature 'image/encoded' with bytes in it"),
        (b"", "no feature 'image/encoded' with bytes in it"),
        (PNG, "not a JPEG but a PNG"),
        (GIF, "not a JPEG but a GIF"),
        (WEBP, "not a JPEG but a WebP"),
        (b"anything", "not a JPEG but unknown bytes"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "the JPEG cannot be decoded"),
    ],
)
def test_what_is_no_jpeg_names_its_record(shard_with, image, reason):
    path = shard_with(image)
    with pytest.raises(RecordError, match=reason) as info:
        one_epoch(TFRecords(path))
    assert (info.value.offset, info.value.record) == (offsets(path)[BAD], BAD)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_jpeg_that_ends_early_is_an_error(shard_with, images, share):
    path = shard_with(images[0][: int(len(images[0]) * share)])
    with pytest.raises(RecordError, match="the data end early") as info:
        one_epoch(TFRecords(path))
    assert info.value.record == BAD


def test_a_jpeg_of_absurd_size_is_refused_before_it_is_decoded(shard_with, images):
    data = bytearray(images[0])
    frame = next(data.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in data)
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(RecordError, match="claims 65500x65500 pixels"):
        one_epoch(TFRecords(shard_with(bytes(data))))


def test_a_crop_larger_than_the_image_names_the_record(shard):
    with pytest.raises(RecordError, match=r"a crop of 300x300 does not fit in \d+x\d+ pixels"):
        next(iter(Loader(TFRecords(shard), "crop(300)", 4, training=False)))


def test_a_shard_that_shrinks_after_it_was_indexed_is_an_error(shard):
    records = TFRecords(shard)
    assert len(records) == 12
    os.truncate(shard, offsets(shard)[BAD] + 50)
    with pytest.raises(RecordError, match="truncated after it was indexed") as info:
        one_epoch(records)
    assert info.value.record == BAD


def test_a_shard_that_changes_after_it_was_indexed_is_an_error(shard):
    records = TFRecords(shard)
    assert len(records) == 12
    change(shard, offsets(shard)[BAD], bytes(8))
    with pytest.raises(RecordError, match="not where the index says"):
        one_epoch(records)


@pytest.mark.parametrize("text", ["inception(224)|rotat", "resize(20)|crop(30)"])
def test_an_impossible_pipeline_is_refused_when_the_loader_is_made(shard, text):
    with pytest.raises(PipelineError, match="step 2"):
        Loader(TFRecords(shard), text, 4)


# on_error="skip"


def test_skipping_replaces_counts_and_logs(shard_with, caplog):
    path = shard_with(PNG)
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        index, stats = one_epoch(TFRecords(path), on_error="skip")
    assert len(index) == 12
    assert index[BAD] != BAD
    assert np.array_equal(np.delete(index, BAD), np.delete(np.arange(12), BAD))
    assert stats.skipped == 1
    logged = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(logged) == 1
    assert f"{path} at byte {offsets(path)[BAD]} (record {BAD}): the image is not" in logged[0]


def test_the_first_of_each_kind_is_logged(write_shards, images, tmp_path, caplog):
    some = [PNG if n % 3 == 1 else b"\xff\xd8\xff\xe0" if n % 3 == 2 else images[n]
            for n in range(12)]  # fmt: skip
    path = write_shards(tmp_path, some)[0]
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        index, stats = one_epoch(TFRecords(path), on_error="skip")
    assert stats.skipped >= 8
    assert all(number % 3 == 0 for number in index)
    assert len([r for r in caplog.records if "skipped" in r.getMessage()]) == 2


def test_replacements_do_not_depend_on_threads_or_backend(shard_with):
    pytest.importorskip("cv2")
    records = TFRecords(shard_with(PNG))
    runs = []
    for threads, backend in ((1, "native"), (2, "native"), (4, "native"), (1, "reference")):
        with Loader(
            records, PIPELINE, 4, seed=3, threads=threads, backend=backend, on_error="skip"
        ) as loader:
            runs.append([b.index.tolist() for _ in range(2) for b in loader])
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_skipping_leaves_out_the_rest_of_a_broken_shard(shard, caplog):
    begins = offsets(shard)
    os.truncate(shard, begins[8] + 20)
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        index, stats = one_epoch(TFRecords(shard), on_error="skip")
    assert index.tolist() == list(range(8))
    assert stats.skipped == 1
    assert any(f"{shard} at byte {begins[8]}" in r.getMessage() for r in caplog.records)


def test_a_data_set_without_a_usable_record_is_an_error(write_shards, tmp_path):
    path = write_shards(tmp_path, [PNG] * 12)[0]
    with pytest.raises(RecordError, match="the last of 100 records tried in place of record"):
        one_epoch(TFRecords(path), on_error="skip")


def test_errors_leave_no_file_and_no_thread_behind(shard_with):
    records = TFRecords(shard_with(PNG))
    len(records)

    def left():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = None
    for _ in range(6):
        loader = Loader(records, PIPELINE, 4, training=False, threads=4)
        with pytest.raises(RecordError):
            for _ in loader:
                pass
        del loader
        before = before or left()
    assert left() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": 13}, "12 records over 1 workers make no batch of 13"),
        ({"seed": -1}, "seed must be from 0"),
        ({"shuffle": "yes"}, "shuffle must be True, False or a WindowShuffle"),
        ({"shard": (2, 2)}, "worker in shard must be from 0 to 1"),
        ({"threads": -1}, "threads must be from 1"),
        ({"prefetch": 0}, "prefetch must be from 1"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16, uint8"),
        ({"layout": "HWC"}, "layout must be one of NHWC, NCHW"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip"),
        ({"backend": "fast"}, "backend must be one of"),
    ],
)
def test_an_argument_that_cannot_be_is_named(shard, options, message):
    arguments = {"batch_size": 4, **options}
    with pytest.raises(ValueError, match=message):
        Loader(TFRecords(shard), PIPELINE, **arguments)
