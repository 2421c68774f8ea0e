"""WebDataset shards, written with Python's tarfile and with tar."""

import gzip
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from pretexture.loader import Loader, Record, RecordError, TFRecords, WebDataset
from pretexture.loader.shards import webdataset
from pretexture.loader.shards.row_index import index_rows
from pretexture.loader.shards.webdataset import expand_braces

pytestmark = pytest.mark.usefixtures("no_hang")

BACKENDS = ["native", "reference"]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PIPELINE = "inception(24)"


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "reference":
        pytest.importorskip("cv2")
    return request.param


def pack(path, members, format=tarfile.USTAR_FORMAT):
    """Writes (name, data) in order; data None is a folder."""
    with tarfile.open(str(path), "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(path)


def members(images, first=0, cls=True):
    found = []
    for number, image in enumerate(images, first):
        found.append((f"{number:05}.jpg", image))
        if cls:
            found.append((f"{number:05}.cls", str(number).encode()))
        else:
            found.append((f"{number:05}.json", json.dumps({"label": number}).encode()))
    return found


@pytest.fixture
def tars(images, tmp_path):
    """A pattern of two shards; labels are record numbers, as .cls and as .json."""
    pack(tmp_path / "train-000000.tar", members(images[:20]))
    pack(tmp_path / "train-000001.tar", members(images[20:], 20, cls=False))
    return str(tmp_path / "train-{000000..000001}.tar")


def batches(records, backend="native", **options):
    options = {"batch_size": 5, "seed": 3, "threads": 2, **options}
    with Loader(records, PIPELINE, backend=backend, **options) as loader:
        return list(loader), loader.stats


def same(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected):
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.label, b.label)
        np.testing.assert_array_equal(a.image, b.image)


def broken(path, **options):
    """The error of a broken shard, and the labels of the records before the damage."""
    records = WebDataset(path, **options)
    with pytest.raises(RecordError) as caught:
        records.shard_index()
    assert caught.value.path == str(path)
    return caught.value, records.shard_index("skip").labels.tolist()


@pytest.mark.parametrize("options", [{}, {"shard": (1, 2)}, {"training": False}])
def test_its_batches_are_those_of_the_same_images_in_tfrecords(
    tars, images, write_shards, tmp_path, backend, options
):
    expected, _ = batches(TFRecords(write_shards(tmp_path, images)), backend, **options)
    ours, stats = batches(WebDataset(tars), backend, **options)
    same(ours, expected)
    assert stats.bytes >= sum(len(images[i]) for batch in ours for i in batch.index)


def test_an_epoch_is_resumed_in_its_middle(tars, backend):
    whole, _ = batches(WebDataset(tars), backend)
    with Loader(WebDataset(tars), PIPELINE, 5, seed=3, backend=backend) as loader:
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = loader.state_dict()
    with Loader(WebDataset(tars), PIPELINE, 5, seed=3, backend=backend) as loader:
        loader.load_state_dict(state)
        same(list(loader), whole[2:])


