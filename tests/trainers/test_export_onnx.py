import dataclasses
import json

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

import trained
from pretexture.trainers.exports import onnx_file
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.exports.description import ExportError
from pretexture.trainers.exports.onnx_file import write_onnx
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.checkpoints import CheckpointError

RESNET = trained.VGG.replace(architecture="resnet50", filters_factor=0.25)
PATCHES = RECIPES["jigsaw"].replace(filters_factor=0.25, embed_dim=6)
NETWORKS = {
    "resnet v1": RESNET.replace(mode="v1"),
    "resnet v2 without last ReLU": RESNET.replace(last_relu=False),
    "resnet v2 with small root": RESNET.replace(small_root=True),
    "resnet of patches": PATCHES,
    "revnet": RESNET.replace(architecture="revnet50", reversible=True),
    "revnet of patches": PATCHES.replace(architecture="revnet50"),
    "vgg": trained.VGG,
    "vgg of larger images": trained.VGG.replace(pipeline="resize(64)|range(-1, 1)|rotate"),
}


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def use(path, *images):
    """The outputs of an ONNX file for each batch, by name."""
    model = session(path)
    names = [output.name for output in model.get_outputs()]
    return [dict(zip(names, model.run(names, {"image": image}))) for image in images]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a small VGG, which tests must not change."""
    folder = tmp_path_factory.mktemp("run")
    trained.run(folder)
    return str(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_networks_end_points_for_images_of_any_size(name, tmp_path):
    recipe = NETWORKS[name]
    values = trained.run(tmp_path / "run", recipe)
    path = tmp_path / "made" / "model.onnx"
    names = write_onnx(export.run_source(str(tmp_path / "run")), str(path))
    images = [trained.images(1, 65, 96, 3), trained.images(3, 70, 67, 3)]
    expected = trained.end_points(recipe, values, *images)
    assert names == list(expected[0])
    for found, points in zip(use(path, *images), expected):
        trained.assert_agree(found, points)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_an_onnx_file_has_the_outputs_of_the_saved_models_representation(run, tmp_path):
    source = export.run_source(run)
    write_onnx(source, str(tmp_path / "model.onnx"))
    module = export.write_saved_model(source, str(tmp_path / "out"))
    image = trained.images(2, 40, 48, 3)
    trained.assert_agree(use(tmp_path / "model.onnx", image)[0], trained.use(module, image)[0])


def test_an_onnx_file_has_the_weights_by_name_in_the_layout_of_its_convolutions(tmp_path):
    run = tmp_path / "run"
    trained.run(run, trained.VGG.replace(filters_factor=0.25))
    write_onnx(export.run_source(str(run)), str(tmp_path / "model.onnx"))
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    stored = tf.train.load_checkpoint(f"{run}/model.ckpt-7000")
    found = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for name in _shapes(run):
        value = stored.get_tensor(name)
        if value.ndim == 4:
            value = np.moveaxis(value, [3, 2], [0, 1])
        np.testing.assert_array_equal(found[name], value)


def test_an_onnx_file_is_valid_and_says_what_it_is(run, tmp_path):
    path = str(tmp_path / "model.onnx")
    source = export.run_source(run)
    write_onnx(source, path)
    onnx.checker.check_model(path, full_check=True)
    model = session(path)
    (image,) = model.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", "H", "W", 3])
    shapes = {output.name: output.shape for output in model.get_outputs()}
    assert shapes["block2"] == ["N", "block2.H", "block2.W", 2]
    assert shapes["logits"] == ["N", 4]
    assert next((i.domain, i.version) for i in onnx.load(path).opset_import) == ("", 13)
    described = json.loads(model.get_modelmeta().custom_metadata_map["pretexture.json"])
    end_points = described.pop("end_points")
    assert end_points["block2"] == [None, None, None, 2] and list(end_points) == list(shapes)
    expected = dataclasses.asdict(source.description)
    expected.pop("end_points")
    assert described == json.loads(json.dumps(expected))


def test_an_existing_onnx_file_is_replaced_only_by_a_complete_one(run, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("previous")
    source = export.run_source(run)
    for damage in ("data-00000-of-00001", "index"):
        broken = tmp_path / "broken"
        trained.run(broken)
        (broken / f"model.ckpt-7000.{damage}").write_bytes(b"\0")
        with pytest.raises(CheckpointError):
            write_onnx(export.run_source(str(broken)), str(path))
        assert path.read_text() == "previous"
    write_onnx(source, str(path))
    onnx.checker.check_model(str(path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "model.onnx"]


def test_weights_that_one_file_cannot_hold_are_an_error(run, tmp_path, monkeypatch):
    parameters = sum(np.prod(shape, dtype=int) for shape in _shapes(run).values())
    source = export.run_source(run)
    monkeypatch.setattr(onnx_file, "_LARGEST", 4 * parameters - 1)
    message = r"weights take 0\.. GiB, and an ONNX file holds less than 2 GiB: write a SavedModel"
    with pytest.raises(ExportError, match=message):
        write_onnx(source, str(tmp_path / "model.onnx"))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(onnx_file, "_LARGEST", 4 * parameters)
    write_onnx(source, str(tmp_path / "model.onnx"))


def _shapes(run):
    """The shapes of the network's variables, by name."""
    found = tf.train.load_checkpoint(f"{run}/model.ckpt-7000").get_variable_to_shape_map()
    return {name: shape for name, shape in found.items() if name.startswith("module/")}


def test_an_output_of_a_wrong_rank_is_an_error(run, tmp_path, monkeypatch):
    convert = onnx_file.convert.from_graph_def

    def one_dimension_more(*args, **kwargs):
        model, rest = convert(*args, **kwargs)
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1
        return model, rest

    monkeypatch.setattr(onnx_file.convert, "from_graph_def", one_dimension_more)
    with pytest.raises(ExportError, match="output block1 of 5 dimensions instead of 4"):
        write_onnx(export.run_source(run), str(tmp_path / "model.onnx"))
    assert not (tmp_path / "model.onnx").exists()
