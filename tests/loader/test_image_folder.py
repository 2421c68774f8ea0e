"""JPEG and PNG files in class folders, read as they are."""

import io
import logging
import os
import shutil
import time

import numpy as np
import pytest
from pretexture.loader import ImageFolder, Loader, Record, RecordError, TFRecords
from pretexture.loader.shards import image_folder
from pretexture.loader.shards.row_index import index_rows

pytestmark = pytest.mark.usefixtures("no_hang")

BACKENDS = ["native", "reference"]
PIPELINE = "inception(24)"


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "reference":
        pytest.importorskip("cv2")
    return request.param


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def settle(root, seconds=100):
    """Makes all folders look as if they had changed a while ago, so that their list is kept."""
    then = time.time() - seconds
    for folder, _, _ in os.walk(str(root)):
        os.utime(folder, (then, then))


@pytest.fixture
def root(images, tmp_path):
    """Three classes; the names of files sort otherwise than their numbers."""
    for number, image in enumerate(images):
        write(tmp_path / "data" / "cab"[number % 3] / f"{number}.jpg", image)
    settle(tmp_path / "data")
    return tmp_path / "data"


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


def names(records):
    root = str(records.root)
    return [os.path.relpath(record.path, root) for record in records]


def test_classes_and_files_are_in_torchvisions_order(tmp_path, images):
    # find_classes: sorted(entry.name for entry in os.scandir(directory) if entry.is_dir());
    # make_dataset: for root, _, names in sorted(os.walk(folder)): for name in sorted(names).
    files = {
        "a/z.jpg": 0,
        "B/10.jpg": 1,
        "B/9.jpg": 2,
        "B/sub/0.JPG": 3,
        "B/sub-1/0.jpeg": 4,
        "B/sub/deep/0.jpg": 5,
        "10/x.Jpeg": 6,
        "9/x.jpg": 7,
    }
    for name, number in files.items():
        write(tmp_path / name, images[number])
    records = ImageFolder(tmp_path)
    assert records.classes == ("10", "9", "B", "a")
    assert names(records) == [
        "10/x.Jpeg",
        "9/x.jpg",
        "B/10.jpg",
        "B/9.jpg",
        "B/sub/0.JPG",
        "B/sub-1/0.jpeg",
        "B/sub/deep/0.jpg",
        "a/z.jpg",
    ]
    assert [record.label for record in records] == [0, 1, 2, 2, 2, 2, 2, 3]
    assert [record.image for record in records] == [images[i] for i in (6, 7, 1, 2, 3, 4, 5, 0)]


@pytest.mark.parametrize("options", [{}, {"shard": (1, 2)}, {"training": False}])
def test_its_batches_are_those_of_the_same_images_in_shards(
    root, write_shards, tmp_path, backend, options
):
    records = ImageFolder(root)
    # Labels in these shards are record numbers.
    shards = TFRecords(write_shards(tmp_path, [record.image for record in records], 2))
    labels = np.array([record.label for record in records])
    ours, stats = batches(records, backend, **options)
    expected, _ = batches(shards, backend, **options)
    same(ours, [batch._replace(label=labels[batch.index]) for batch in expected])
    assert stats.bytes >= sum(len(records[int(i)].image) for batch in ours for i in batch.index)


def test_an_epoch_is_resumed_in_its_middle(root, backend):
    whole, _ = batches(ImageFolder(root), backend)
    with Loader(ImageFolder(root), PIPELINE, 5, seed=3, backend=backend) as loader:
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = loader.state_dict()
    with Loader(ImageFolder(root), PIPELINE, 5, seed=3, backend=backend) as loader:
        loader.load_state_dict(state)
        same(list(loader), whole[2:])


def test_pngs_are_read(tmp_path, backend):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.RandomState(0).randint(0, 256, (30, 30, 3)).astype(np.uint8)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    write(tmp_path / "a" / "x.PNG", file.getvalue())
    with Loader(
        ImageFolder(tmp_path), "crop(30)", 1, training=False, dtype="uint8", backend=backend
    ) as loader:
        np.testing.assert_array_equal(next(iter(loader)).image[0], pixels)


def test_hidden_files_and_folders_are_left_out(root, images):
    write(root / ".cache" / "x.jpg", images[0])
    write(root / "a" / "._7.jpg", b"of a Mac")
    write(root / "a" / ".thumbnails" / "x.jpg", images[0])
    records = ImageFolder(root)
    assert records.classes == ("a", "b", "c")
    assert len(records) == 37


def test_a_class_without_images_keeps_its_label(root, caplog):
    (root / "aa").mkdir()
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        records = ImageFolder(root)
        labels = {record.label for record in records}
    assert records.classes == ("a", "aa", "b", "c")
    assert labels == {0, 2, 3}
    assert "1 class folders" in caplog.text
    assert "aa" in caplog.text
    ours, _ = batches(records)
    assert {int(label) for batch in ours for label in batch.label} == {0, 2, 3}


def test_images_of_other_formats_are_counted(root, caplog):
    write(root / "a" / "x.webp", b"RIFF")
    write(root / "a" / "notes.txt", b"not an image at all")
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        assert len(ImageFolder(root)) == 37
    assert "1 images" in caplog.text
    assert "x.webp" in caplog.text
    assert "notes.txt" not in caplog.text


