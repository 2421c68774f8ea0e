"""`pretexture index`."""

import os

import pytest
from pretexture.loader import TFRecords
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


def test_a_folder_without_shards_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="has no shards"):
        index.main(["--rows", str(tmp_path)])


def test_an_unwritable_cache_is_an_error(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"the row index in .* cannot be written"):
        index.main(["--rows", str(data), "--cache-dir", str(tmp_path / "file")])
