"""`pretexture prepare` with labels from a list: ILSVRC's, Kaggle's and Tiny ImageNet's layouts."""

import json

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("google.protobuf")

from PIL import Image
from pretexture.loader import TFRecords, imagenet
from pretexture.loader.prepare import labels
from pretexture.scripts import prepare

SYNSETS = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(path, seed):
    """Writes an image; returns the bytes of its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.RandomState(seed).randint(60, 196, (3, 4, 3)).astype(np.uint8)
    Image.fromarray(values).resize((32, 24)).save(str(path))
    return path.read_bytes()


def run(*arguments):
    return prepare.main([str(argument) for argument in arguments] + ["--workers", "1"])


def held_out(out):
    """The labels of the validation images, by contents."""
    return {record.image: record.label for record in imagenet(out, "test")}


def classes(out):
    return json.loads((out / "dataset.json").read_text())["classes"]


@pytest.fixture
def ilsvrc(tmp_path):
    """ILSVRC's layout: class folders in train, and images without classes in val."""
    src = tmp_path / "CLS-LOC"
    for number, synset in enumerate(SYNSETS):
        for i in range(3):
            save(src / "train" / synset / f"{synset}_{i}.JPEG", 10 * number + i)
    images = [save(src / "val" / f"ILSVRC2012_val_{i:08}.JPEG", 100 + i) for i in range(1, 6)]
    return src, images