def test_names_need_not_be_utf8(tmp_path, images, backend):
    folder = os.path.join(os.fsencode(str(tmp_path)), b"kla\xdf")
    os.mkdir(folder)
    for name in (b"\xe4.jpg", b"two\nlines.jpg", "ü 😀.jpg".encode()):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(images[0])
    with open(os.path.join(folder, b"\xff.jpg"), "wb") as file:
        file.write(b"not an image")
    records = ImageFolder(tmp_path)
    assert [os.fsencode(name) for name in records.classes] == [b"kla\xdf"]
    with pytest.raises(RecordError) as caught:
        batches(records, backend, training=False)
    assert os.fsencode(caught.value.path) == os.path.join(folder, b"\xff.jpg")
    _, stats = batches(records, backend, batch_size=2, on_error="skip")
    assert stats.skipped >= 1


def test_links_are_followed(root, images, tmp_path, backend):
    write(tmp_path / "elsewhere" / "x.jpg", images[0])
    (root / "d").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    (root / "a" / "up").symlink_to(root / "a")  # has no end
    records = ImageFolder(root)
    assert records.classes == ("a", "b", "c", "d")
    assert len(records) == 39
    assert len(batches(records, backend, training=False)[0]) == 8


def test_a_dangling_link_is_an_error_that_can_be_skipped(root, tmp_path, caplog):
    (root / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    records = ImageFolder(root)
    with pytest.raises(RecordError, match=r"gone\.jpg: the file that it links to does not exist"):
        Loader(records, PIPELINE, 5)
    with caplog.at_level(logging.WARNING, "pretexture.loader"):
        _, stats = batches(records, on_error="skip")
    assert stats.skipped == 1
    assert "a file is left out" in caplog.text
    assert "gone.jpg" in caplog.text


def test_what_is_no_regular_file_is_an_error(root):
    os.mkfifo(str(root / "a" / "pipe.jpg"))
    with pytest.raises(RecordError, match=r"pipe\.jpg: is not a regular file"):
        len(ImageFolder(root))


def test_a_folder_that_cannot_be_listed_is_an_error(root, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(image_folder.os, "scandir", refuse)
    for on_error in ("raise", "skip"):
        with pytest.raises(OSError, match=r"cannot be listed: .*/b: Permission denied"):
            Loader(ImageFolder(root), PIPELINE, 5, on_error=on_error)


@pytest.mark.parametrize("kind", ["damaged", "empty"])
def test_an_image_that_cannot_be_used_is_named_by_its_path(root, backend, kind):
    path = root / "a" / "10.jpg"
    path.write_bytes(b"\xff\xd8\xff\xd9" if kind == "damaged" else b"")
    records = ImageFolder(root)
    with pytest.raises(RecordError) as caught:
        batches(records, backend, training=False)
    assert (caught.value.path, caught.value.offset) == (str(path), None)
    assert str(caught.value).startswith(f"{path} (record {caught.value.record}): ")
    _, stats = batches(records, backend, training=False, on_error="skip")
    assert stats.skipped == 1


@pytest.mark.parametrize("how", ["longer", "same size", "gone"])
def test_a_file_that_changed_after_it_was_listed_is_an_error_even_with_skip(
    root, images, backend, how
):
    records = ImageFolder(root)
    assert len(records) == 37
    path = root / "a" / "10.jpg"
    if how == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data if how == "same size" else data + b"\n")
        os.utime(str(path), ns=(1, 1))
    with pytest.raises(RecordError) as caught:
        batches(records, backend, training=False, on_error="skip")
    assert caught.value.path == str(path)
    expected = "No such file" if how == "gone" else "has changed since its folder was indexed"
    assert expected in caught.value.reason


def test_the_list_is_kept_until_a_folder_changes(root, images, monkeypatch, caplog):
    assert len(ImageFolder(root)) == 37
    listed = []
    original = image_folder._Lister.list
    monkeypatch.setattr(
        image_folder._Lister, "list", lambda self: listed.append(1) or original(self)
    )
    records = ImageFolder(root)
    assert len(records) == 37
    assert not listed
    first = names(records)
    assert first == sorted(first)

    write(root / "b" / "new.jpg", images[0])
    assert len(ImageFolder(root)) == 38
    assert len(listed) == 1
    # The folder changed a moment ago and may change again at the same time, so nothing was kept.
    assert len(ImageFolder(root)) == 38
    assert len(listed) == 2
    settle(root, 50)
    assert len(ImageFolder(root)) == 38
    assert len(ImageFolder(root)) == 38
    assert len(listed) == 3


def test_the_version_changes_with_the_files(root, images):
    version = ImageFolder(root).version
    assert version == ImageFolder(root).version != ""
    assert ImageFolder(root, classes=["c", "b", "a"]).version != version  # other labels
    path = root / "a" / "1.jpg"
    path.rename(root / "a" / "one.jpg")
    renamed = ImageFolder(root, refresh=True).version
    assert renamed != version
    (root / "a" / "one.jpg").write_bytes(images[5])
    assert ImageFolder(root, refresh=True).version not in (version, renamed)


def test_refresh_looks_at_all_files_again(root, backend):
    assert len(ImageFolder(root)) == 37
    path = root / "a" / "10.jpg"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(RecordError, match=r"refresh=True"):
        batches(ImageFolder(root), backend, training=False)
    batches(ImageFolder(root, refresh=True), backend, training=False)
    batches(ImageFolder(root), backend, training=False)  # what it found is kept


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_list_is_made_again(root, tmp_path, damage, caplog):
    cache = tmp_path / "cache"
    expected = names(ImageFolder(root, cache_dir=cache))
    (cached,) = cache.glob("files-*.bin")
    data = bytearray(cached.read_bytes())
    if damage == "cut":
        data = data[:-9]
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data = bytearray() if damage == "empty" else bytearray(b"PTXINDX2" + bytes(100))
    cached.write_bytes(data)
    assert names(ImageFolder(root, cache_dir=cache)) == expected
    assert "is rebuilt, because it is damaged" in caplog.text
    caplog.clear()
    assert names(ImageFolder(root, cache_dir=cache)) == expected
    assert not caplog.text


def test_a_list_whose_numbers_do_not_fit_together_is_refused(root, tmp_path):
    listing, _ = image_folder._Lister(str(root)).list()
    path = str(tmp_path / "list.bin")
    wrong = [
        listing._replace(folders=listing.folders + b"x\0"),
        listing._replace(names=listing.names[:-1]),
        listing._replace(classes=b"\0" + listing.classes),
        listing._replace(begin=listing.begin[::-1]),
        listing._replace(begin=listing.begin + np.uint64(1)),
        listing._replace(files=-listing.files),
        listing._replace(files=listing.files[:-1]),
    ]
    for one in wrong:
        image_folder._save(one, path)
        with pytest.raises(ValueError, match=r"it does not|impossible"):
            image_folder.read_listing(path)
    image_folder._save(listing, path)
    assert image_folder.read_listing(path).names == listing.names


def test_no_file_stays_open(root):
    def open_files():
        found = []
        for entry in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink("/proc/self/fd/" + entry))
            except OSError:
                continue
        return [path for path in found if path.startswith(str(root))]

    with Loader(ImageFolder(root), PIPELINE, 5, training=False, threads=1, prefetch=1) as loader:
        for _ in loader:
            # One image is being read, at most.
            assert len(open_files()) <= 1


