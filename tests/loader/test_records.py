"""TFRecords: the index and its cache, random access, and the splits of ImageNet."""

import logging
import os
import pickle
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
from pretexture.loader import Loader, Record, RecordError, TFRecords, _core, imagenet


def scan(path):
    """(offset, length) of each record of an intact shard."""
    found, offset = [], 0
    with open(path, "rb") as file:
        data = file.read()
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        found.append((offset, length))
        offset += 16 + length
    return found


def test_records_come_in_the_order_of_the_shards(shards, images):
    records = TFRecords(shards)
    places = [(path, offset) for path in shards for offset, _ in scan(path)]
    assert len(records) == len(images) == 37
    for number, record in enumerate(records):
        assert isinstance(record, Record)
        assert record.image == images[number]
        assert record.label == number  # the shards count from 1
        assert (record.path, record.offset) == places[number]


def test_records_are_indexed_as_a_sequence(shards):
    records = TFRecords(shards)
    assert records[-1] == records[36]
    assert records[-37] == records[0]
    assert records[np.int64(5)] == records[5]
    assert records[30:40] == [records[i] for i in range(30, 37)]
    assert records[::-12] == [records[i] for i in (36, 24, 12, 0)]
    assert records[5:5] == []
    for number in (37, -38):
        with pytest.raises(IndexError, match=f"record {number} of 37"):
            records[number]


