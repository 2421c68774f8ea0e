"""The row index: faster decoding of the same pixels, whatever is in its files."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from disks import fill, mounted
from jpegs import KINDS, jpeg
from pretexture.loader import Loader, TFRecords, presets
from pretexture.loader.shards import writer
from pretexture.loader.shards.row_index import index_rows, row_files

pytestmark = pytest.mark.usefixtures("no_hang")

CROPS = "inception(32, views=2)"
SIZES = [(203, 310), (480, 321), (97, 640), (301, 299), (640, 97)]


@pytest.fixture(scope="module")
def photographs():
    """JPEGs of every sampling and coding, large enough for several points."""
    return [
        jpeg(*SIZES[number % len(SIZES)], kind, seed=number)
        for number, kind in enumerate(sorted(KINDS) * 3)
    ]


@pytest.fixture
def data(photographs, write_shards, tmp_path):
    """The paths of two shards, and an empty cache folder."""
    cache = tmp_path / "cache"
    cache.mkdir()
    return write_shards(tmp_path, photographs, 2), str(cache)


def loader(data, pipeline=CROPS, batch_size=7, mode="auto", **options):
    paths, cache = data
    records = TFRecords(paths, row_index=mode, cache_dir=cache)
    return Loader(records, pipeline, batch_size, **{"seed": 5, "drop_remainder": False, **options})


def epochs(data, count, mode="auto", **options):
    """The images of some epochs, each in the order of the records, and the Loader's stats."""
    found = []
    with loader(data, mode=mode, **options) as batches:
        for _ in range(count):
            epoch = list(batches)
            order = np.argsort(np.concatenate([batch.index for batch in epoch]))
            images = [b.image if isinstance(b.image, tuple) else (b.image,) for b in epoch]
            found += [np.concatenate(branch)[order] for branch in zip(*images)]
        return found, batches.stats


def files(data):
    return sorted(name for name in os.listdir(data[1]) if name.startswith("rows"))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("name", presets.ALL)
def test_pixels_are_the_same_and_later_epochs_decode_less(name, data):
    training = not name.startswith("EVAL")
    options = {"pipeline": presets.ALL[name], "training": training, "threads": 2}
    expected, plain = epochs(data, 3, "off", **options)
    first, stats = epochs(data, 3, **options)
    again, later = epochs(data, 3, **options)  # from the files
    assert same(first, expected)
    assert same(again, expected)
    assert plain.jumps == plain.bytes_jumped == 0
    if name not in ("PATCHES", "BYOL", "DINO", "SWAV"):  # these need nearly the whole image
        assert 0 < stats.jumps < later.jumps
        assert 0 < stats.bytes_jumped < later.bytes_jumped < later.bytes


def test_the_files_take_less_than_six_thousandths_of_the_shards(data):
    index_rows(TFRecords(data[0], cache_dir=data[1]))
    assert len(files(data)) == 2
    for path, file in zip(*row_paths(data)):
        assert 0 < os.path.getsize(file) <= 0.006 * os.path.getsize(path)


def row_paths(data):
    records = TFRecords(data[0], cache_dir=data[1])
    return data[0], [os.fsdecode(path) for path in row_files(records)["paths"]]


def contents(data):
    """What is in the files of the row index."""
    found = []
    for path in row_paths(data)[1]:
        with open(path, "rb") as file:
            found.append(file.read())
    return found


def test_one_pass_finds_what_epochs_find(data):
    expected, _ = epochs(data, 1, "off")
    counts = index_rows(TFRecords(data[0], cache_dir=data[1]), threads=2)
    sequential = sum("progressive" not in kind for kind in KINDS) * 3
    assert counts == (sequential, len(KINDS) * 3 - sequential)
    images, stats = epochs(data, 1)
    assert same(images, expected)
    before = contents(data)
    epochs(data, 2)
    assert contents(data) == before
    assert stats.jumps > 0


def test_a_loader_without_it_writes_nothing(data):
    epochs(data, 1, "off")
    assert files(data) == []
    paths, cache = data
    records = TFRecords(paths, cache_dir=cache, verify_crc=False)
    with Loader(records, CROPS, 7) as batches:
        list(batches)
    assert files(data) == []
    with pytest.raises(ValueError, match="verify_crc=True"):
        index_rows(records)


