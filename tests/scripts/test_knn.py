import json
import os
import re

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import trained
from pretexture.loader import Loader, imagenet
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.scripts import knn as script
from pretexture.scripts import pretrain
from pretexture.trainers.exports.saved_model import export_run

CLASSES, TRAIN, TEST = 7, 63, 21
PIPELINE = "resize(32)|range(-1, 1)"


def write_shards(folder, labelled=True):
    """Shards of 40 x 40 images whose colour depends on their class."""
    random = np.random.RandomState(0)
    colours = random.uniform(40, 210, (CLASSES, 3))
    for name, count in {"train-00000-of-00001": TRAIN, "validation-00000-of-00001": TEST}.items():
        with TFRecordWriter(folder / name) as writer:
            for number in range(count):
                pixels = colours[number % CLASSES] + random.uniform(-60, 60, (40, 40, 3))
                features = {"image/encoded": trained.jpeg(pixels)}
                if labelled:
                    features["image/class/label"] = number % CLASSES + 1
                writer.write(example(features))
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def module(data, tmp_path_factory):
    """An export of an untrained ResNet, which tests must not change."""
    run = tmp_path_factory.mktemp("module")
    arguments = ["supervised-small", "--data", data, "--workdir", str(run), "--steps", "0"]
    arguments += ["--filters-factor", "0.25", "--batch-size", "8", "--train-split", "trainval"]
    arguments += ["--eval-split", "test", "--representation-pipeline", PIPELINE]
    assert pretrain.main([*arguments, "--device", "cpu"]) == 0
    return export_run(str(run), str(run / "export"))


def _vectors(module, data, split, name):
    """An end point of the SavedModel, float64 [N, values], and the labels."""
    with Loader(imagenet(data, split), PIPELINE, 100, training=False,
                drop_remainder=False) as loader:  # fmt: skip
        (batch,) = [(np.array(b.image), np.array(b.label)) for b in loader]
    (points,) = trained.use(module, batch[0])
    return points[name].reshape(len(batch[1]), -1).astype(np.float64), batch[1]


def test_results_are_those_of_scikit_learn_on_the_saved_model(module, data, tmp_path, capsys):
    classifiers = pytest.importorskip("sklearn.neighbors")
    out = tmp_path / "sub" / "knn.json"
    arguments = ["--module", module, "--data", data, "--device", "cpu", "--out", str(out)]
    # Few enough values not to be pooled.
    assert script.main([*arguments, "--end-points", "block3,block4"]) == 0
    results = json.loads(out.read_text())
    assert list(results["end_points"]) == ["block3", "block4"]
    counts = ("train_images", "images", "classes", "k", "skipped")
    assert [results[name] for name in counts] == [TRAIN, TEST, CLASSES, 20, 0]
    assert results["chance"] == {"top1": 1 / 7, "top5": 5 / 7}
    for name, point in results["end_points"].items():
        vectors, labels = _vectors(module, data, "trainval", name)
        queries, truth = _vectors(module, data, "test", name)
        classifier = classifiers.KNeighborsClassifier(
            20, weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute", metric="cosine"
        ).fit(vectors, labels)
        assert point["top1"] == pytest.approx(classifier.score(queries, truth))
        order = np.argsort(-classifier.predict_proba(queries), axis=1)[:, :5]
        assert point["top5"] == pytest.approx(np.mean([t in o for t, o in zip(truth, order)]))
        assert point["features"] == vectors.shape[1]
    assert results["end_points"]["block3"]["top1"] > 2 / 7  # colours can be told apart
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "end point    features    top1    top5"
    for line, (name, point) in zip(lines[1:], results["end_points"].items()):
        assert line.split()[:4] == [
            name, str(point["features"]), f"{point['top1']:.1%}", f"{point['top5']:.1%}"
        ]  # fmt: skip
    assert lines[3].split() == ["chance", "14.3%", "71.4%"]
    assert lines[4] == (
        "21 images of split test, 20 neighbours each among 63 of split trainval, 7 classes"
    )
    assert lines[5].endswith(f": {out}")


def test_records_that_cannot_be_used_are_left_out(module, images, write_shards, tmp_path, capsys):
    write_shards(tmp_path, images[:12], 2)
    write_shards(tmp_path, [*images[:3], b"no image"], 1, "validation")
    arguments = ["--module", module, "--data", str(tmp_path), "--device", "cpu"]
    arguments += ["--end-points", "block2", "--neighbours", "1"]
    with pytest.raises(SystemExit, match="--on-error skip leaves out records"):
        script.main(arguments)
    assert script.main([*arguments, "--on-error", "skip"]) == 0
    said = capsys.readouterr().out
    # The three images are among the neighbours, so each is its own nearest one.
    assert re.search(r"^block2 +[0-9,]+  100.0%  100.0%  best$", said, re.M)
    assert "3 images of split test, 1 neighbours each among 12" in said
    assert "skipped 1 records of split test: not counted" in said


def test_the_rest_of_a_broken_shard_is_left_out(module, images, write_shards, tmp_path, capsys):
    write_shards(tmp_path, images[:12], 2)
    (path,) = write_shards(tmp_path, images[:4], 1, "validation")
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)
    arguments = ["--module", module, "--data", str(tmp_path), "--device", "cpu"]
    arguments += ["--end-points", "block2", "--neighbours", "1"]
    with pytest.raises(SystemExit, match="truncated"):
        script.main(arguments)
    assert script.main([*arguments, "--on-error", "skip"]) == 0
    assert "3 images of split test, 1 neighbours each among 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more,message",
    [
        (["--end-points", "block9"], "the module has no end point block9, but after_root"),
        (["--module", "nothing"], "nothing is not an export of pretexture export"),
        (["--data", "none"], "there is no folder none"),
        (["--pipeline", "resize(96)|patches(3)"], "the module takes one view of an image"),
    ],
)
def test_errors_take_one_line(module, data, more, message):
    with pytest.raises(SystemExit) as exit:
        script.main(["--module", module, "--data", data, *more])
    assert exit.value.code.startswith("error: ") and "\n" not in exit.value.code
    assert message in exit.value.code


def test_data_without_labels_are_refused(module, tmp_path):
    data = write_shards(tmp_path, labelled=False)
    with pytest.raises(SystemExit) as exit:
        script.main(["--module", module, "--data", data, "--end-points", "logits"])
    assert exit.value.code == (
        f"error: nearest neighbours need class labels, and record 0 of split test of {data} has "
        "none: give data with labels, or --label-key, the feature that holds them"
    )


def test_a_split_that_is_its_own_neighbour_is_warned_of(module, data, capsys):
    arguments = ["--module", module, "--data", data, "--end-points", "logits", "--device", "cpu"]
    assert script.main([*arguments, "--train-split", "test", "--neighbours", "1"]) == 0
    said = capsys.readouterr()
    assert "1 shards of the evaluation split test are part of the training split test" in said.err


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--neighbours", "0"], "must be 1 or more, not 0"),
        (["--temperature", "0"], "must be above 0, not 0"),
        (["--eval-split", "validation"], "your own validation images"),
    ],
)
def test_impossible_flags_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        script.main(["--module", "m", "--data", "d", *arguments])
    assert message in capsys.readouterr().err