def test_parts_are_spread_evenly_and_disjoint(tmp_path, images):
    for number in range(103):
        write(tmp_path / "ab"[number % 2] / f"{number:04}.jpg", images[0])
    everything = ImageFolder(tmp_path)
    train, val = ImageFolder(tmp_path, part="train"), ImageFolder(tmp_path, part="val")
    held_out = names(val)
    assert len(held_out) == round(103 * 40 / 1024) == 4
    assert sorted(names(train) + held_out) == sorted(names(everything))
    assert [record.label for record in val] == [0, 0, 1, 1]
    assert train.classes == val.classes == everything.classes
    assert not set(train.parts) & set(val.parts)
    assert set(train.parts) | set(val.parts) == set(everything.parts)
    with Loader(val, PIPELINE, 4, training=False) as loader:
        assert next(iter(loader)).label.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="part must be"):
        ImageFolder(tmp_path, part="test")


def test_the_row_index_changes_no_pixel_and_is_made_at_once(tmp_path):
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(0)
    for number in range(6):
        file = io.BytesIO()
        coarse = image.fromarray(random.randint(0, 256, (40, 50, 3)).astype(np.uint8))
        coarse.resize((800, 600), image.BICUBIC).save(file, "JPEG", quality=95)
        write(tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg", file.getvalue())
    cache = tmp_path / "cache"
    records = ImageFolder(tmp_path / "data", cache_dir=cache)
    expected, _ = batches(ImageFolder(tmp_path / "data", row_index="off"), batch_size=2)
    assert not list(cache.glob("rows-*"))
    assert index_rows(records) == (6, 0)
    ours, stats = batches(records, batch_size=2)
    same(ours, expected)
    assert stats.jumps > 0
    assert len(list(cache.glob("rows-*"))) == 2


def test_what_is_no_image_folder_is_refused(tmp_path, images):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ImageFolder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "loose" / "x.jpg", images[0])
    for name in ("empty", "loose"):
        with pytest.raises(FileNotFoundError, match=r"no images in class folders"):
            len(ImageFolder(tmp_path / name))
    for url in ("s3://bucket/train", "https://user:secret@host/train"):
        with pytest.raises(ValueError, match="copy it here, or make shards of it") as caught:
            ImageFolder(url)
        assert "secret" not in str(caught.value)


def test_it_is_a_sequence(root, tmp_path):
    records = ImageFolder(root)
    last = str(root / "c" / "9.jpg")
    with open(last, "rb") as file:
        assert records[-1] == Record(file.read(), 2, last, 0)
    assert len(records[10:20]) == 10
    shutil.rmtree(str(root / "c"))
    with pytest.raises(RecordError, match="No such file"):
        records[-1]