def test_an_unknown_mode_is_refused(data):
    with pytest.raises(ValueError, match=r"row_index must be .*, not 'on'"):
        TFRecords(data[0], row_index="on")


def damaged(good):
    """A file of the row index with every kind of damage, one after the other."""
    random = np.random.RandomState(3)
    for _ in range(10):
        changed = bytearray(good)
        for _ in range(random.randint(1, 200)):
            changed[random.randint(len(changed))] = random.randint(256)
        yield bytes(changed)
    yield good[: len(good) // 2]
    yield b""
    yield b"\xff" * len(good)
    yield good[:24] + b"\xff" * (len(good) - 24)
    yield good[:24] + good[25:] + b"\0"  # everything is in another place
    yield good * 2


def test_damaged_files_change_no_pixel_and_are_replaced(data):
    expected, _ = epochs(data, 1, "off")
    index_rows(TFRecords(data[0], cache_dir=data[1]))
    good = contents(data)
    jumps = epochs(data, 1, training=False)[1].jumps
    for versions in zip(*map(damaged, good)):
        for path, damage in zip(row_paths(data)[1], versions):
            with open(path, "wb") as file:
                file.write(damage)
        assert same(epochs(data, 1)[0], expected)
        index_rows(TFRecords(data[0], cache_dir=data[1]))
        assert epochs(data, 1, training=False)[1].jumps == jumps


def test_the_rows_of_other_images_are_not_used(data, write_shards, tmp_path):
    """The new shards have the same names, sizes and offsets, and images of the same length."""
    index_rows(TFRecords(data[0], cache_dir=data[1]))
    sizes = list(map(os.path.getsize, data[0]))
    images = [bytearray(record.image) for record in TFRecords(data[0], cache_dir=data[1])]
    for image in images:
        image[-40] ^= 1  # in the coded data
    write_shards(tmp_path, list(map(bytes, images)), 2)
    assert list(map(os.path.getsize, data[0])) == sizes
    options = {"on_error": "skip", "training": False}
    expected, plain = epochs(data, 1, "off", **options)
    found, stats = epochs(data, 1, **options)
    assert same(found, expected)
    assert stats.warnings == plain.warnings
    assert stats.jumps == 0


def test_damaged_images_give_the_same_pixels_and_warnings(photographs, write_shards, tmp_path):
    random = np.random.RandomState(7)
    broken = []
    for image in photographs:
        changed = bytearray(image)
        for _ in range(random.randint(0, 3)):
            changed[random.randint(len(changed) // 3, len(changed) - 2)] = random.randint(256)
        broken.append(bytes(changed))
    (tmp_path / "cache").mkdir()
    data = write_shards(tmp_path, broken), str(tmp_path / "cache")
    for training in (True, False):
        options = {"on_error": "skip", "training": training}
        expected, plain = epochs(data, 3, "off", **options)
        found, stats = epochs(data, 3, **options)
        assert same(found, expected)
        assert stats.jumps > 0
    # In training, records are counted that are rendered ahead, as many as there is time for.
    assert stats.warnings > 0
    assert (stats.warnings, stats.skipped) == (plain.warnings, plain.skipped)


def test_another_feature_of_the_same_record_has_rows_of_its_own(photographs, tmp_path):
    path = str(tmp_path / "train-00000-of-00001")
    with writer.TFRecordWriter(path) as shard:
        for first, second in zip(photographs, photographs[1:]):
            features = {"a": first, "b": second, "image/class/label": 1}
            shard.write(writer.example(features))
    cache = str(tmp_path / "cache")
    for key in ("a", "b", "a"):
        options = {"image_key": key, "cache_dir": cache}
        images = []
        for mode in ("off", "auto"):
            records = TFRecords(path, row_index=mode, **options)
            with Loader(records, CROPS, 5, seed=1) as batches:
                images.append([batch.image for batch in batches])
        assert same(*images)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_full_disk_is_said_once_and_costs_nothing_else(data, tmp_path, caplog):
    paths, _ = data
    expected, _ = epochs(data, 2, "off")
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        full = paths, str(disk / "cache")
        with loader(full) as batches:  # has written the index of the shards
            assert batches.num_records
        fill(disk)
        with caplog.at_level(logging.WARNING, "pretexture.loader"):
            assert same(epochs(full, 2)[0], expected)
        (said,) = warnings_of(caplog)
        assert said == (
            f"the row index in {disk}/cache cannot be written: No space left on device; decoding "
            "continues without it"
        )
        assert files(full) == []


def test_a_folder_that_may_not_be_written_is_said_once(data, tmp_path, caplog):
    paths, _ = data
    expected, _ = epochs(data, 2, "off")
    with mounted(tmp_path / "disk", 8 << 20) as disk:
        there = paths, str(disk / "cache")
        index_rows(TFRecords(paths, cache_dir=there[1]))
        written = files(there)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with caplog.at_level(logging.WARNING, "pretexture.loader"):
            found, stats = epochs(there, 2)  # complete, so nothing is to be written
            assert same(found, expected)
            assert stats.jumps > 0
            assert warnings_of(caplog) == []
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        os.remove(os.path.join(there[1], written[0]))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with caplog.at_level(logging.WARNING, "pretexture.loader"):
            assert same(epochs(there, 2)[0], expected)
        (said,) = warnings_of(caplog)
        assert "Read-only file system; decoding continues without it" in said


def test_it_does_not_take_the_last_quarter_of_the_disk(photographs, write_shards, tmp_path, caplog):
    paths = write_shards(tmp_path, photographs * 4)
    size = os.path.getsize(paths[0]) * 0.0059
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        cache = disk / "cache"
        cache.mkdir()
        with open(disk / "other", "wb") as file:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            file.write(bytes(int(free - 3 * size)))
        with caplog.at_level(logging.WARNING, "pretexture.loader"):
            epochs((paths, str(cache)), 1)
        said = warnings_of(caplog)[-1]
        assert "that are free; decoding continues without it" in said
        assert files((paths, str(cache))) == []


def test_a_pipe_or_a_link_in_its_place_is_not_followed(data, tmp_path):
    expected, _ = epochs(data, 1, "off")
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    pipe, link = row_paths(data)[1]
    os.mkfifo(pipe)
    os.symlink(target, link)
    assert same(epochs(data, 2)[0], [expected[0]])
    assert target.read_bytes() == b"precious"
    assert os.path.isfile(link)
    assert not os.path.islink(link)


def _run_epochs(data):
    epochs(data, 4, threads=1)


def test_several_processes_share_a_folder(data):
    expected, _ = epochs(data, 2, "off")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_epochs, args=(data,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert files(data) == sorted(map(os.path.basename, row_paths(data)[1]))
    found, stats = epochs(data, 2)
    assert same(found, expected)
    assert stats.jumps > 0


LOOP = """
import sys
from pretexture.loader import Loader, TFRecords
records = TFRecords(sys.argv[2:], cache_dir=sys.argv[1])
with Loader(records, "inception(32)", 3, threads=2) as loader:
    while True:
        for batch in loader:
            print(flush=True)
"""


def test_a_killed_process_leaves_whole_files(data):
    expected, _ = epochs(data, 1, "off")
    random = np.random.RandomState(1)
    for _ in range(5):
        command = [sys.executable, "-c", LOOP, data[1], *data[0]]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(random.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
        assert same(epochs(data, 1)[0], expected)
        names = set(files(data))
        assert set(map(os.path.basename, row_paths(data)[1])) <= names


def test_workers_fill_the_index_together(data):
    for _ in range(2):
        for worker in range(2):
            epochs(data, 1, shard=(worker, 2))
    for worker in range(2):
        _, stats = epochs(data, 1, shard=(worker, 2))
        assert stats.jumps > 0


def test_images_too_small_for_a_point_have_none(images, write_shards, tmp_path):
    data = write_shards(tmp_path, images), str(tmp_path / "cache")
    counts = index_rows(TFRecords(data[0], cache_dir=data[1]))
    assert counts == (0, len(images))
    epochs(data, 2)
    assert files(data) == []