EXPECTED = [2, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "name, text",
    [
        ("synsets.txt", "\n".join(SYNSETS[i] for i in EXPECTED) + "\n"),
        ("numbers.txt", "\n".join(map(str, EXPECTED))),
        (
            "LOC_val_solution.csv",  # Kaggle's, whose rows have no order
            "ImageId,PredictionString\n"
            + "".join(
                f"ILSVRC2012_val_{i:08},{SYNSETS[label]} 85 1 499 272 {SYNSETS[label]} 1 2 3 4 \n"
                for i, label in reversed(list(enumerate(EXPECTED, 1)))
            ),
        ),
        (
            "plain.csv",
            "".join(
                f"ILSVRC2012_val_{i:08}.JPEG,{SYNSETS[label]}\r\n"
                for i, label in enumerate(EXPECTED, 1)
            ),
        ),
        (
            "unknown.csv",  # of two columns, one is known
            "Photograph,Class\n"
            + "".join(
                f"ILSVRC2012_val_{i:08}.JPEG,{SYNSETS[label]}\n"
                for i, label in enumerate(EXPECTED, 1)
            ),
        ),
        (
            "columns.csv",
            "label,split,file\n"
            + "".join(
                f'"{SYNSETS[label]}",val,val/ILSVRC2012_val_{i:08}.JPEG\n'
                for i, label in enumerate(EXPECTED, 1)
            ),
        ),
        (
            "val.txt",  # Caffe's
            "".join(f"ILSVRC2012_val_{i:08}.JPEG {label}\n" for i, label in enumerate(EXPECTED, 1)),
        ),
    ],
)
def test_ilsvrc_validation_images_get_their_labels_from_a_list(ilsvrc, tmp_path, name, text):
    src, images = ilsvrc
    (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    assert run(src, out, "--labels", tmp_path / name) == 0
    assert held_out(out) == dict(zip(images, EXPECTED))
    assert classes(out) == list(SYNSETS)
    assert len(imagenet(out, "trainval")) == 9


def test_without_a_list_the_flag_is_named(ilsvrc, tmp_path):
    with pytest.raises(SystemExit, match=r"holds images outside class folders.*--labels FILE"):
        run(ilsvrc[0], tmp_path / "out")


@pytest.mark.parametrize(
    "text, message",
    [
        ("n01440764\n", "has 1 labels for 5 images"),
        ("1\n2\n3\n1\n2\n", "those of ILSVRC's development kit"),
        ("0\n1\n2\n3\n0\n", "has numbers from 0 to 3 for 3 class folders"),
        ("n01440764\n" * 4 + "cat\n", "has the label 'cat', but there is no such class folder"),
        ("\n \n", "has no labels"),
        ("a.jpg,n01440764\n", "names none of the images"),
        ("ILSVRC2012_val_00000001,n01440764\n", "00000002.JPEG is not in .*--on-error skip"),
        ("ILSVRC2012_val_00000001,\n", "row 1 has no image or no label"),
        ("file,label\na\n", "row 2 has no image or no label"),
        ("photo,split,label\na.jpg,val,n01440764\n", "has the columns photo, split, label; call"),
        ("file,label\n", "has no labels"),
        ("file,one,two\na,b,c\n", "has the columns file, one, two; call that of"),
        ("a,n01440764\na,n01443537\n", "a has the labels n01440764 and n01443537"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(ilsvrc, tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(SystemExit, match=message):
        run(ilsvrc[0], tmp_path / "out", "--labels", tmp_path / "list.csv")


def test_images_that_are_not_in_the_list_can_be_left_out(ilsvrc, tmp_path):
    src, images = ilsvrc
    (tmp_path / "list.csv").write_text("ILSVRC2012_val_00000002,n01484850\n")
    out = tmp_path / "out"
    assert run(src, out, "--labels", tmp_path / "list.csv", "--on-error", "skip") == 0
    assert held_out(out) == {images[1]: 2}
    skipped = json.loads((out / "dataset.json").read_text())["skipped"]
    assert len(skipped) == 4
    assert "is not in" in skipped["val/ILSVRC2012_val_00000001.JPEG"]


def test_a_list_without_images_to_label_is_an_error(ilsvrc, tmp_path):
    (tmp_path / "list.txt").write_text("n01440764\n")
    with pytest.raises(SystemExit, match="all images lie in class folders"):
        run(ilsvrc[0] / "train", tmp_path / "out", "--labels", tmp_path / "list.txt")
    with pytest.raises(SystemExit, match="No such file"):
        run(ilsvrc[0], tmp_path / "out", "--labels", tmp_path / "none.txt")
    with pytest.raises(SystemExit):
        prepare.main(["--demo", str(tmp_path / "out"), "--labels", str(tmp_path / "list.txt")])


def test_kaggles_table_labels_images_of_training(tmp_path):
    # As in CIFAR-10: train/N.png and trainLabels.csv, numbers in the order of values.
    src, out = tmp_path / "src", tmp_path / "out"
    images = {save(src / "train" / f"{i}.png", i): i for i in range(1, 25)}
    rows = "".join(f"{i},{i % 12}\n" for i in images.values())
    (tmp_path / "trainLabels.csv").write_text("id,label\n" + rows)
    assert run(src, out, "--labels", tmp_path / "trainLabels.csv") == 0
    assert classes(out) == [str(label) for label in range(12)]
    found = [record.label for split in ("trainval", "test") for record in imagenet(out, split)]
    assert sorted(found) == sorted([i % 12 for i in images.values()])


def test_one_table_labels_images_of_training_and_validation(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    train = [save(src / "train" / f"a{i}.jpg", i) for i in range(4)]
    val = [save(src / "val" / f"b{i}.jpg", 10 + i) for i in range(2)]
    (tmp_path / "all.tsv").write_text(
        "image\tbreed\n" + "a0\tpug\na1\tcorgi\na2\tpug\na3\tcorgi\nb0\tpug\nb1\tcorgi\n"
    )
    assert run(src, out, "--labels", tmp_path / "all.tsv") == 0
    assert classes(out) == ["corgi", "pug"]
    assert held_out(out) == dict(zip(val, [1, 0]))
    assert {record.image: record.label for record in imagenet(out, "trainval")} == dict(
        zip(train, [1, 0, 1, 0])
    )
    (tmp_path / "lines.txt").write_text("pug\n" * 4)
    with pytest.raises(SystemExit, match="two folders of images without classes"):
        run(src, tmp_path / "other", "--labels", tmp_path / "lines.txt")


def test_tiny_imagenets_layout_is_known(tmp_path, capsys):
    src, out = tmp_path / "tiny-imagenet-200", tmp_path / "out"
    for number, synset in enumerate(SYNSETS):
        for i in range(3):
            save(src / "train" / synset / "images" / f"{synset}_{i}.JPEG", 10 * number + i)
        (src / "train" / synset / f"{synset}_boxes.txt").write_text("0\t0\t1\t1\n")
    images = [save(src / "val" / "images" / f"val_{i}.JPEG", 100 + i) for i in range(5)]
    for i in range(2):
        save(src / "test" / "images" / f"test_{i}.JPEG", 200 + i)
    rows = [f"val_{i}.JPEG\t{SYNSETS[label]}\t0\t32\t44\t62\n" for i, label in enumerate(EXPECTED)]
    (src / "val" / "val_annotations.txt").write_text("".join(rows))
    (src / "wnids.txt").write_text("".join(f"{synset}\n" for synset in reversed(SYNSETS)))
    assert run(src, out) == 0
    assert held_out(out) == dict(zip(images, EXPECTED))
    assert classes(out) == list(SYNSETS)
    assert "val_annotations" not in capsys.readouterr().out


def test_an_interrupted_conversion_is_resumed_only_with_the_same_labels(ilsvrc, tmp_path):
    src, _ = ilsvrc
    path, out = tmp_path / "synsets.txt", tmp_path / "out"
    path.write_text("\n".join(SYNSETS[i] for i in EXPECTED))
    assert run(src, out, "--labels", path) == 0
    before = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("*-of-*")}
    assert run(src, out, "--labels", path) == 0
    assert before == {shard.name: shard.stat().st_mtime_ns for shard in out.glob("*-of-*")}
    path.write_text("\n".join(SYNSETS[i] for i in reversed(EXPECTED)))
    with pytest.raises(SystemExit, match="--force"):
        run(src, out, "--labels", path)
    assert run(src, out, "--labels", path, "--force") == 0
    assert len(TFRecords(str(out / "validation-*"))) == 5


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbffile,label\r\na.jpg,pug\r\n")
    assert labels.read_labels(str(tmp_path / "list.csv")).by_name == {"a.jpg": "pug"}
