"""Training, evaluation and linear evaluation on data with records that cannot be used."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import several
import tiny
from learned import learned
from pretexture.loader import Loader, RecordError, TFRecords, imagenet
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.trainers import recipes
from pretexture.trainers.evaluation import evaluate
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.folder import WorkdirError, overlap
from pretexture.trainers.runs.metrics import read_metrics
from pretexture.trainers.transfer import features

SKIP = RecordOptions(on_error="skip")
BROKEN = b"no image"
TRAIN_BROKEN = (3, 20)  # of 36 records
TEST_BROKEN = (2, 12)  # of 13 records


def _rewrite(path, out, change):
    """Writes copies of shards with the features that `change(number, features)` returns.

    A record for which it returns None is left out.
    """
    with TFRecordWriter(out) as writer:
        for number, record in enumerate(TFRecords(path)):
            written = {"image/encoded": record.image, "image/class/label": record.label + 1}
            written = change(number, written)
            if written is not None:
                writer.write(example(written))


def _breaking(*numbers, begin=0):
    def change(number, written):
        return {**written, "image/encoded": BROKEN} if begin + number in numbers else written

    return change


@pytest.fixture(scope="module")
def broken(shards, tmp_path_factory):
    """The shards, in which two training and two evaluation records hold no image."""
    folder = tmp_path_factory.mktemp("broken")
    for name in os.listdir(shards):
        numbers, begin = TEST_BROKEN, 0
        if name.startswith("train"):
            numbers, begin = TRAIN_BROKEN, 12 * int(name[6:11])
        _rewrite(os.path.join(shards, name), folder / name, _breaking(*numbers, begin=begin))
    return str(folder)


def _train(data, folder, recipe=tiny.ROTATION, say=lambda line: None, **options):
    options = {"log_steps": 1, "device": "cpu", **options}
    return pretrain(recipe, Options(data, str(folder), **options), say=say)


def _skipped(folder):
    return [line.get("skipped") for line in read_metrics(str(folder))]


def test_an_unusable_record_ends_a_run_that_can_be_resumed_with_skip(broken, tmp_path):
    with pytest.raises(RecordError, match="neither a JPEG"):
        _train(broken, tmp_path, steps=12, checkpoint_steps=1)
    outcome = _train(broken, tmp_path, steps=12, records=SKIP)
    assert outcome.step == 12
    assert sum(filter(None, _skipped(tmp_path))) == 2 * len(TRAIN_BROKEN)  # two epochs


def test_a_stopped_run_counts_the_same_skipped_records(broken, tmp_path, capsys):
    said = []
    _train(broken, tmp_path / "whole", steps=14, records=SKIP, say=said.append)
    for steps in (4, 11, 14):
        _train(broken, tmp_path / "parts", steps=steps, records=SKIP, threads=1)
    assert learned(tmp_path / "parts") == learned(tmp_path / "whole")
    total = sum(filter(None, _skipped(tmp_path / "whole")))
    assert 2 * len(TRAIN_BROKEN) <= total <= 3 * len(TRAIN_BROKEN)
    assert f"skipped {total} records that could not be used" in "\n".join(said)
    last_shown = capsys.readouterr().err.splitlines()[-1]
    assert last_shown.endswith(f", {total} skipped")


def test_without_unusable_records_skip_changes_nothing(shards, tmp_path):
    said = []
    _train(shards, tmp_path / "raise", steps=4)
    _train(shards, tmp_path / "skip", steps=4, records=SKIP, say=said.append)
    assert learned(tmp_path / "skip") == learned(tmp_path / "raise")
    assert _skipped(tmp_path / "skip") == [None] * 4 and "skipped" not in "\n".join(said)


@pytest.mark.skipif(not tf.executing_eagerly(), reason="workers on CPUs need TensorFlow 2")
def test_two_workers_together_count_what_one_counts(broken, tmp_path):
    flags = ("--steps", "6", "--on-error", "skip")
    process = several.launch(2, several.command(broken, tmp_path / "two", *flags))
    output = several.done(process)
    _train(broken, tmp_path / "one", tiny.PLAIN, steps=6, records=SKIP)
    assert _skipped(tmp_path / "two") == _skipped(tmp_path / "one")
    total = sum(filter(None, _skipped(tmp_path / "two")))  # two epochs of three steps each
    assert total == 2 * len(TRAIN_BROKEN)
    assert f"[0] skipped {total} records" in output and "[1] skipped " not in output


def test_evaluation_leaves_out_skipped_records_and_counts_all_others_once(shards, broken, tmp_path):
    _train(shards, tmp_path / "run", steps=3)
    clean = tmp_path / "clean"  # the records that are broken in `broken` are missing here
    clean.mkdir()
    name = "validation-00000-of-00001"
    _rewrite(
        os.path.join(shards, name),
        clean / name,
        lambda number, written: None if number in TEST_BROKEN else written,
    )
    expected = evaluate(str(tmp_path / "run"), str(clean), "test", device="cpu")
    assert "skipped" not in expected and expected["images"] == 11
    with pytest.raises(RecordError, match="neither a JPEG"):
        evaluate(str(tmp_path / "run"), broken, "test", device="cpu")
    for size in (1, 5, 13):
        how = {"device": "cpu", "records": {"on_error": "skip"}}
        result = evaluate(str(tmp_path / "run"), broken, "test", size, **how)
        assert (result["images"], result["skipped"]) == (11, 2)
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert result["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-7)
    assert json.loads((tmp_path / "run" / "eval-test.json").read_text()) == result


def test_evaluation_reports_partly_unreadable_shards(shards, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shards, str(data))
    shard = data / "validation-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-20])
    _train(shards, tmp_path / "run", steps=1)
    how = {"device": "cpu", "records": {"on_error": "skip"}}
    result = evaluate(str(tmp_path / "run"), str(data), "test", **how)
    assert (result["images"], result["broken_shards"]) == (12, 1) and "skipped" not in result


def test_an_image_above_max_pixels_is_an_unusable_record(shards, tmp_path):
    with pytest.raises(RecordError, match="claims 36x36 pixels, more than max_pixels=1295"):
        _train(shards, tmp_path, steps=1, records=RecordOptions(max_pixels=36 * 36 - 1))
    assert _train(shards, tmp_path, steps=1, records=RecordOptions(max_pixels=36 * 36)).step == 1


# Features on disk.


def _loader(data, split, on_error, batch_size=5):
    return Loader(
        imagenet(data, split),
        "resize(8)|range(-1, 1)",
        batch_size,
        training=False,
        on_error=on_error,
    )


def _extract(data, folder, on_error="skip"):
    """Computes "features" of the test images, their means, with a loader in file order."""
    with _loader(data, "test", on_error) as loader:
        parts = features.in_order(loader, lambda image: image.mean((1, 2)))
        arrays = features.extract(str(folder), 13, 5, 3, parts, {})
    return features.FeatureLoader(*arrays, 4, training=False)


def test_features_and_labels_match_when_records_are_skipped(shards, broken, tmp_path):
    with _loader(shards, "test", "raise", 13) as loader:
        whole = next(iter(loader))
    kept = [i for i in range(13) if i not in TEST_BROKEN]
    found = list(_extract(broken, tmp_path))
    assert [len(batch.label) for batch in found] == [4, 4, 3]
    index, label, image = (
        np.concatenate([getattr(batch, name) for batch in found])
        for name in ("index", "label", "image")
    )
    assert index.tolist() == kept
    assert label.tolist() == whole.label[kept].tolist()
    np.testing.assert_allclose(image, whole.image[kept].mean((1, 2)), atol=1e-6)


def test_skipped_records_are_tried_again_by_the_next_extraction(shards, broken, tmp_path):
    folder = tmp_path / "features"
    assert _extract(broken, folder).num_records == 11
    with pytest.raises(RecordError, match="neither a JPEG"):
        _extract(broken, folder, "raise")
    assert _extract(shards, folder).num_records == 13  # the records are repaired meanwhile
    with _loader(shards, "test", "raise", 13) as loader:
        image = next(iter(loader)).image
    np.testing.assert_allclose(np.load(folder / "features.npy"), image.mean((1, 2)), atol=1e-6)


def test_a_stopped_extraction_with_skipped_records_is_resumed(broken, tmp_path):
    asked = []

    def parts(ranges, stop):
        asked.append(ranges)
        with _loader(broken, "test", "skip") as loader:
            for part in features.in_order(loader, lambda image: image.mean((1, 2)))(ranges):
                if part[0] == stop:
                    raise KeyboardInterrupt
                yield part

    for stop in (1, None, None):
        with contextlib.suppress(KeyboardInterrupt):
            features.extract(str(tmp_path), 13, 5, 3, lambda ranges, s=stop: parts(ranges, s), {})
    # Batches 0 and 2 hold the records 2 and 12.
    assert asked == [[(0, 3)], [(0, 3)], [(0, 1), (2, 3)]]


# Data with other features and labels.

SUPERVISED = tiny.ROTATION.replace(
    task="supervised",
    pipeline="resize(12)|range(-1, 1)",
    num_classes=3,
    batch_size=12,
)
TFDS = RecordOptions(image_key="image", label_key="label", label_offset=0)


@pytest.fixture(scope="module")
def tfds(shards, tmp_path_factory):
    """The same images in other features, with labels that count from 0."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in os.listdir(shards):
        _rewrite(
            os.path.join(shards, name),
            folder / name,
            lambda number, written: {
                "image": written["image/encoded"],
                "label": written["image/class/label"] - 1,
            },
        )
    return str(folder)


