import errno
import importlib.util
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("google.protobuf")

import prepare_kills
from PIL import Image
from pretexture.loader import TFRecords, _core, imagenet
from pretexture.loader.prepare import demo_images, image_folder
from pretexture.loader.prepare.image_folder import Limits
from pretexture.loader.shards.writer import parse_example
from pretexture.scripts import prepare

KEYS = {
    "image/encoded",
    "image/format",
    "image/height",
    "image/width",
    "image/colorspace",
    "image/channels",
    "image/filename",
    "image/class/label",
    "image/class/synset",
    "image/class/text",
}


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(seed, height=24, width=32, channels=3):
    """A smooth image, which JPEG changes little."""
    values = np.random.RandomState(seed).randint(60, 196, (3, 4, channels), np.uint8)
    small = Image.frombytes({1: "L", 3: "RGB", 4: "CMYK"}[channels], (4, 3), values.tobytes())
    return small.resize((width, height), Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.read_bytes()


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def make_classes(root, count=4, classes=("ape", "bee")):
    """Writes root/class/N.jpg; returns the contents of the files by name relative to root."""
    return {
        f"{name}/{i}.jpg": save(root / name / f"{i}.jpg", pixels(100 * k + i))
        for k, name in enumerate(classes)
        for i in range(count)
    }


def run(*arguments):
    return prepare.main([str(argument) for argument in arguments] + ["--workers", "1"])


def features(out, split):
    records = TFRecords(str(out / f"{split}-*"))
    index = records.shard_index()
    for i in range(len(records)):
        shard, offset, length = index.locate(i)
        path = records.paths[shard]
        yield parse_example(_core.read_record(path, offset, length, True))


def by_name(out, split):
    return {found["image/filename"][0].decode(): found for found in features(out, split)}


def description(out):
    return json.loads((out / "dataset.json").read_text())


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("[tv]*-*-of-*")}


def test_records_have_the_layout_of_tf_slim(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    files = make_classes(src / "train")
    held_out = make_classes(src / "val", 2, ("bee",))
    assert run(src, out, "--train-shards", 3, "--validation-shards", 1) == 0

    assert sorted(contents(out)) == [
        *(f"train-0000{i}-of-00003" for i in range(3)),
        "validation-00000-of-00001",
    ]
    found = by_name(out, "train")
    assert {f"train/{name}": data for name, data in files.items()} == {
        name: example["image/encoded"][0] for name, example in found.items()
    }
    for name, example in found.items():
        class_name = name.split("/")[1]
        assert set(example) == KEYS
        assert example["image/class/label"] == [{"ape": 1, "bee": 2}[class_name]]
        assert example["image/class/synset"] == example["image/class/text"] == [class_name.encode()]
        assert (example["image/height"], example["image/width"]) == ([24], [32])
        assert (example["image/format"], example["image/colorspace"]) == ([b"JPEG"], [b"RGB"])
        assert example["image/channels"] == [3]
    assert set(by_name(out, "validation")) == {f"val/{name}" for name in held_out}

    about = description(out)
    assert about["classes"] == ["ape", "bee"]
    assert about["splits"]["train"]["records"] == 8
    assert about["splits"]["validation"]["records"] == 2
    assert about["splits"]["train"]["shards"] == [f"train-0000{i}-of-00003" for i in range(3)]
    assert about["skipped"] == {}


def test_shards_are_read_by_tensorflow_and_the_loader(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    make_classes(src, 10)
    assert run(src, out) == 0
    assert {record.label for record in imagenet(out, "trainval")} == {0, 1}
    assert len(imagenet(out, "trainval")) == 18
    assert len(imagenet(out, "test")) == 2
    tf = pytest.importorskip("tensorflow")
    for path in out.glob("train-*"):
        for data in tf.compat.v1.io.tf_record_iterator(str(path)):
            feature = tf.train.Example.FromString(data).features.feature
            (encoded,) = feature["image/encoded"].bytes_list.value
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                image = session.run(tf.io.decode_jpeg(encoded))
            assert image.shape == (24, 32, 3)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"exif": b"broken"}],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_stored_unchanged(tmp_path, options, channels):
    data = save(tmp_path / "a.jpg", pixels(0, channels=channels), **options)
    jpeg = image_folder.as_jpeg(str(tmp_path / "a.jpg"))
    assert jpeg == (data, 24, 32, False)


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def assert_shows(jpeg, expected, levels=6):
    assert jpeg.encoded_anew
    with Image.open(io.BytesIO(jpeg.data)) as image:
        assert image.format == "JPEG"
        assert image.mode in ("RGB", "L")
        found = np.asarray(image.convert("RGB")).astype(int)
    expected = np.asarray(expected).astype(int)
    if expected.ndim == 2:
        expected = np.repeat(expected[:, :, None], 3, axis=2)
    assert found.shape == expected.shape == (jpeg.height, jpeg.width, 3)
    assert np.abs(found - expected).max() <= levels


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "ppm"])
def test_other_formats_are_encoded_as_jpeg(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, pixels(1), **({"lossless": True} if suffix == "webp" else {}))
    assert_shows(image_folder.as_jpeg(str(path)), pixels(1))


