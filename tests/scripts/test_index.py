"""`pretexture index`."""

import os

import pytest
from pretexture.loader import RecordError, TFRecords, imagenet
from pretexture.loader.shards.row_index import row_files
from pretexture.scripts import index

pytest.importorskip("cv2")
from jpegs import jpeg


@pytest.fixture(scope="module")
def data(write_shards, tmp_path_factory):
    """A folder with two training shards and a validation shard."""
    folder = tmp_path_factory.mktemp("data")
    images = [jpeg(200 + number, 300, seed=number) for number in range(9)]
    write_shards(folder, images[:6], 2)
    write_shards(folder, [*images[6:], jpeg(200, 300, "progressive")], 1, "validation")
    return folder


def row_paths(data, pattern="*"):
    paths = sorted(data.glob(pattern))
    return row_files(TFRecords(paths, cache_dir=data / "cache"))["paths"]


def test_index_covers_training_and_validation_shards(data, capsys):
    assert index.main(["--rows", str(data), "--cache-dir", str(data / "cache")]) == 0
    assert all(map(os.path.isfile, row_paths(data, "*-of-*")))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{data}/train-00000-of-00002 and 1 more: 6 records",
        "the rows of 6 images are known; 0 images have no row index, because they are small, "
        "progressive or damaged",
        f"{data}/validation-00000-of-00001: 4 records",
        "the rows of 3 images are known; 1 images have no row index, because they are small, "
        "progressive or damaged",
    ]


def test_without_rows_only_the_record_index_is_written(data, tmp_path, capsys):
    assert index.main([str(data / "train-*"), "--cache-dir", str(tmp_path)]) == 0
    (name,) = os.listdir(tmp_path)
    assert name.startswith("index-")
    assert capsys.readouterr().out == f"{data}/train-00000-of-00002 and 1 more: 6 records\n"


def test_class_folders_are_listed_again(tmp_path, capsys):
    paths = [tmp_path / folder / name / "x.jpg" for folder in ("train", "val") for name in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(200, 300, seed=1))
        os.utime(str(path.parent), (1, 1))
    for folder in (tmp_path / "train", tmp_path / "val"):
        os.utime(str(folder), (1, 1))
    command = ["--rows", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    assert index.main(command) == 0
    assert capsys.readouterr().out.splitlines()[::2] == [
        f"{tmp_path}/train/a and 1 more: 2 records",
        f"{tmp_path}/val/a and 1 more: 2 records",
    ]
    # The folder does not change with the file.
    paths[0].write_bytes(jpeg(200, 300, seed=2))
    with pytest.raises(RecordError, match="has changed"):
        imagenet(tmp_path, "trainval", cache_dir=tmp_path / "cache")[0]
    assert index.main(command) == 0
    assert imagenet(tmp_path, "trainval", cache_dir=tmp_path / "cache")[0].label == 0


def test_features_have_flags(write_shards, tmp_path, capsys):
    writer = pytest.importorskip("pretexture.loader.shards.writer")
    path = tmp_path / "train-00000-of-00001"
    with writer.TFRecordWriter(path) as shard:
        shard.write(writer.example({"picture": jpeg(200, 300, seed=1), "number": 1}))
    command = ["--rows", str(path), "--cache-dir", str(tmp_path / "cache")]
    assert index.main([*command, "--image-key", "picture", "--label-key", "number"]) == 0
    assert "the rows of 1 images are known" in capsys.readouterr().out


def test_a_folder_without_shards_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="has no shards"):
        index.main(["--rows", str(tmp_path)])


def test_an_unwritable_cache_is_an_error(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"the row index in .* cannot be written"):
        index.main(["--rows", str(data), "--cache-dir", str(tmp_path / "file")])
