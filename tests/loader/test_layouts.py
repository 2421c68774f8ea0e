"""Layouts of data sets that `imagenet` and `--data` recognise."""

import gzip
import io
import os
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
from pretexture.loader import ImageFolder, Loader, RecordError, TFRecords, WebDataset, imagenet
from pretexture.loader.shards.imagenet import open_records

pytestmark = pytest.mark.usefixtures("no_hang")

SLIM = ("image/encoded", "image/class/label")
TFDS = ("image", "label")


@pytest.fixture
def write_records():
    """write_records(path, images, features, first): labels begin with `first`."""
    writer = pytest.importorskip("pretexture.loader.shards.writer")

    def write(path, images, features, first=0, **more):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writer.TFRecordWriter(path) as shard:
            for number, image in enumerate(images, first):
                values = {features[0]: image, features[1]: number, **more}
                shard.write(writer.example(values))
        return str(path)

    return write


def write_tar(path, images, first=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(str(path), "w") as archive:
        for number, image in enumerate(images, first):
            for suffix, data in (("jpg", image), ("cls", b"%d" % number)):
                info = tarfile.TarInfo(f"{number:05}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_classes(folder, images, classes):
    for number, image in enumerate(images):
        path = folder / classes[number % len(classes)] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


@pytest.mark.parametrize("features, first", [(SLIM, 1), (TFDS, 0)], ids=["slim", "tfds"])
def test_tfrecords_have_the_features_of_their_first_record(
    write_records, tmp_path, images, features, first
):
    path = write_records(tmp_path / "any-name", images[:5], features, first)
    records = TFRecords(path)
    assert (records.image_key, records.label_key) == features
    assert records.label_offset == first
    assert [record.label for record in records] == [0, 1, 2, 3, 4]
    assert [record.image for record in records] == images[:5]
    with Loader(TFRecords(path), "crop(24)", 5, training=False) as loader:
        assert next(iter(loader)).label.tolist() == [0, 1, 2, 3, 4]


def test_tfrecords_with_the_features_of_both_are_read_as_ever(write_records, tmp_path, images):
    path = write_records(
        tmp_path / "imagenet2012-train.tfrecord-00000-of-00001",
        images[:2],
        SLIM,
        1,
        image=b"a thumbnail",
        label=7,
    )
    assert [record.label for record in TFRecords(path)] == [0, 1]
    assert TFRecords(path)[1].image == images[1]


def test_a_feature_that_is_named_is_used_and_the_others_are_found(write_records, tmp_path, images):
    path = write_records(tmp_path / "shard", images[:2], TFDS, 1, other=5)
    assert [record.label for record in TFRecords(path, label_offset=1)] == [0, 1]
    assert [record.label for record in TFRecords(path, label_key="other")] == [5, 5]
    records = TFRecords(path, image_key="image", label_key="other", label_offset=2)
    assert [record.label for record in records] == [3, 3]


@pytest.mark.parametrize("first", [b"damaged", b""], ids=["damaged", "empty"])
def test_the_name_decides_if_the_first_record_cannot_be_read(tmp_path, first):
    for name, expected in (("x.tfrecord-00000-of-00001", "image"), ("train", "image/encoded")):
        (tmp_path / name).write_bytes(first)
        assert TFRecords(tmp_path / name).image_key == expected


def test_tensorflow_writes_shards_that_are_read(tmp_path, images, tf):
    paths = []
    for number in range(2):
        path = str(tmp_path / f"imagenet2012-train.tfrecord-0000{number}-of-00002")
        with tf.io.TFRecordWriter(path) as writer:
            for label in range(3 * number, 3 * number + 3):
                feature = {
                    "file_name": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[b"n01440764_1.JPEG"])
                    ),
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[images[label]])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
        paths.append(path)
    for records in (imagenet(tmp_path, "trainval"), TFRecords(paths)):
        assert [record.label for record in records] == [0, 1, 2, 3, 4, 5]
        assert [record.image for record in records] == images[:6]


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_the_command_that_rewrites_compressed_shards_works(tmp_path, images, tf, compression):
    path, unpacked = str(tmp_path / "train-00000-of-00001"), str(tmp_path / "plain")
    if hasattr(tf.io, "TFRecordOptions"):
        options = tf.io.TFRecordOptions(compression_type=compression)
    else:
        options = tf.compat.v1.io.TFRecordOptions(
            getattr(tf.compat.v1.io.TFRecordCompressionType, compression)
        )
    with tf.io.TFRecordWriter(path, options) as writer:
        for number in range(3):
            feature = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[images[number]])
                )
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    _rewrite(path, unpacked)
    assert [record.image for record in TFRecords(unpacked)] == images[:3]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_the_command_that_rewrites_compressed_shards_works_without_tensorflow(
    shards, tmp_path, compress
):
    path, unpacked = str(tmp_path / "packed"), str(tmp_path / "plain")
    with open(shards[0], "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(compress(data))
    _rewrite(path, unpacked)
    with open(unpacked, "rb") as file:
        assert file.read() == data


def _rewrite(path, unpacked):
    """Runs the command that the error names."""
    with pytest.raises(RecordError) as caught:
        len(TFRecords(path))
    command = caught.value.reason.partition("decompress it first: ")[2]
    command = command.replace("PACKED", path).replace("SHARD", unpacked)
    subprocess.run(command, shell=True, check=True)


def test_webdataset_shards_are_found(tmp_path, images):
    for number in range(6):
        write_tar(tmp_path / f"imagenet1k-train-{number:04}.tar", images[:2], 2 * number)
    write_tar(tmp_path / "imagenet1k-validation-00.tar", images[:3])
    names = [f"imagenet1k-train-{number:04}.tar" for number in range(6)]
    whole = imagenet(tmp_path, "trainval")
    assert isinstance(whole, WebDataset)
    assert [os.path.basename(path) for path in whole.paths] == names
    assert [record.label for record in whole] == list(range(12))
    assert imagenet(tmp_path, "train").paths == whole.paths[:-1]
    assert imagenet(tmp_path, "val").paths == whole.paths[-1:]
    assert [record.label for record in imagenet(tmp_path, "test")] == [0, 1, 2]
    # The options of URLs do not matter, and those of TFRecords are refused.
    assert len(imagenet(tmp_path, "test", cache_size=None, label_offset=0)) == 3
    with pytest.raises(ValueError, match="WebDataset has no image_key; leave it out"):
        imagenet(tmp_path, "test", image_key="x")
    write_tar(tmp_path / "other-train-0000.tar", images[:2])
    with pytest.raises(FileNotFoundError, match="mixes train shards named imagenet1k-train and"):
        imagenet(tmp_path, "train")


@pytest.mark.parametrize("held_out", ["val", "validation"])
def test_webdataset_shards_in_folders_are_found(tmp_path, images, held_out):
    write_tar(tmp_path / "train" / "train-000000.tar", images[:2])
    write_tar(tmp_path / held_out / "val-000000.tar", images[:3])
    assert len(imagenet(tmp_path, "trainval")) == 2
    assert len(imagenet(tmp_path, "test")) == 3
    with pytest.raises(ValueError, match=r"single training shard.* WebDataset\('.*\.tar'\)"):
        imagenet(tmp_path, "train")


def test_class_folders_are_found(tmp_path, images):
    write_classes(tmp_path / "train", images, ["a", "b", "c"])
    write_classes(tmp_path / "val", images[:4], ["a", "c"])
    train, val = imagenet(tmp_path, "train"), imagenet(tmp_path, "val")
    assert isinstance(train, ImageFolder)
    assert (len(train), len(val), len(imagenet(tmp_path, "trainval"))) == (36, 1, 37)
    test = imagenet(tmp_path, "test")
    # Without the class b, c still has the label that it has in training.
    assert test.classes == ("a", "b", "c")
    assert [record.label for record in test] == [0, 0, 2, 2]
    with Loader(test, "crop(24)", 4, training=False) as loader:
        assert next(iter(loader)).label.tolist() == [0, 0, 2, 2]
    options = {"cache_dir": tmp_path / "cache", "cache_size": None, "endpoint_url": None}
    assert len(imagenet(tmp_path, "train", **options)) == 36
    with pytest.raises(ValueError, match="ImageFolder has no label_offset; leave it out"):
        imagenet(tmp_path, "train", label_offset=0)


def test_a_class_that_training_lacks_is_an_error(tmp_path, images):
    write_classes(tmp_path / "train", images[:4], ["a", "b"])
    write_classes(tmp_path / "validation", images[:4], ["a", "images"])
    with pytest.raises(ValueError, match="folder images, which is not one of the 2 classes"):
        len(imagenet(tmp_path, "test"))


def test_a_missing_folder_is_named(tmp_path, images):
    write_classes(tmp_path / "train", images[:4], ["a", "b"])
    with pytest.raises(FileNotFoundError, match="no folder val of class folders"):
        imagenet(tmp_path, "test")


def test_tfrecords_come_before_class_folders(write_shards, tmp_path, images):
    write_classes(tmp_path / "train", images[:4], ["a", "b"])
    write_shards(tmp_path, images, 2)
    assert isinstance(imagenet(tmp_path, "trainval"), TFRecords)


def test_shards_in_folders_at_a_url_are_found(shards, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for number, path in enumerate(shards):
        with open(path, "rb") as file:
            memory.pipe(f"/tpu/train/train-{number:05}-of-00003", file.read())
    records = imagenet("memory://tpu", "trainval", cache_dir=tmp_path / "cache")
    assert [record.label for record in records] == list(range(37))
    with pytest.raises(FileNotFoundError, match="has no shards validation"):
        imagenet("memory://tpu", "test", cache_dir=tmp_path / "cache")


def test_a_pattern_is_opened_as_what_it_names(shards, tmp_path, images):
    write_tar(tmp_path / "a-000.tar", images[:2])
    tars = open_records(str(tmp_path / "a-{000..000}.tar"), "train")
    assert isinstance(tars, WebDataset)
    assert isinstance(open_records(shards[0], "train", label_offset=1), TFRecords)
    write_classes(tmp_path / "data" / "train", images[:4], ["a", "b"])
    assert isinstance(open_records(str(tmp_path / "data"), "trainval", refresh=True), ImageFolder)


def test_views_of_all_layouts_are_the_same(write_records, tmp_path, images):
    write_records(tmp_path / "tfds" / "x-train.tfrecord-00000-of-00001", images[:9], TFDS)
    write_tar(tmp_path / "wds" / "train-0.tar", images[:9])
    for number, image in enumerate(images[:9]):
        path = tmp_path / "folders" / "train" / str(number) / "x.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(image)
    batches = []
    for name in ("tfds", "wds", "folders"):
        with Loader(imagenet(tmp_path / name, "trainval"), "inception(24)", 9, seed=4) as loader:
            batches.append(next(iter(loader)))
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch.label, batches[0].label)
        np.testing.assert_array_equal(batch.image, batches[0].image)