@pytest.mark.parametrize("format", FORMATS)
def test_long_names_of_each_format_are_read(tmp_path, images, format):
    folder = "x" * 90 + "/" + "y" * 60  # more than the 100 bytes of a name, fits in the prefix
    if format != "ustar":
        folder += "/" + "z" * 300
    names = [f"{folder}/{number}" for number in range(5)]
    files = [(folder, None)]
    for number, name in enumerate(names):
        files += [(f"{name}.jpg", images[number]), (f"{name}.cls", b"%d" % number)]
    path = pack(tmp_path / "a.tar", files, FORMATS[format])
    records = WebDataset(path)
    assert [record.image for record in records] == images[:5]
    assert [record.label for record in records] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_names_that_are_not_ascii_are_read(tmp_path, images, format):
    path = pack(tmp_path / "a.tar", [("ü😀.jpg", images[0]), ("ü😀.cls", b"7")], FORMATS[format])
    assert [record.label for record in WebDataset(path)] == [7]


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_sizes_beyond_the_octal_field_are_read(tmp_path, images, kind):
    # A file of 9 GiB that takes no room on the disk, between two records.
    size = 9 << 30
    path = tmp_path / "a.tar"
    with open(str(path), "wb") as file:
        first = io.BytesIO()
        with tarfile.open(fileobj=first, mode="w") as archive:
            info = tarfile.TarInfo("0.jpg")
            info.size = len(images[0])
            archive.addfile(info, io.BytesIO(images[0]))
        file.write(first.getvalue()[: 512 + -(-len(images[0]) // 512) * 512])
        info = tarfile.TarInfo("film.mp4")
        info.size = size
        file.write(info.tobuf(FORMATS[kind]))
        file.seek(size, os.SEEK_CUR)
        info = tarfile.TarInfo("1.jpg")
        info.size = len(images[1])
        file.write(info.tobuf(FORMATS[kind]) + images[1])
        file.write(bytes(-len(images[1]) % 512 + 1024))
    records = WebDataset(path)
    assert [record.image for record in records] == images[:2]
    assert records[1].offset > size


def test_archives_of_tar_itself_are_read(tmp_path, images):
    if shutil.which("tar") is None:
        pytest.skip("needs tar")
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(images[number])
        (tmp_path / f"{number}.cls").write_text(f"{number}\n")
    os.symlink("0.jpg", str(tmp_path / "9.jpg"))
    os.link(str(tmp_path / "0.jpg"), str(tmp_path / "8.jpg"))
    for format in ("ustar", "gnu", "pax", "v7"):
        path = tmp_path / f"{format}.tar"
        names = [f"{number}.{kind}" for number in range(6) for kind in ("cls", "jpg")]
        command = ["tar", "--format", format, "-C", str(tmp_path), "-cf", str(path)]
        subprocess.run([*command, *names, "9.jpg", "8.jpg"], check=True)
        records = WebDataset(path)
        assert [record.image for record in records] == images[:6]
        assert [record.label for record in records] == [0, 1, 2, 3, 4, 5]


def test_only_images_with_their_labels_are_records(tmp_path, images):
    path = pack(
        tmp_path / "a.tar",
        [
            ("folder", None),
            ("folder/1.seg.png", b"a mask"),
            ("folder/1.JPG", images[1]),
            ("folder/1.txt", b"a caption"),
            ("folder/1.json", b'{"label": 5, "other": [1, {"label": 6}]}'),
            ("folder/1.cls", b" 4\n"),
            ("folder/._2.jpg", b"of a Mac"),
            ("folder/2.json", b'{"label": 5}'),
            ("other/1.png", images[2]),
            ("other/1.CLS", b"-1"),
        ],
    )
    records = WebDataset(path)
    assert [(record.image, record.label) for record in records] == [(images[1], 4), (images[2], -1)]


def test_a_shard_without_labels_has_none(tmp_path, images, backend):
    path = pack(tmp_path / "a.tar", [("1.jpg", images[1]), ("2.jpg", images[2]), ("2.json", b"{}")])
    assert [record.label for record in WebDataset(path)] == [-1, -1]
    ours, _ = batches(WebDataset(path), backend, batch_size=2)
    assert ours[0].label.tolist() == [-1, -1]


def test_label_key_and_label_offset(tmp_path, images):
    path = pack(
        tmp_path / "a.tar",
        [
            *(("1.jpg", images[1]), ("1.json", b'{"class": 3, "label": 9}')),
            *(("2.jpg", images[2]), ("2.json", b'{"class": -1}')),
        ],
    )
    records = WebDataset(path, label_key="class", label_offset=1)
    assert [record.label for record in records] == [2, -1]
    # The index is kept for each choice of labels.
    assert [record.label for record in WebDataset(path, label_key="class")] == [3, -1]
    error, _ = broken(path, label_key="kind")
    assert error.reason == "the image 1 has no label 'kind'"


@pytest.mark.parametrize(
    "suffix, text, reason",
    [
        ("cls", b"cat", "the label of 2: 'cat' is not a whole number"),
        ("cls", b"1.5", "the label of 2: '1.5' is not a whole number"),
        ("cls", b"", "the label of 2: '' is not a whole number"),
        ("cls", b"\xff", r"the label of 2: '\ufffd' is not a whole number"),
        ("cls", b"-2", "the label of 2: -2 less label_offset=0 is below 0"),
        ("cls", b"2147483648", "the label of 2: 2147483648 less label_offset=0 does not fit"),
        ("json", b"{", "the label of 2: not JSON: "),
        ("json", b"[" * 100_000, "the label of 2: not JSON: "),
        ("json", b"[1]", "the label of 2: the JSON text is not an object"),
        ("json", b'{"label": "cat"}', "the label of 2: '\"cat\"' is not a whole number"),
        ("json", b'{"label": 1.0}', "the label of 2: '1.0' is not a whole number"),
        ("json", b'{"label": true}', "the label of 2: 'true' is not a whole number"),
    ],
)
def test_a_label_that_is_none_is_an_error(tmp_path, images, suffix, text, reason):
    files = [("1.jpg", images[1]), ("1.cls", b"1"), ("2.jpg", images[2]), (f"2.{suffix}", text)]
    error, before = broken(pack(tmp_path / "a.tar", files))
    assert error.reason.startswith(reason)
    assert before == [1]


def test_a_missing_label_is_an_error(tmp_path, images):
    files = [("1.jpg", images[1]), ("1.cls", b"1"), ("2.jpg", images[2]), ("3.jpg", images[3])]
    error, before = broken(pack(tmp_path / "a.tar", files))
    assert error.reason == "the image 2 has no label, though others in the shard have one"
    assert error.offset == 512 + -(-len(images[1]) // 512) * 512 + 1024
    assert before == [1]


@pytest.mark.parametrize(
    "last, reason",
    [
        (("2.png", b"x"), "2 has two images"),
        (("2.jpg", b"x"), "2 has two images"),
        (("2.cls", b"3"), "2 has two .cls files"),
        (("1.jpg", b"x"), "the files of 1 do not follow one another"),
    ],
)
def test_records_that_are_no_groups_are_errors(tmp_path, images, last, reason):
    files = [("1.jpg", images[1]), ("1.cls", b"1"), ("2.jpg", images[2]), ("2.cls", b"2"), last]
    error, before = broken(pack(tmp_path / "a.tar", files))
    assert error.reason.startswith(reason)
    assert before == ([1] if last[0].startswith("2") else [1, 2])


def test_a_shard_cut_anywhere_is_an_error_and_keeps_what_is_before(tmp_path, images):
    small = [image for image in images if len(image) < 2000][:3]
    whole = pack(tmp_path / "whole.tar", members(small))
    with open(whole, "rb") as file:
        data = file.read()
    with tarfile.open(whole) as archive:
        infos = archive.getmembers()
    last = infos[-1]
    end = last.offset_data + 512
    cut = tmp_path / "cut.tar"
    for size in [*range(0, end, 173), *(info.offset for info in infos), end]:
        cut.write_bytes(data[:size])
        error, before = broken(cut)
        complete = sum(
            image.offset_data + image.size <= size and label.offset_data + label.size <= size
            for image, label in zip(infos[::2], infos[1::2])
        )
        assert before == list(range(complete))
        assert "truncated" in error.reason or size == 0
    cut.write_bytes(data[: end + 512])  # the first of the two blocks of zeros at the end is enough
    assert len(WebDataset(cut)) == 3


def test_a_damaged_header_is_an_error(tmp_path, images):
    path = pack(tmp_path / "a.tar", members(images[:3]))
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[2].offset
    with open(path, "r+b") as file:
        file.seek(offset + 5)
        file.write(b"#")
    error, before = broken(path)
    assert error.offset == offset
    assert error.reason == "the header of a file is damaged: its checksum is wrong"
    with Loader(WebDataset(path), PIPELINE, 1, on_error="skip") as loader:
        assert loader.num_records == len(before)


def test_joined_archives_are_an_error(tmp_path, images):
    one = pack(tmp_path / "one.tar", members(images[:3]))
    with open(one, "rb") as file:
        data = file.read()
    (tmp_path / "two.tar").write_bytes(data * 2)
    error, before = broken(tmp_path / "two.tar")
    assert "data follow the end of the archive" in error.reason
    assert before == [0, 1, 2]


def test_a_sparse_file_is_an_error(tmp_path, images):
    info = tarfile.TarInfo("0.jpg")
    info.size, info.type = len(images[0]), tarfile.GNUTYPE_SPARSE
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + images[0] + bytes(-len(images[0]) % 512 + 1024))
    error, _ = broken(path)
    assert error.reason == (
        "the file 0.jpg is stored as a sparse one; pack the archive without --sparse"
    )


def test_a_packed_archive_names_the_command_that_unpacks_it(tmp_path, images):
    path = pack(tmp_path / "a.tar", members(images[:3]))
    with open(path, "rb") as file:
        data = file.read()
    packed, unpacked = tmp_path / "a.tar.gz", tmp_path / "b.tar"
    packed.write_bytes(gzip.compress(data))
    error, _ = broken(packed)
    assert error.reason.startswith("not a tar archive but a gzip file; decompress it first: ")
    command = error.reason.partition("first: ")[2]
    command = command.replace("PACKED", str(packed)).replace("SHARD", str(unpacked))
    subprocess.run(command, shell=True, check=True)
    assert [record.label for record in WebDataset(unpacked)] == [0, 1, 2]


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "the file is empty"),
        (b"<html>" * 200, "not a tar archive but "),
        (bytes(range(256)) * 4, "not a tar archive, or a damaged one"),
        (bytes(1024), "the archive has no images (.jpg, .jpeg, .png)"),
    ],
)
def test_what_is_no_archive_is_said_to_be_none(tmp_path, data, reason):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    error, before = broken(path)
    assert error.reason.startswith(reason)
    assert before == []