def test_data_with_other_features_and_labels_train_the_same_network(shards, tfds, tmp_path):
    _train(shards, tmp_path / "usual", SUPERVISED, steps=3)
    _train(tfds, tmp_path / "other", SUPERVISED, steps=3, records=TFDS)
    assert learned(tmp_path / "other") == learned(tmp_path / "usual")
    usual = evaluate(str(tmp_path / "usual"), shards, device="cpu")
    other = evaluate(str(tmp_path / "other"), tfds, device="cpu")  # with the features of the run
    assert {**other, "data": shards} == usual
    with pytest.raises(WorkdirError, match="label_offset = 0, and now it is 1: give --label-off"):
        _train(
            *(tfds, tmp_path / "other", SUPERVISED),
            steps=4,
            records=dataclasses.replace(TFDS, label_offset=1),
        )


@pytest.fixture(scope="module")
def tars(shards, tmp_path_factory):
    """The same images in WebDataset shards."""
    folder = tmp_path_factory.mktemp("tars")
    for name in os.listdir(shards):
        stem = name.partition("-of-")[0]
        with tarfile.open(str(folder / f"{stem}.tar"), "w") as archive:
            for number, record in enumerate(TFRecords(os.path.join(shards, name))):
                for suffix, data in (("jpg", record.image), ("cls", b"%d" % record.label)):
                    info = tarfile.TarInfo(f"{number:05}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(folder)


def test_webdataset_shards_train_the_same_network(shards, tars, tmp_path):
    _train(shards, tmp_path / "usual", SUPERVISED, steps=3)
    _train(tars, tmp_path / "other", SUPERVISED, steps=3)
    assert learned(tmp_path / "other") == learned(tmp_path / "usual")
    usual = evaluate(str(tmp_path / "usual"), shards, device="cpu")
    assert {**evaluate(str(tmp_path / "other"), tars, device="cpu"), "data": shards} == usual


def test_class_folders_train_resume_and_are_evaluated(shards, tmp_path):
    for split, folder in (("trainval", "train"), ("test", "val")):
        for number, record in enumerate(imagenet(shards, split)):
            path = tmp_path / "data" / folder / f"class {record.label}" / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.image)
    data = str(tmp_path / "data")
    _train(data, tmp_path / "run", SUPERVISED, steps=2)
    _train(data, tmp_path / "run", SUPERVISED, steps=3)
    _train(data, tmp_path / "at once", SUPERVISED, steps=3)
    assert learned(tmp_path / "run") == learned(tmp_path / "at once")
    counts = {"val": round(48 * 40 / 1024), "test": len(imagenet(shards, "test"))}
    for split, count in counts.items():
        result = evaluate(str(tmp_path / "run"), data, split, device="cpu")
        assert result["images"] == count
    assert overlap(data, "train", data, "val", DEFAULT_STORAGE) is None
    assert "warning" in overlap(data, "trainval", data, "val", DEFAULT_STORAGE)


def test_a_label_beyond_the_classes_is_an_error_that_names_record_label_and_flag(shards, tmp_path):
    recipe = SUPERVISED.replace(num_classes=2)
    with pytest.raises(
        ValueError, match=r"record \d+ is of class 2, .* --num-classes is 2: give --num-classes"
    ):
        _train(shards, tmp_path, recipe, steps=1)


def test_recipes_do_not_say_how_records_are_read():
    names = {field.name for field in dataclasses.fields(RecordOptions)}
    assert not names & {field.name for field in dataclasses.fields(recipes.Recipe)}
