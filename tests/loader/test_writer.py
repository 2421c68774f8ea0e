import importlib.util
import os
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretexture.loader import TFRecords
from pretexture.loader.shards import example_proto
from pretexture.loader.shards.writer import TFRecordWriter, example, parse_example

SAMPLE = os.path.join(os.path.dirname(__file__), *[".."] * 3, "shared", "data", "imagenet-sample")


def write(path, records):
    with TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


def test_tensorflow_reads_what_was_written(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = str(tmp_path / "shard")
    images = [b"", b"\0\xff" * 1000, os.urandom(100_000)]
    write(
        path,
        [
            example(
                {
                    "image/encoded": image,
                    "image/class/label": number,
                    "image/class/text": "Größe",
                    "box": [0.25, 1],
                    "several": [b"a", "b"],
                    "numbers": np.arange(-1, 3),
                    "nothing": [],
                }
            )
            for number, image in enumerate(images)
        ],
    )
    read = list(tf.compat.v1.io.tf_record_iterator(path))
    assert len(read) == 3
    for number, data in enumerate(read):
        feature = tf.train.Example.FromString(data).features.feature
        assert list(feature["image/encoded"].bytes_list.value) == [images[number]]
        assert list(feature["image/class/label"].int64_list.value) == [number]
        assert list(feature["image/class/text"].bytes_list.value) == ["Größe".encode()]
        assert list(feature["box"].float_list.value) == [0.25, 1.0]
        assert list(feature["several"].bytes_list.value) == [b"a", b"b"]
        assert list(feature["numbers"].int64_list.value) == [-1, 0, 1, 2]
        assert not feature["nothing"].bytes_list.value


def test_examples_of_tensorflow_are_parsed():
    tf = pytest.importorskip("tensorflow")
    features = {
        "a": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b"\0"])),
        "b": tf.train.Feature(int64_list=tf.train.Int64List(value=[-(2**63), 2**63 - 1])),
        "c": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, -1e30])),
        "d": tf.train.Feature(),
    }
    data = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    expected = {"a": [b"x", b"\0"], "b": [-(2**63), 2**63 - 1], "c": [0.5, np.float32(-1e30)]}
    assert parse_example(data) == {**expected, "d": []}


def test_a_record_is_framed_with_masked_checksums(tmp_path):
    write(tmp_path / "shard", [b"123456789"])
    data = (tmp_path / "shard").read_bytes()
    assert data[:8] == struct.pack("<Q", 9)
    assert data[12:-4] == b"123456789"
    crc = 0xE3069283  # the check value of CRC-32C in the catalogue of parametrised CRC algorithms
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert data[-4:] == struct.pack("<I", masked)


def test_the_loader_reads_what_was_written(tmp_path):
    images = [bytes([i]) * i for i in range(1, 10)]
    records = [example({"image/encoded": x, "image/class/label": len(x)}) for x in images]
    write(tmp_path / "shard", records)
    read = TFRecords(tmp_path / "shard", cache_dir=tmp_path / "cache")
    assert [(r.image, r.label) for r in read] == [(x, len(x) - 1) for x in images]


def test_the_published_layout_is_parsed():
    if not os.path.isdir(SAMPLE):
        pytest.skip("shared/data/imagenet-sample is not here")
    with open(os.path.join(SAMPLE, "train-00000-of-00008"), "rb") as shard:
        (length,) = struct.unpack("<Q", shard.read(8))
        shard.read(4)
        features = parse_example(shard.read(length))
    assert features["image/encoded"][0][:3] == b"\xff\xd8\xff"
    assert 1 <= features["image/class/label"][0] <= 1000
    assert features["image/format"][0] == b"JPEG"


numbers = st.floats(width=32, allow_nan=False)
values = st.one_of(
    st.lists(st.binary(max_size=20)),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(numbers, min_size=1),
)


@given(st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",))), values))
@settings(max_examples=100, deadline=None)
def test_an_example_is_parsed_unchanged(features):
    assert parse_example(example(features)) == features


def test_one_value_stands_for_a_list_of_it():
    assert example({"a": 1, "b": "x", "c": 0.5}) == example({"c": [0.5], "b": ["x"], "a": [1]})
    assert example({"a": np.int32(1), "b": np.float32(0.5)}) == example({"b": 0.5, "a": 1})


@pytest.mark.parametrize(
    "value, kind, reason",
    [
        (None, TypeError, "cannot store NoneType"),
        ([b"x", 1], TypeError, "cannot store bytes, int"),
        (2**63, ValueError, "out of range"),
        ("\ud800", ValueError, "surrogates"),
    ],
)
def test_a_value_that_cannot_be_stored_is_named(value, kind, reason):
    with pytest.raises(kind, match=f"feature 'some/name': .*{reason}"):
        example({"some/name": value})


def test_other_data_are_not_an_example():
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        parse_example(b"\xff\xff\xff")


def test_a_shard_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    with TFRecordWriter(path) as writer:
        writer.write(b"x" * 100_000)
        assert not path.exists()
        assert not list(tmp_path.glob("train-*")), "a pattern must not find the unfinished file"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size == writer.bytes == 100_016
    assert writer.records == 1


def test_an_exception_removes_the_unfinished_shard_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), TFRecordWriter(path) as writer:
        writer.write(b"x")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard"]


def test_a_shard_that_cannot_be_completed_leaves_nothing(tmp_path, monkeypatch):
    def fail(file_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "shard", [b"x"])
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_writes_no_more(tmp_path):
    writer = TFRecordWriter(tmp_path / "shard")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match=r"the writer of .*shard is closed"):
        writer.write(b"x")


def test_without_protobuf_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    spec = importlib.util.spec_from_file_location("without_protobuf", example_proto.__file__)
    with pytest.raises(ImportError, match=r'pip install "pretexture\[reference\]"') as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "\n" not in str(error.value)