def test_a_photograph_with_an_orientation_is_turned_upright(tmp_path):
    path = tmp_path / "a.jpg"
    save(path, pixels(2), quality=95, subsampling=0, exif=with_orientation(6))
    # Orientation 6 means that the camera was turned, so the image needs a quarter turn clockwise.
    assert_shows(image_folder.as_jpeg(str(path)), np.rot90(np.asarray(pixels(2)), -1))


@pytest.mark.parametrize("width, height", [(640, 400), (400, 640)])
def test_images_larger_than_max_side_are_resized_with_antialiasing(tmp_path, width, height):
    cv2 = pytest.importorskip("cv2")
    # The stripes are too narrow for the smaller size, so antialiasing makes them grey.
    stripes = np.zeros((height, width, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[: height // 2] = (40, 90, 160)
    save(tmp_path / "a.jpg", Image.fromarray(stripes), quality=100, subsampling=0)
    jpeg = image_folder.as_jpeg(str(tmp_path / "a.jpg"), Limits(max_side=320))
    assert max(jpeg.height, jpeg.width) == 320
    assert (jpeg.height, jpeg.width) == (height // 2, width // 2)
    expected = cv2.resize(stripes, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    middle = height // 4
    with Image.open(io.BytesIO(jpeg.data)) as image:
        found = np.asarray(image).astype(int)
    difference = np.abs(found - expected.astype(int))
    difference[middle - 4 : middle + 4] = 0  # the two filters differ at the edges
    difference[:, :4] = difference[:, -4:] = 0
    assert difference.max() <= 12


def test_an_image_of_exactly_max_side_is_stored_unchanged(tmp_path):
    data = save(tmp_path / "a.jpg", pixels(0))
    assert image_folder.as_jpeg(str(tmp_path / "a.jpg"), Limits(max_side=32)).data == data


def test_quality_applies_to_the_images_that_are_encoded(tmp_path):
    save(tmp_path / "a.png", pixels(1))
    sizes = []
    for quality in (30, 90):
        jpeg = image_folder.as_jpeg(str(tmp_path / "a.png"), Limits(quality=quality))
        with Image.open(io.BytesIO(jpeg.data)) as image:
            # libjpeg scales the first entry of its table, which is 16 at quality 50.
            scale = 5000 / quality if quality < 50 else 200 - 2 * quality
            assert image.quantization[0][0] == int((16 * scale + 50) / 100)
        sizes.append(len(jpeg.data))
    assert sizes[0] < sizes[1]


def test_another_max_side_means_other_shards(tmp_path):
    save(tmp_path / "in" / "a" / "1.jpg", Image.fromarray(np.zeros((300, 700, 3), np.uint8)))
    arguments = (tmp_path / "in", tmp_path / "out", "--validation-fraction", 0)
    assert run(*arguments) == 0
    with pytest.raises(SystemExit, match="shards of other images or settings"):
        run(*arguments, "--max-side", 512)
    assert run(*arguments, "--max-side", 512, "--force") == 0
    (record,) = TFRecords(tmp_path / "out" / "train-*")
    assert _core.image_size(record.image) == (219, 512)
    with pytest.raises(SystemExit, match="quality must be from 1 to 100, not 101"):
        run(*arguments, "--quality", 101)


def test_transparent_pixels_become_white(tmp_path):
    image = np.zeros((16, 16, 4), np.uint8)
    image[:, 8:] = (200, 100, 50, 255)
    save(tmp_path / "a.png", Image.fromarray(image))
    expected = np.full((16, 16, 3), 255)
    expected[:, 8:] = (200, 100, 50)
    assert_shows(image_folder.as_jpeg(str(tmp_path / "a.png")), expected)


def test_grey_images_of_1_8_and_16_bits_are_converted(tmp_path):
    ramp = np.arange(256, dtype=np.uint16)[None].repeat(16, 0)
    save(tmp_path / "16.png", Image.fromarray(ramp * 257))
    save(tmp_path / "8.png", Image.fromarray(ramp.astype(np.uint8)))
    save(tmp_path / "1.png", Image.fromarray(ramp.astype(np.uint8)).convert("1", dither=0))
    assert_shows(image_folder.as_jpeg(str(tmp_path / "16.png")), ramp)
    assert_shows(image_folder.as_jpeg(str(tmp_path / "8.png")), ramp)
    assert_shows(image_folder.as_jpeg(str(tmp_path / "1.png")), ramp // 128 * 255)


def test_cmyk_becomes_rgb(tmp_path):
    image = pixels(3, channels=4)
    save(tmp_path / "a.jpg", image, quality=100, subsampling=0)
    inks = np.asarray(image).astype(float) / 255
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    assert_shows(image_folder.as_jpeg(str(tmp_path / "a.jpg")), expected.round())


def test_ycck_becomes_rgb_as_the_loader_decodes_it(tmp_path):
    data = bytearray(encoded(pixels(3, channels=4), quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2  # its colour transform is YCCK
    (tmp_path / "a.jpg").write_bytes(data)
    expected = _core.decode_jpeg(bytes(data))
    assert_shows(image_folder.as_jpeg(str(tmp_path / "a.jpg")), expected)


BROKEN = {
    "empty.jpg": b"",
    "text.jpg": b"not an image at all",
    "cut.jpg": encoded(pixels(4, 200, 200))[:-300],
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named_and_leaves_no_shard(tmp_path, name, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    make_classes(src)
    (src / "ape" / name).write_bytes(BROKEN[name])
    with pytest.raises(SystemExit) as error:
        run(src, out, "--train-shards", 1, "--validation-fraction", 0)
    assert f"src/ape/{name}: " in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in out.iterdir()] == [".prepare.json"]


def test_broken_images_can_be_left_out_and_are_listed(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    files = make_classes(src)
    for name, data in BROKEN.items():
        (src / "bee" / name).write_bytes(data)
    arguments = (src, out, "--train-shards", 2, "--validation-fraction", 0)
    assert run(*arguments, "--on-error", "skip") == 0
    assert set(by_name(out, "train")) == set(files)
    about = description(out)
    assert set(about["skipped"]) == {f"bee/{name}" for name in BROKEN}
    assert about["splits"]["train"]["records"] == 8
    assert "4 images or folders left out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(*arguments)  # shards that lack images are not finished if such images are errors


def test_shards_may_have_no_usable_image(tmp_path):
    arguments = ("--train-shards", 4, "--validation-fraction", 0, "--on-error", "skip")
    for number in range(3):
        save(tmp_path / "src" / "a" / f"{number}.jpg", pixels(number))
    (tmp_path / "src" / "a" / "bad.jpg").write_bytes(b"")
    assert run(tmp_path / "src", tmp_path / "out", *arguments) == 0
    about = description(tmp_path / "out")
    assert about["splits"]["train"]["records"] == 3
    assert about["splits"]["train"]["shards"] == [f"train-0000{i}-of-00003" for i in range(3)]
    assert sorted(shard.name for shard in (tmp_path / "out").glob("train-*")) == [
        f"train-0000{i}-of-00003" for i in range(3)
    ]
    assert list(about["skipped"]) == ["a/bad.jpg"]
    # The same command has nothing to do, and another number of workers gives the same bytes.
    shards = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("train-*")}
    assert run(tmp_path / "src", tmp_path / "out", *arguments) == 0
    assert run(tmp_path / "src", tmp_path / "other", *arguments, "--workers", 2) == 0
    for folder in ("out", "other"):
        found = {path.name: path.read_bytes() for path in (tmp_path / folder).glob("train-*")}
        assert found == shards


def test_no_usable_training_image_is_an_error(tmp_path):
    (tmp_path / "src" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "src" / "a" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"\.jpg: .*nor can any other image for training be used"):
        run(tmp_path / "src", tmp_path / "out", "--on-error", "skip", "--validation-fraction", 0)


def test_small_sets_with_broken_images_are_converted_with_any_seed(tmp_path):
    for number in range(18):
        save(tmp_path / "src" / "a" / f"{number}.jpg", pixels(number))
    for number in range(2):
        (tmp_path / "src" / "a" / f"bad{number}.jpg").write_bytes(b"")
    for seed in range(4):
        out = tmp_path / str(seed)
        assert run(tmp_path / "src", out, "--on-error", "skip", "--seed", seed) == 0
        splits = description(out)["splits"].values()
        assert sum(split["records"] for split in splits) == 18


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train", "valid"), ("Training", "Test"), ("TRAIN", "Validation"), ("train", "testing")],
)
def test_usual_split_names_are_known_in_any_letter_case(train, held_out, tmp_path):
    for split, count in ((train, 4), (held_out, 2)):
        for name in ("a", "b"):
            for number in range(count):
                save(tmp_path / "src" / split / name / f"{number}.jpg", pixels(number))
    assert run(tmp_path / "src", tmp_path / "out") == 0
    about = description(tmp_path / "out")
    assert about["classes"] == ["a", "b"]
    assert {split: rows["records"] for split, rows in about["splits"].items()} == {
        "train": 8,
        "validation": 4,
    }


def test_folders_beside_those_of_the_splits_are_named(tmp_path, capsys):
    for name in ("train/a", "train/b", "dev/a", "training/a"):
        for number in range(4):
            save(tmp_path / "src" / name / f"{number}.jpg", pixels(number))
    assert run(tmp_path / "src", tmp_path / "out") == 0
    said = capsys.readouterr().err
    for name in ("dev", "training"):
        assert f"the folder {name} is neither train nor one for validation and is left out" in said


@pytest.mark.parametrize("arguments", [["SRC", "s3://b/out"], ["s3://b/in", "OUT"]])
def test_urls_are_refused_before_anything_is_written(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "SRC" / "a" / "1.jpg", pixels(1))
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "must be a path on this machine, not s3://b/" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["SRC"]


def test_ambiguous_layouts_give_a_warning(tmp_path, capsys):
    for name in ("val/a", "val/b", "photos/1", "photos/2"):
        save(tmp_path / "src" / name / "x.jpg", pixels(1))
    assert run(tmp_path / "src", tmp_path / "out", "--validation-fraction", 0) == 0
    said = capsys.readouterr().err
    assert "the classes val have the names of splits" in said
    assert f"if those are the classes, give {tmp_path / 'src' / 'photos'}" in said


def test_two_split_folders_that_differ_only_in_letter_case_are_refused(tmp_path):
    for name in ("train/a", "Train/a", "val/a"):
        save(tmp_path / "src" / name / "x.jpg", pixels(1))
    with pytest.raises(SystemExit, match=r"has the folders .*; keep one of them"):
        run(tmp_path / "src", tmp_path / "out")


@pytest.fixture
def unlistable(monkeypatch):
    """unlistable(path): listing that folder is an error, even for root."""
    listdir, refused = os.listdir, set()

    def listing(path="."):
        if os.path.abspath(os.fspath(path)) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", listing)
    return lambda path: refused.add(str(path))


def test_an_unreadable_class_does_not_shift_other_labels(tmp_path, unlistable, capsys):
    for name in ("a", "b", "c"):
        for number in range(3):
            save(tmp_path / "src" / name / f"{number}.jpg", pixels(number))
    unlistable(tmp_path / "src" / "b")
    arguments = (tmp_path / "src", tmp_path / "out", "--validation-fraction", 0)
    with pytest.raises(SystemExit, match=r"src/b: Permission denied; --on-error skip leaves it"):
        run(*arguments)
    assert run(*arguments, "--on-error", "skip") == 0
    about = description(tmp_path / "out")
    assert about["classes"] == ["a", "b", "c"]
    assert list(about["skipped"]) == ["b"]
    labels = {
        found["image/class/text"][0]: found["image/class/label"][0]
        for found in features(tmp_path / "out", "train")
    }
    assert labels == {b"a": 1, b"c": 3}
    assert "src/b: Permission denied" in capsys.readouterr().out


def test_links_pipes_and_sockets_are_reported_without_blocking(tmp_path):
    folder = tmp_path / "src" / "a"
    for number in range(3):
        save(folder / f"{number}.jpg", pixels(number))
    (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(str(folder / "pipe.jpg"))
    arguments = (tmp_path / "src", tmp_path / "out", "--validation-fraction", 0)
    with pytest.raises(SystemExit, match=r"src/a/\w+\.jpg: .*; --on-error skip leaves it out"):
        run(*arguments)
    assert run(*arguments, "--on-error", "skip") == 0
    skipped = description(tmp_path / "out")["skipped"]
    assert set(skipped) == {f"a/{name}.jpg" for name in ("dangling", "circle", "device", "pipe")}
    assert "not a regular file" in skipped["a/pipe.jpg"]


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_an_upright_or_invalid_orientation_is_ignored(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pixels(0).save(buffer, "JPEG", exif=exif)
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "x.jpg").write_bytes(buffer.getvalue())
    assert run(tmp_path / "src", tmp_path / "out", "--validation-fraction", 0) == 0
    (found,) = features(tmp_path / "out", "train")
    assert found["image/encoded"] == [buffer.getvalue()]


def test_max_pixels_is_the_only_limit_on_image_size(tmp_path):
    Image.new("L", (200, 100)).save(make(tmp_path / "src" / "a") / "large.png")
    Image.new("L", (199, 100)).save(tmp_path / "src" / "a" / "fits.png")
    before = Image.MAX_IMAGE_PIXELS
    arguments = (tmp_path / "src", tmp_path / "out", "--validation-fraction", 0)
    limit = ("--max-pixels", 19999)
    with pytest.raises(SystemExit, match="claims 200x100 pixels, more than max_pixels=19999"):
        run(*arguments, *limit)
    assert run(*arguments, *limit, "--on-error", "skip") == 0
    assert list(description(tmp_path / "out")["skipped"]) == ["a/large.png"]
    assert run(*arguments, "--max-pixels", 20000, "--force") == 0
    assert not description(tmp_path / "out")["skipped"]
    assert before == Image.MAX_IMAGE_PIXELS


def make(folder):
    folder.mkdir(parents=True)
    return folder


def test_names_are_escaped_on_the_terminal_and_stored_unchanged(tmp_path, capsys):
    names = [b"caf\xe9", "图像".encode("gbk"), b"\x1b[31mred"]
    for name in names:
        folder = os.fsdecode(os.path.join(os.fsencode(str(tmp_path / "src")), name))
        save(pathlib.Path(folder) / "x.jpg", pixels(0))
        (pathlib.Path(folder) / "bad.jpg").write_bytes(b"")
    assert (
        run(tmp_path / "src", tmp_path / "out", "--on-error", "skip", "--validation-fraction", 0)
        == 0
    )
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert r"caf\xe9" in said.out
    assert {f["image/class/text"][0] for f in features(tmp_path / "out", "train")} == set(names)
    classes = description(tmp_path / "out")["classes"]
    assert sorted(os.fsencode(name) for name in classes) == sorted(names)


def test_images_without_class_folders_form_one_class(tmp_path):
    for i in range(5):
        save(tmp_path / "src" / f"{i}.png", pixels(i))
    assert run(tmp_path / "src", tmp_path / "out", "--validation-fraction", 0) == 0
    assert description(tmp_path / "out")["classes"] == ["unlabelled"]
    assert [found["image/class/label"] for found in features(tmp_path / "out", "train")] == [
        [1]
    ] * 5
    assert not list((tmp_path / "out").glob("validation-*"))


def test_class_folders_are_searched_to_any_depth_without_hidden_files(tmp_path):
    src = tmp_path / "src"
    for name in ("a/x.jpg", "a/deep/er/y.JPEG", "b/.hidden.jpg", "b/z.png", ".git/w.jpg"):
        save(src / name, pixels(0), format="PNG" if name.endswith("png") else "JPEG")
    (src / "a" / "notes.txt").write_text("")
    (src / "c").mkdir()
    os.symlink("..", str(src / "a" / "loop"))
    found = image_folder.find(str(src), 0.0, 0)
    assert found.classes == ("a", "b")
    names = {(entry.name, entry.label) for entry in found.splits["train"]}
    assert names >= {("a/x.jpg", 0), ("a/deep/er/y.JPEG", 0), ("b/z.png", 1)}
    assert not [name for name, _ in names if "hidden" in name or ".git" in name]
    assert "a/notes.txt" in found.ignored


@pytest.mark.parametrize("count, fraction, expected", [(10, 0.2, 2), (5, 0.1, 1), (1, 0.5, 1)])
def test_every_class_has_the_same_share_held_out(tmp_path, count, fraction, expected):
    make_classes(tmp_path, count, "abcdefgh")
    found = image_folder.find(str(tmp_path), fraction, 0)
    held_out = [entry.label for entry in found.splits["validation"]]
    assert len(held_out) == round(8 * count * fraction)
    assert max(held_out.count(label) for label in range(8)) <= expected
    names = [entry.name for split in found.splits.values() for entry in split]
    assert len(set(names)) == len(names) == 8 * count


@pytest.mark.parametrize(
    "files, arguments, reason",
    [
        ([], [], "there is no folder"),
        (["a/x.txt"], [], "holds no images"),
        (["train/a/x.jpg", "val/b/y.jpg"], [], "val holds images of class 'b', .*train none"),
        (["train/a/x.jpg", "val/y.jpg"], [], "val holds images outside class folders"),
        (["train/a/x.jpg", "val/a/y.jpg"], ["--validation-fraction", "0.5"], "folder val"),
        (["a/x.jpg"], ["--validation-fraction", "1"], "from 0 to below 1, not 1"),
        (["a/x.jpg"], ["--validation-fraction", "0.9"], "leaves no image for training"),
    ],
)
def test_impossible_requests_are_errors_of_one_line(tmp_path, files, arguments, reason):
    for name in files:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(b"")
    with pytest.raises(SystemExit, match=reason) as error:
        run(tmp_path / "src", tmp_path / "out", *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["src"], ["src", "out", "--demo", "x"]])
def test_either_src_and_out_or_demo_is_required(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        prepare.main(arguments)
    assert error.value.code == 2
    assert "either SRC and OUT, or --demo DIR" in capsys.readouterr().err


def test_only_missing_shards_are_written_again(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    make_classes(src, 8)
    arguments = (src, out, "--train-shards", 4, "--validation-shards", 1)
    assert run(*arguments) == 0
    first, about = contents(out), description(out)
    stamps = {name: (out / name).stat().st_mtime_ns for name in first}

    (out / "train-00002-of-00004").unlink()
    (out / "train-00003-of-00004").write_bytes(b"cut short")
    (out / ".train-00002-of-00004.12345.part").write_bytes(b"left by a killed process")
    assert run(*arguments) == 0
    assert "3 of 5 shards are complete already" in capsys.readouterr().out
    assert contents(out) == first
    assert description(out) == about
    kept = [name for name in first if (out / name).stat().st_mtime_ns == stamps[name]]
    assert sorted(kept) == [
        "train-00000-of-00004",
        "train-00001-of-00004",
        "validation-00000-of-00001",
    ]
    assert not list(out.glob(".*.part"))


def test_shards_of_other_images_are_replaced_only_with_force(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    make_classes(src)
    assert run(src, out, "--train-shards", 3) == 0
    before = contents(out)
    save(src / "ape" / "one more.jpg", pixels(9))
    with pytest.raises(SystemExit, match=r"such as train-00000-of-00003: .*--force"):
        run(src, out, "--train-shards", 2)
    assert contents(out) == before
    assert run(src, out, "--train-shards", 2, "--force") == 0
    assert len(list(out.glob("train-*-of-*"))) == 2
    assert "ape/one more.jpg" in {**by_name(out, "train"), **by_name(out, "validation")}


def test_the_shards_depend_on_the_seed_but_not_on_the_number_of_workers(tmp_path):
    make_classes(tmp_path / "src", 6)
    outs = [tmp_path / name for name in ("a", "b", "c")]
    for out, seed, workers in zip(outs, (0, 0, 1), (1, 3, 1)):
        arguments = [tmp_path / "src", out, "--seed", seed, "--workers", workers]
        assert prepare.main([str(argument) for argument in arguments]) == 0
    first, again, other = (contents(out) for out in outs)
    assert first == again != other


def test_ctrl_c_leaves_whole_shards_and_the_same_command_resumes(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    (src / "a").mkdir(parents=True)
    noise = np.random.RandomState(0).randint(0, 256, (400, 400, 3), np.uint8)
    save(src / "a" / "0.png", Image.fromarray(noise), compress_level=1)
    for i in range(1, 120):
        os.link(str(src / "a" / "0.png"), str(src / "a" / f"{i}.png"))
    command = [sys.executable, prepare.__file__, str(src), str(out), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("train-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal, which signals the workers, too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"run the same command again to resume" in said
    assert b"Traceback" not in said
    assert not list(out.glob(".*.part"))
    assert not (out / "dataset.json").exists()
    before = contents(out)
    assert 0 < len(before) < 20
    TFRecords(str(out / "train-*")).shard_index()  # raises if a shard is incomplete
    assert subprocess.run([*command, "--workers", "2"], stderr=subprocess.PIPE).returncode == 0
    assert description(out)["splits"]["train"]["records"] == 108
    assert contents(out).items() >= before.items()


def test_demo_needs_no_download(tmp_path, monkeypatch):
    for package in ("skimage", "sklearn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(demo_images, "TRAIN", 4)
    monkeypatch.setattr(demo_images, "VALIDATION", 2)
    for out in (tmp_path / "a", tmp_path / "b"):
        assert prepare.main(["--demo", str(out), "--workers", "1"]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    about = description(tmp_path / "a")
    photographs = demo_images.PHOTOGRAPHS
    assert about["classes"] == sorted(photographs)
    assert about["splits"]["train"]["records"] == 4 * len(photographs)
    assert len(about["splits"]["train"]["shards"]) == 8
    assert len(about["splits"]["validation"]["shards"]) == 2
    sizes = {
        (found["image/height"][0], found["image/width"][0])
        for found in features(tmp_path / "a", "train")
    }
    assert len(sizes) > 20
    assert all(96 <= max(size) <= 500 for size in sizes)


def test_demo_has_about_a_thousand_images_and_splits_share_no_photograph():
    demo = demo_images
    assert 900 <= (demo.TRAIN + demo.VALIDATION) * len(demo.PHOTOGRAPHS) <= 1100
    disjoint = [
        photograph
        for photograph in demo.PHOTOGRAPHS.values()
        if photograph.spans["train"][1] <= photograph.spans["val"][0]
    ]
    assert len(disjoint) >= 2


def test_ten_kills_change_no_byte(tmp_path):
    kills, runs, differences = prepare_kills.kill(tmp_path, 10, 120, seed=1)
    assert kills == 10
    assert runs >= 1
    assert differences == []