@pytest.mark.parametrize("how", ["replaced", "cut", "gone"])
def test_an_archive_that_changed_after_it_was_indexed_is_an_error_even_with_skip(
    tars, images, tmp_path, backend, how
):
    records = WebDataset(tars)
    assert len(records) == 37
    path = tmp_path / "train-000001.tar"
    if how == "replaced":
        pack(path, [("0.jpg", bytes(100_000)), *members(images[20:], 20)])
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.unlink()
    with pytest.raises(RecordError) as caught:
        batches(records, backend, training=False, on_error="skip")
    assert caught.value.path == str(path)
    expected = {"replaced": "replaced", "cut": "truncated", "gone": "No such file"}[how]
    assert expected in caught.value.reason


def test_an_image_that_cannot_be_used_is_skipped(tmp_path, images, backend):
    files = members([*images[:4], b"no image", *images[5:8], b""])
    path = pack(tmp_path / "a.tar", files)
    with pytest.raises(RecordError) as caught:
        batches(WebDataset(path), backend, training=False)
    assert (caught.value.path, caught.value.record) == (path, 4)
    assert caught.value.offset == WebDataset(path)[4].offset
    _, stats = batches(WebDataset(path), backend, training=False, on_error="skip")
    assert stats.skipped >= 2


def test_the_index_is_kept(tars, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    expected = WebDataset(tars, cache_dir=cache).shard_index()
    (cached,) = cache.glob("index-*.bin")
    monkeypatch.setattr(webdataset._core, "scan_tars", None)
    again = WebDataset(tars, cache_dir=cache).shard_index()
    for name in ("offsets", "lengths", "shard_begin", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    monkeypatch.undo()
    data = cached.read_bytes()
    cached.write_bytes(data[:-1] + b"\x01")
    assert len(WebDataset(tars, cache_dir=cache)) == 37
    assert "is rebuilt, because it is damaged" in caplog.text


def test_an_index_that_does_not_fit_the_shards_is_refused(tars, tmp_path):
    records = WebDataset(tars)
    index = records.shard_index()
    sizes = [os.path.getsize(path) for path in records.paths]
    path = str(tmp_path / "index.bin")
    wrong = [
        index._replace(offsets=index.offsets + np.uint64(1)),
        index._replace(offsets=index.offsets + np.uint64(1 << 20)),
        index._replace(offsets=index.offsets[::-1]),
        index._replace(offsets=index.offsets + np.uint64(2**63)),
        index._replace(lengths=index.lengths * 2),
        index._replace(labels=index.labels - 10),
        index._replace(shard_begin=np.array([0, 0, 37], np.uint64)),
        index._replace(shard_begin=np.array([0, 2**63, 37], np.uint64)),
        index._replace(shard_begin=np.array([0, 20, 36], np.uint64)),
        index._replace(shard_begin=np.array([0, 37], np.uint64)),
    ]
    for one in wrong:
        webdataset._save(one, path)
        with pytest.raises(ValueError, match=r"its? "):
            webdataset.read_index(path, sizes)
    webdataset._save(index, path)
    np.testing.assert_array_equal(webdataset.read_index(path, sizes).labels, index.labels)


@pytest.mark.parametrize(
    "pattern, expected",
    [
        # What bash's brace expansion gives.
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,bc}-{1..2}", ["a-1", "a-2", "bc-1", "bc-2"]),
        ("{a}", ["{a}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern, expected):
    assert expand_braces(pattern) == expected


def test_patterns(tars, tmp_path, images):
    expected = [str(tmp_path / f"train-00000{i}.tar") for i in range(2)]
    glob = str(tmp_path / "train-*.tar")
    for pattern in (tars, glob, expected, [glob], [tmp_path / "train-{000000..000001}.tar"]):
        assert list(WebDataset(pattern).paths) == expected
    with pytest.raises(FileNotFoundError, match=r"no such file: .*train-000002\.tar"):
        WebDataset(str(tmp_path / "train-{000000..000009}.tar"))
    with pytest.raises(ValueError, match="more than 1000000 shards"):
        WebDataset("{0..99999999}")
    with pytest.raises(ValueError, match="a pipe does not allow"):
        WebDataset("pipe:curl https://host/a.tar")
    with pytest.raises(IsADirectoryError):
        WebDataset(tmp_path)


def test_shards_at_urls_are_read(tars, tmp_path):
    pytest.importorskip("fsspec")
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for i in range(2):
        with open(str(tmp_path / f"train-00000{i}.tar"), "rb") as file:
            memory.pipe(f"/wds/train-00000{i}.tar", file.read())
    records = WebDataset("memory://wds/train-{000000..000001}.tar", cache_dir=tmp_path / "cache")
    assert records.remote
    expected, _ = batches(WebDataset(tars), shuffle=False)
    ours, _ = batches(records, shuffle=False)
    same(ours, expected)


def test_the_row_index_changes_no_pixel(tmp_path):
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(0)
    pictures = []
    for _ in range(4):
        file = io.BytesIO()
        coarse = image.fromarray(random.randint(0, 256, (40, 50, 3)).astype(np.uint8))
        coarse.resize((800, 600), image.BICUBIC).save(file, "JPEG", quality=95)
        pictures.append(file.getvalue())
    path = pack(tmp_path / "a.tar", members(pictures))
    records = WebDataset(path, cache_dir=tmp_path / "cache")
    expected, _ = batches(WebDataset(path, row_index="off"), batch_size=2)
    assert index_rows(records) == (4, 0)
    ours, stats = batches(records, batch_size=2)
    same(ours, expected)
    assert stats.jumps > 0


def test_it_is_a_sequence(tars, images, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        records = WebDataset(tars)
        path = str(tmp_path / "train-000001.tar")
        assert records[20] == Record(images[20], 20, path, 0)
        assert repr(records) == f"WebDataset({str(tmp_path / 'train-000000.tar')!r} and 1 more)"
    assert not caplog.text
