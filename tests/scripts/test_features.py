import json
import os
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import trained
from pretexture.loader import Loader, imagenet
from pretexture.scripts import features as script
from pretexture.trainers.exports.saved_model import export_run


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """An export, which tests must not change."""
    folder = tmp_path_factory.mktemp("module")
    trained.run(folder / "run")
    return export_run(str(folder / "run"), str(folder / "export"))


@pytest.fixture(scope="module")
def data(images, write_shards, tmp_path_factory):
    """A folder with 20 training images of 20 classes with names, one of which is damaged."""
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, [*images[:13], b"no image", *images[14:20]], 2, "train")
    names = [f"class of {number}" for number in range(1, 21)]
    (folder / "dataset.json").write_text(json.dumps({"classes": names}))
    return str(folder)


@pytest.fixture
def arguments(module, data):
    flags = ["--module", module, "--data", data, "--device", "cpu", "--on-error", "skip"]
    return [*flags, "--end-points", "pre_logits,block4"]


KEPT = [number for number in range(20) if number != 13]


@pytest.fixture(scope="module")
def expected(module, data):
    """The end points of the SavedModel by name, for all images that can be used."""
    with Loader(imagenet(data, "trainval"), trained.VGG.representation_pipeline, 20, training=False,
                drop_remainder=False, on_error="skip") as loader:  # fmt: skip
        (images,) = [np.array(batch.image) for batch in loader]
    (points,) = trained.use(module, images[KEPT])
    maps = points["block4"]
    assert maps[0].size > 2048  # so it is averaged in 2 x 2 parts or more
    return points


def _check(found, expected):
    np.testing.assert_array_equal(found["record"], KEPT)
    np.testing.assert_array_equal(found["label"], KEPT)  # the shards count from 1
    assert found["record"].dtype == np.int64 and found["label"].dtype == np.int32
    for name in ("pre_logits", "block4"):
        assert found[name].dtype == np.float32
    np.testing.assert_allclose(found["pre_logits"], expected["pre_logits"], rtol=1e-4, atol=1e-5)
    # Parts of equal size have the mean of the whole.
    maps = expected["block4"]
    means = found["block4"].reshape(len(KEPT), -1, maps.shape[-1]).mean(1)
    side = round((found["block4"].shape[1] / maps.shape[-1]) ** 0.5)
    assert maps.shape[1] % side == 0
    np.testing.assert_allclose(means, maps.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_an_npz_file_has_the_end_points_by_record_with_labels_and_names(
    arguments, expected, tmp_path, capsys
):
    out = tmp_path / "sub" / "features.npz"
    assert script.main([*arguments, "--out", str(out), "--max-features", "1"]) == 0
    with np.load(out) as found:
        assert set(found.files) == {"record", "label", "classes", "pre_logits", "block4"}
        _check(found, expected)
        assert list(found["classes"]) == [f"class of {number}" for number in range(1, 21)]
        channels = expected["block4"].shape[-1]
        units = expected["pre_logits"].shape[-1]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{out}: 19 images of split trainval; features: pre_logits {units}, block4 {channels}",
        "skipped 1 records that could not be used",
    ]
    assert os.listdir(out.parent) == ["features.npz"]


def test_a_parquet_file_has_the_same_as_columns(arguments, expected, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "features.parquet"
    assert script.main([*arguments, "--out", str(out), "--max-features", "1"]) == 0
    table = parquet.read_table(out)
    assert table.column_names == ["record", "label", "class", "pre_logits", "block4"]
    assert table["class"].to_pylist() == [f"class of {number + 1}" for number in KEPT]
    found = {name: table[name].to_numpy() for name in ("record", "label")}
    for name in ("pre_logits", "block4"):
        found[name] = np.stack(table[name].to_pylist()).astype(np.float32)
    _check(found, expected)


def test_without_pyarrow_the_extra_is_named_and_nothing_is_left(arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit, match=r"pip install 'pretexture\[parquet\]'"):
        script.main([*arguments, "--out", str(tmp_path / "features.parquet")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_a_picture_shows_each_class_with_its_name(arguments, tmp_path, monkeypatch, method):
    pytest.importorskip("sklearn" if method == "tsne" else "umap")
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.scatter

    def scatter(self, x, y, **how):
        drawn.append((how["label"], len(x)))
        return original(self, x, y, **how)

    monkeypatch.setattr(Axes, "scatter", scatter)
    picture = tmp_path / "features.png"
    arguments += ["--out", str(tmp_path / "features.npz"), "--plot", str(picture)]
    assert script.main([*arguments, "--plot-method", method]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert drawn == [(f"class of {number + 1}", 1) for number in KEPT]
    del drawn[:]
    assert script.main([*arguments, "--plot-method", method, "--plot-images", "9"]) == 0
    assert 8 <= len(drawn) <= 9  # the record that is skipped may be among those drawn


def test_t_sne_keeps_clusters_together():
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from pretexture.trainers.transfer.projection import plane

    random = np.random.RandomState(0)
    labels = np.repeat(range(3), 40)
    vectors = (10 * np.eye(3, 16)[labels] + random.randn(120, 16)) * random.uniform(1, 9, (120, 1))
    points = plane(vectors.astype(np.float32), "tsne")
    middle = np.stack([points[labels == label].mean(0) for label in range(3)])
    nearest = ((points[:, None] - middle) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() > 0.95


@pytest.mark.parametrize(
    "more,message",
    [
        (["--out", "features.csv"], r"features.csv must end in .npz or .parquet, which gives"),
        (["--out", "f.npz", "--end-points", "block9"], "the module has no end point block9"),
        (["--out", "f.npz", "--plot", "f.png", "--plot-end-point", "logits"],
         "there is no end point logits, but pre_logits, block4"),
        (["--out", "f.npz", "--split", "test"], "has no shards validation-"),
    ],
)  # fmt: skip
def test_errors_take_one_line_and_leave_nothing(arguments, more, message, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        script.main([*arguments, *more])
    assert exit.value.code.startswith("error: ") and "\n" not in exit.value.code
    assert message in exit.value.code
    assert os.listdir(tmp_path) == []


def test_an_unusable_record_leaves_no_file(module, data, tmp_path):
    with pytest.raises(SystemExit, match="--on-error skip leaves out"):
        script.main(["--module", module, "--data", data, "--out", str(tmp_path / "f.npz")])
    assert os.listdir(tmp_path) == []


def test_flags_of_a_picture_need_a_picture(arguments, capsys):
    with pytest.raises(SystemExit):
        script.main([*arguments, "--out", "f.npz", "--plot-images", "9"])
    assert "argument --plot-images: only with argument --plot" in capsys.readouterr().err