def test_shards_are_found_by_pattern_path_or_list(shards, tmp_path):
    folder = os.path.dirname(shards[0])
    assert TFRecords(os.path.join(folder, "train-*")).paths == tuple(shards)
    assert TFRecords(shards[1]).paths == (shards[1],)
    assert TFRecords(reversed(shards)).paths == tuple(reversed(shards))
    os.symlink(shards[0], str(tmp_path / "a[1]*"))
    assert len(TFRecords(tmp_path / "a[1]*")) == len(scan(shards[0]))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file matches .*none-\*"):
        TFRecords(tmp_path / "none-*")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none"):
        TFRecords([tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="no shards are given"):
        TFRecords([])
    with pytest.raises(IsADirectoryError, match=r"is a folder.*train-\*.*imagenet"):
        TFRecords(tmp_path)


def test_labels_and_keys_can_be_others(write_shards, images, tmp_path):
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    path = tmp_path / "shard"
    with writer.TFRecordWriter(path) as shard:
        shard.write(writer.example({"jpeg": images[0], "class": 7}))
        shard.write(writer.example({"jpeg": images[1], "class": []}))
    records = TFRecords(path, image_key="jpeg", label_key="class", label_offset=5)
    assert [record.label for record in records] == [2, -1]
    with pytest.raises(RecordError, match=r"shard at byte 0 \(record 0\): .*'image/encoded'"):
        TFRecords(path)[0]


def test_checksums_are_checked_unless_told_not_to(write_shards, images, tmp_path):
    (path,) = write_shards(tmp_path, images[:3])
    offset, length = scan(path)[1]
    with open(path, "r+b") as file:
        file.seek(offset + 12 + length + 3)
        file.write(b"\x77")
    records = TFRecords(path)
    assert records[0].image == images[0]
    with pytest.raises(RecordError, match=r"data is 0x.*, the file says 0x77") as info:
        records[1]
    assert (info.value.path, info.value.offset, info.value.record) == (path, offset, 1)
    assert TFRecords(path, verify_crc=False)[1].image == images[1]


def test_a_record_error_survives_pickling():
    error = RecordError("/a", 5, 3, "why")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "/a at byte 5 (record 3): why"
    assert (copy.path, copy.offset, copy.record, copy.reason) == ("/a", 5, 3, "why")
    assert str(RecordError("/a", 0, None, "why")) == "/a at byte 0: why"


def test_records_can_be_pickled(shards):
    records = TFRecords(shards)
    before = pickle.loads(pickle.dumps(records))
    assert records[3] == before[3] == pickle.loads(pickle.dumps(records))[3]


@pytest.fixture
def scans(monkeypatch):
    """The paths that are scanned, call by call."""
    calls, scan_shards = [], _core.scan_shards

    def counted(paths, threads):
        calls.append(list(paths))
        return scan_shards(paths, threads)

    monkeypatch.setattr(_core, "scan_shards", counted)
    return calls


def test_nothing_is_read_before_it_is_needed(shards, scans, tmp_path):
    TFRecords(shards, cache_dir=tmp_path / "cache")
    assert not scans
    assert not (tmp_path / "cache").exists()


def test_the_index_is_cached_and_found_again(shards, scans, tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache"
    first = TFRecords(shards, cache_dir=cache)
    assert len(first) == len(first) == 37
    assert scans == [[os.fsencode(path) for path in shards]]
    assert len(os.listdir(str(cache))) == 1
    second = TFRecords(shards, cache_dir=str(cache))
    assert second[20] == first[20]
    monkeypatch.chdir(os.path.dirname(shards[0]))
    assert len(TFRecords([os.path.basename(path) for path in shards], cache_dir=cache)) == 37
    assert len(scans) == 1
    assert len(os.listdir(str(cache))) == 1


def test_other_shards_have_an_index_of_their_own(shards, scans, tmp_path):
    for paths in (shards, shards[:2], shards[::-1]):
        assert len(TFRecords(paths, cache_dir=tmp_path)) == len(TFRecords(paths)) > 0
    assert TFRecords(shards[::-1], cache_dir=tmp_path)[0] == TFRecords(shards[-1])[0]
    assert len(os.listdir(str(tmp_path))) == 3


def test_the_cache_lies_where_the_user_keeps_caches(shards, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    len(TFRecords(shards))
    assert len(os.listdir(str(tmp_path / "xdg" / "pretexture"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    len(TFRecords(shards))
    assert len(os.listdir(str(tmp_path / "home" / ".cache" / "pretexture"))) == 1


def test_a_changed_shard_is_scanned_anew(write_shards, images, scans, tmp_path):
    (path,) = write_shards(tmp_path, images[:3])
    cache = tmp_path / "cache"
    assert len(TFRecords(path, cache_dir=cache)) == 3
    write_shards(tmp_path, images[:4])
    assert len(TFRecords(path, cache_dir=cache)) == 4
    # Of the same size, at another time.
    status = os.stat(path)
    write_shards(tmp_path, [images[1], images[0], *images[2:4]])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert os.stat(path).st_size == status.st_size
    assert [r.image for r in TFRecords(path, cache_dir=cache)][:2] == [images[1], images[0]]
    assert len(scans) == 3


def test_a_cache_that_cannot_be_written_costs_a_scan(shards, scans, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        for _ in range(2):
            assert len(TFRecords(shards, cache_dir=tmp_path / "file" / "cache")) == 37
    assert len(scans) == 2
    assert "cannot be cached" in caplog.text
    assert str(tmp_path / "file") in caplog.text


def damaged(data):
    """Ways in which a cached index may be broken."""
    yield b""
    yield b"not an index"
    yield data[: len(data) // 2]
    yield data[:-1]
    yield bytes(len(data))
    for place in [*range(40), *range(40, len(data), 17)]:
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_damaged_cache_is_made_anew(shards, tmp_path):
    records = TFRecords(shards, cache_dir=tmp_path)
    expected = [record.offset for record in records]
    (path,) = tmp_path.glob("index-*")
    intact = path.read_bytes()
    for data in damaged(intact):
        path.write_bytes(data)
        assert [r.offset for r in TFRecords(shards, cache_dir=tmp_path)] == expected
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_foreign_file_in_the_cache_is_not_trusted(shards, scans, tmp_path):
    len(TFRecords(shards, cache_dir=tmp_path))
    (path,) = tmp_path.glob("index-*")
    with open(path, "wb") as file:
        np.savez(file, offsets=np.zeros(4, np.uint64))
    assert len(TFRecords(shards, cache_dir=tmp_path)) == 37
    np.save(str(path), np.zeros(4))
    os.replace(str(path) + ".npy", str(path))
    assert len(TFRecords(shards, cache_dir=tmp_path)) == 37
    assert len(scans) == 3


def index_file(shard_begin, offsets, lengths):
    """An index of these numbers, whole and with a right checksum."""
    body = b"".join(
        np.asarray(array, kind).tobytes()
        for array, kind in ((shard_begin, "<u8"), (offsets, "<u8"), (lengths, "<u4"))
    )
    crc = _core.masked_crc32c(body)
    header = struct.pack("<8sQQI4x", b"PTXINDX2", len(shard_begin) - 1, len(offsets), crc)
    return header + body


def test_an_index_that_does_not_fit_the_shards_is_rebuilt(
    write_shards, images, scans, tmp_path, caplog
):
    paths = write_shards(tmp_path, images[:6], 2)
    cache = tmp_path / "cache"
    expected = [(r.path, r.offset) for r in TFRecords(paths, cache_dir=cache)]
    index = TFRecords(paths, cache_dir=cache).shard_index()
    (path,) = cache.iterdir()
    offsets, lengths = index.offsets.tolist(), index.lengths.tolist()
    assert path.read_bytes() == index_file([0, 3, 6], offsets, lengths)
    tampered = [
        ([0, 7, 6], offsets, lengths),
        ([0, 2**63, 6], offsets, lengths),
        ([3, 3, 6], offsets, lengths),
        ([0, 3, 5], offsets, lengths),
        ([0, 6, 6], offsets, lengths),
        ([0, 3, 6], [0, 2**40, *offsets[2:]], lengths),
        ([0, 3, 6], [2**64 - 16, *offsets[1:]], lengths),
        ([0, 3, 6], offsets, [*lengths[:-1], 2**32 - 1]),
        ([0, 3, 6], offsets[::-1], lengths[::-1]),
        ([0, 1, 2], [0, 0], [8, 8]),
    ]
    for number, arrays in enumerate(tampered):
        path.write_bytes(index_file(*arrays))
        caplog.clear()
        records = TFRecords(paths, cache_dir=cache)
        assert [(r.path, r.offset) for r in records] == expected
        (said,) = [record.getMessage() for record in caplog.records]
        assert f"{path} is rebuilt" in said
        assert len(scans) == number + 2


def test_an_index_whose_differences_wrap_around_is_rebuilt(write_shards, images, tmp_path, caplog):
    paths = write_shards(tmp_path, images[:6], 3)
    cache = tmp_path / "cache"
    index = TFRecords(paths, cache_dir=cache).shard_index()
    (path,) = cache.iterdir()
    step = (2**64 + 5) // 3  # thrice, and one more, is 6 in 64 bits
    begin = [0, step, 2 * step, 6]
    path.write_bytes(index_file(begin, index.offsets.tolist(), index.lengths.tolist()))
    assert len(TFRecords(paths, cache_dir=cache)) == 6
    assert "it does not say in which shard its records are" in caplog.text


def test_an_index_that_is_no_regular_file_is_rebuilt(shards, tmp_path):
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    len(TFRecords(shards, cache_dir=cache))
    (path,) = cache.iterdir()
    os.rename(str(path), str(elsewhere))
    intact = elsewhere.read_bytes()
    os.symlink(str(elsewhere), str(path))
    assert len(TFRecords(shards, cache_dir=cache)) == 37
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(str(path))
    assert len(TFRecords(shards, cache_dir=cache)) == 37
    assert path.read_bytes() == intact
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # nothing on the disk
    assert len(TFRecords(shards, cache_dir=cache)) == 37
    assert path.read_bytes() == intact


def test_the_cache_is_the_users_alone(shards, tmp_path):
    before = os.umask(0)
    try:
        len(TFRecords(shards, cache_dir=tmp_path / "above" / "cache"))
    finally:
        os.umask(before)
    (path,) = (tmp_path / "above" / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_shard_that_takes_anothers_place_is_scanned_anew(write_shards, images, scans, tmp_path):
    (path,) = write_shards(tmp_path, images[:3])
    status = os.stat(path)
    assert len(TFRecords(path, cache_dir=tmp_path / "cache")) == 3
    (other,) = write_shards(tmp_path, [images[1], images[0], images[2]], name="other")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    now = os.stat(path)
    assert (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    records = TFRecords(path, cache_dir=tmp_path / "cache")
    assert [r.image for r in records] == [images[1], images[0], images[2]]


def test_the_index_of_a_broken_shard_is_not_cached(write_shards, images, tmp_path):
    paths = write_shards(tmp_path, images[:4], 2)
    with open(paths[1], "r+b") as file:
        file.truncate(os.path.getsize(paths[1]) - 1)
    cache = tmp_path / "cache"
    for _ in range(2):
        with pytest.raises(RecordError, match=r"00001-of-00002 at byte .*truncated"):
            len(TFRecords(paths, cache_dir=cache))
    assert not cache.exists()


def test_a_label_key_that_is_named_must_be_there(write_shards, images, tmp_path):
    (path,) = write_shards(tmp_path, images[:2])
    reason = "no label feature 'image/class/labels'; it has 'image/class/label', 'image/encoded'"
    with pytest.raises(RecordError, match=reason):
        TFRecords(path, label_key="image/class/labels")[0]
    # Pretext tasks ask for no class label.
    for pipeline, label in (("resize(9)|patches(3)|jigsaw", []), ("resize(8)|rotate", [4])):
        for backend in ("native", "reference"):
            records = TFRecords(path, label_key="image/class/labels")
            with Loader(records, pipeline, 2, training=False, backend=backend) as loader:
                (batch,) = loader
                assert list(batch.label.shape) == [2, *label]
            with Loader(records, "resize(8)", 2, backend=backend) as loader, pytest.raises(
                RecordError, match=reason
            ):
                list(loader)


@pytest.mark.parametrize("offset", [-5, 0, 1, 7])
def test_a_stored_label_of_minus_one_means_unlabelled(offset, images, tmp_path):
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    with writer.TFRecordWriter(tmp_path / "shard") as shard:
        shard.write(writer.example({"image/encoded": images[0], "image/class/label": -1}))
    assert TFRecords(tmp_path / "shard", label_offset=offset)[0].label == -1
    for wrong in (2**31, 0.5, "1", True):
        with pytest.raises(ValueError, match="label_offset"):
            TFRecords(tmp_path / "shard", label_offset=wrong)


def test_names_of_features_come_from_a_file_and_are_shown_harmlessly(images, tmp_path):
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    features = {"\x1b[2J": 1, "long" * 100: 2, **{f"n{i}": i for i in range(50)}}
    with writer.TFRecordWriter(tmp_path / "shard") as shard:
        shard.write(writer.example(features))
    with pytest.raises(RecordError) as info:
        TFRecords(tmp_path / "shard")[0]
    said = str(info.value)
    assert "'\\x1b[2J'" in said
    assert "and 40 more" in said
    assert len(said) < 600 and said.isprintable()


@pytest.mark.parametrize("folder", ["[old] data", "a*b?", "[0-9]", "data [1]/inner"])
def test_a_folder_with_the_characters_of_patterns_is_taken_by_its_name(
    folder, write_shards, images, tmp_path
):
    (tmp_path / folder).mkdir(parents=True)
    paths = write_shards(tmp_path / folder, images[:4], 2)
    assert TFRecords(tmp_path / folder / "train-*").paths == tuple(paths)
    assert len(TFRecords(str(tmp_path / folder / "train-*"), cache_dir=tmp_path / folder)) == 4
    # Patterns in the names of folders still work.
    inner = str(tmp_path / "[[ad0]*" / "*" if "/" in folder else tmp_path / "[[ad0]*")
    assert TFRecords(os.path.join(inner, "train-*")).paths == tuple(paths)


@pytest.mark.parametrize("name", ["café".encode("latin-1"), "图像".encode("gbk"), "图像".encode()])
def test_names_in_any_encoding_are_read(name, write_shards, images, tmp_path, caplog):
    folder = os.path.join(os.fsencode(str(tmp_path)), name)
    os.mkdir(folder)
    write_shards(os.fsdecode(folder), [images[0], b"GIF89a", *images[:2]], 2)
    cache = os.path.join(folder, b"cache")
    for pattern in (
        os.path.join(folder, b"train-*"),
        os.fsdecode(os.path.join(folder, b"train-*")),
    ):
        records = TFRecords(pattern, cache_dir=cache)
        assert [len(record.image) for record in records][2:] == [len(i) for i in images[:2]]
        for backend in ("native", "reference"):
            with Loader(records, "resize(8)", 2, training=False, backend=backend) as loader:
                with pytest.raises(RecordError) as info:
                    list(loader)
                assert os.fsencode(info.value.path) == os.path.join(folder, b"train-00000-of-00002")
    assert os.listdir(cache)
    assert imagenet(folder, "trainval").paths == records.paths


def test_a_tilde_is_the_home_directory(write_shards, images, tmp_path, monkeypatch):
    paths = write_shards(tmp_path, images[:2], 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TFRecords("~/train-*").paths == tuple(paths)
    assert TFRecords(["~/train-00000-of-00002"]).paths == (paths[0],)
    assert imagenet("~", "trainval").paths == tuple(paths)
    len(TFRecords("~/train-*", cache_dir="~/cache"))
    assert len(os.listdir(str(tmp_path / "cache"))) == 1


HOMELESS = """
import logging, os, pwd, sys
pwd.getpwuid = {}.__getitem__  # a KeyError for every user
logging.basicConfig(level=logging.WARNING)
from pretexture.loader import TFRecords
for _ in range(2):
    print(len(TFRecords(sys.argv[1])))
try:
    TFRecords("~/train-*")
except ValueError as error:
    print(error)
print(os.listdir("."))
"""


def test_without_a_home_nothing_is_called_tilde(shards, tmp_path):
    """As in a container that runs under a user number without a name."""
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment["TMPDIR"] = str(temporary)
    run = subprocess.run(
        [sys.executable, "-c", HOMELESS, shards[0]],
        capture_output=True,
        text=True,
        cwd=str(work),
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    length, again, error, entries = run.stdout.splitlines()
    assert length == again == str(len(scan(shards[0])))
    assert "there is no home directory for ~/train-*" in error
    assert entries == "[]"
    assert run.stderr.count("there is no home directory") == 1
    (private,) = temporary.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


INTERRUPTED = """
import os, signal, sys, threading
from pretexture.loader import TFRecords
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    TFRecords(sys.argv[1:]).shard_index()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_scan_can_be_interrupted(tmp_path):
    # Small records: a hundred million of them in a file that is linked two hundred times.
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    with writer.TFRecordWriter(tmp_path / "piece") as shard:
        for _ in range(5000):
            shard.write(b"")
    piece = (tmp_path / "piece").read_bytes()
    (tmp_path / "shard").write_bytes(piece * 100)
    links = [str(tmp_path / f"train-{i}") for i in range(200)]
    for link in links:
        os.link(str(tmp_path / "shard"), link)
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *links],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")},
    )
    assert run.stdout == "interrupted\n", run.stderr
    assert not (tmp_path / "xdg").exists()


def fake_imagenet(folder, train, validation=2):
    for name, count in (("train", train), ("validation", validation)):
        for i in range(count):
            (folder / f"{name}-{i:05}-of-{count:05}").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("shards", "held_out"),
    # 40 of 1,024, rounded, but at least one.
    [(2, 1), (8, 1), (26, 1), (38, 1), (39, 2), (64, 2), (128, 5), (512, 20), (1024, 40)],
)
def test_val_is_the_last_of_the_training_shards(shards, held_out, tmp_path):
    fake_imagenet(tmp_path, shards)
    whole = imagenet(tmp_path, "trainval").paths
    assert [os.path.basename(path) for path in whole] == [
        f"train-{i:05}-of-{shards:05}" for i in range(shards)
    ]
    assert imagenet(tmp_path, "val").paths == whole[-held_out:]
    assert imagenet(str(tmp_path), "train").paths == whole[:-held_out]
    names = [os.path.basename(path) for path in imagenet(tmp_path, "test").paths]
    assert names == ["validation-00000-of-00002", "validation-00001-of-00002"]


TFDS = "imagenet2012-{}.tfrecord-{:05}-of-{:05}"


def test_shards_named_by_tfds_are_found(tmp_path):
    names = [TFDS.format("train", i, 4) for i in range(4)]
    for name in [*names, TFDS.format("validation", 0, 1)]:
        (tmp_path / name).write_bytes(b"")
    assert [os.path.basename(path) for path in imagenet(tmp_path, "trainval").paths] == names
    (path,) = imagenet(tmp_path, "test").paths
    assert os.path.basename(path) == TFDS.format("validation", 0, 1)
    (tmp_path / names[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 1 of 4 train shards, .* {names[2]}$"):
        imagenet(tmp_path, "train")
    fake_imagenet(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match="mixes train shards of 4 named imagenet2012-train"):
        imagenet(tmp_path, "train")


@pytest.mark.parametrize(
    "features,offset",
    [(("image", "label"), 0), (("image/encoded", "image/class/label"), 1)],
    ids=["tfds", "slim"],
)
def test_shards_named_by_tfds_have_the_features_of_the_first_record(
    tmp_path, images, features, offset
):
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    for i in range(2):
        with writer.TFRecordWriter(tmp_path / TFDS.format("train", i, 2)) as shard:
            for number in range(3 * i, 3 * i + 3):
                values = (images[number], number + offset)
                shard.write(writer.example(dict(zip(features, values))))
    records = imagenet(tmp_path, "trainval", cache_dir=tmp_path / "cache")
    assert [record.label for record in records] == list(range(6))
    assert [record.image for record in records] == images[:6]
    other = imagenet(tmp_path, "trainval", label_offset=-1, cache_dir=tmp_path / "cache")
    assert other[0].label == offset + 1


@pytest.mark.parametrize("form", ["{}-{:05}-of-{:05}", TFDS])
def test_shards_in_a_folder_for_each_split_are_found(tmp_path, form):
    for name, count in (("train", 3), ("validation", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / form.format(name, i, count)).write_bytes(b"")
    for split, name, count in (("trainval", "train", 3), ("test", "validation", 2)):
        paths = [str(tmp_path / name / form.format(name, i, count)) for i in range(count)]
        assert list(imagenet(tmp_path, split).paths) == paths


def test_a_single_training_shard_cannot_be_split(tmp_path):
    fake_imagenet(tmp_path, 1)
    for split in ("train", "val"):
        with pytest.raises(ValueError, match=r"single training shard.*use trainval and test"):
            imagenet(tmp_path, split)
    assert len(imagenet(tmp_path, "trainval").paths) == 1


def test_a_missing_shard_is_named(tmp_path):
    fake_imagenet(tmp_path, 8)
    (tmp_path / "train-00003-of-00008").unlink()
    (tmp_path / "train-00007-of-00008").unlink()
    for split in ("train", "val", "trainval"):
        with pytest.raises(
            FileNotFoundError, match=r"lacks 2 of 8 train shards, .* train-00003-of-00008"
        ):
            imagenet(tmp_path, split)
    assert len(imagenet(tmp_path, "test").paths) == 2


def test_what_else_can_be_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none"):
        imagenet(tmp_path / "none", "train")
    with pytest.raises(FileNotFoundError, match=r"has no shards train-\*-of-\*"):
        imagenet(tmp_path, "train")
    with pytest.raises(ValueError, match="train, val, trainval or test, not 'validation'"):
        imagenet(tmp_path, "validation")
    fake_imagenet(tmp_path, 2)
    fake_imagenet(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match="mixes train shards of 2 and of 3"):
        imagenet(tmp_path, "train")


def test_other_files_in_the_folder_do_not_matter(write_shards, images, tmp_path):
    write_shards(tmp_path, images[:5], 2)
    for name in (".train-00000-of-00002.17.part", "train-00000-of-00002.bak", "dataset.json"):
        (tmp_path / name).write_text("{}")
    records = imagenet(tmp_path, "trainval", label_offset=0)
    assert [record.label for record in records] == [1, 2, 3, 4, 5]
