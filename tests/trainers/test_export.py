import dataclasses
import json
import os

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import trained
from pretexture.trainers.exports import frozen
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.exports.saved_model import ExportError, export_run, read_description
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.checkpoints import CheckpointError
from pretexture.trainers.runs.folder import WorkdirError, read_config, write_config
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

IMAGE = trained.images(2, 40, 48, 3)
VGG_POINTS = ["block1", "block2", "block3", "block4", "block5", "fc6", "pre_logits", "logits"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a small VGG with checkpoints of two steps, which tests must not change."""
    folder = tmp_path_factory.mktemp("run")
    trained.run(folder, steps=(3000, 12000))
    return str(folder)


def test_an_export_gives_the_networks_end_points_for_images_of_any_size(tmp_path):
    values = trained.run(tmp_path / "run")
    module = export_run(str(tmp_path / "run"), str(tmp_path / "out"))
    assert module == str(tmp_path / "out")
    images = [trained.images(1, 33, 64, 3), trained.images(3, 50, 34, 3)]
    expected = trained.end_points(trained.VGG, values, *images)
    for found, points in zip(trained.use(module, *images), expected):
        trained.assert_agree(found, points)


def test_tensorflow_2_loads_an_export(run, tmp_path):
    if not tf.executing_eagerly():
        pytest.skip("this is TensorFlow 1")
    module = export_run(run, str(tmp_path / "out"))
    signatures = tf.saved_model.load(module).signatures
    image = tf.constant(IMAGE)
    points = {k: v.numpy() for k, v in signatures["representation"](image=image).items()}
    trained.assert_agree(points, trained.use(module, IMAGE)[0])
    served = {k: v.numpy() for k, v in signatures["serving_default"](image=image).items()}
    trained.assert_agree(served, {"logits": points["logits"]})


def test_exported_graphs_have_only_what_tensorflow_1_knows(run, tmp_path):
    export_run(run, str(tmp_path / "out"))
    saved_model = SavedModel()
    saved_model.ParseFromString((tmp_path / "out" / "saved_model.pb").read_bytes())
    (graph,) = (meta_graph.graph_def for meta_graph in saved_model.meta_graphs)
    variables = [node for node in graph.node if node.op == "VarHandleOp"]
    assert len(variables) == 19 + 18 * 4 + 1
    for node in variables:
        known = {"container", "shared_name", "dtype", "shape", "_output_shapes", "_class"}
        assert set(node.attr) <= known


def test_an_export_has_the_newest_checkpoint_unless_a_step_is_given(run, tmp_path):
    for step, given in ((12000, None), (3000, 3000)):
        module = export_run(run, str(tmp_path / str(step)), given)
        assert read_description(module).step == step
        pair = [f"{run}/model.ckpt-{step}", f"{module}/variables/variables"]
        stored, exported = (tf.train.load_checkpoint(path) for path in pair)
        names = exported.get_variable_to_shape_map()
        assert len(names) == 19 + 18 * 4 + 1
        for name in names:
            assert np.array_equal(stored.get_tensor(name), exported.get_tensor(name)), name


def test_the_description_says_what_the_network_is(run, tmp_path):
    description = read_description(export_run(run, str(tmp_path / "out")))
    recipe = dataclasses.asdict(trained.VGG)
    assert description.recipe == json.loads(json.dumps(recipe))
    assert description.network == trained.VGG.network
    assert description.pipeline == trained.VGG.pipeline
    assert description.representation_pipeline == trained.VGG.representation_pipeline
    assert (description.step, description.patches) == (12000, False)
    assert description.tensorflow == tf.__version__
    assert list(description.end_points) == VGG_POINTS
    assert description.end_points["block2"] == (None, None, None, 2)
    assert description.end_points["logits"] == (None, 4)


@pytest.mark.parametrize(
    "name,patches,outputs",
    [
        ("jigsaw", True, 6),
        ("relative_patch_location", True, 6),
        ("supervised", False, 9),
        ("exemplar", False, 6),
    ],
)
def test_the_task_decides_whether_a_network_embeds_patches(name, patches, outputs, tmp_path):
    fields = {"architecture": "vgg19", "filters_factor": 0.125, "num_classes": 9, "embed_dim": 6}
    recipe = RECIPES[name].replace(**fields)
    trained.run(tmp_path / "run", recipe)
    source = export.run_source(str(tmp_path / "run"))
    assert (source.description.patches, source.outputs) == (patches, outputs)


def test_exports_and_empty_folders_are_replaced(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export_run(run, str(out), 3000)
    (out / "left").write_text("")
    export_run(run, str(out), 12000)
    assert read_description(str(out)).step == 12000
    assert sorted(os.listdir(str(out))) == ["pretexture.json", "saved_model.pb", "variables"]
    assert os.listdir(str(tmp_path)) == ["out"]


@pytest.mark.parametrize("what", ["a folder", "a file", "a run"])
def test_other_files_and_folders_are_not_replaced(run, what, tmp_path):
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "config.json" if what == "a run" else out / "notes").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=f"{out} exists and is not an export: give another --out"):
        export_run(run, str(out))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_an_error_that_names_the_folder(run, tmp_path, monkeypatch):
    message = "/disk/part; No space left on device\n\t [[{{node save/SaveV2}}]]\nOriginal stack"

    def full(*arguments):
        raise tf.errors.ResourceExhaustedError(None, None, f"Graph execution error:\n{message}")

    monkeypatch.setattr(tf.compat.v1.saved_model.Builder, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"):
        export_run(run, str(tmp_path / "out"))
    assert not os.listdir(str(tmp_path))


def test_a_failing_export_keeps_the_previous_one(run, tmp_path, monkeypatch):
    export_run(run, str(tmp_path / "out"), 3000)

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_text", full)
    for out in ("out", "other"):
        with pytest.raises(OSError, match="No space left"):
            export_run(run, str(tmp_path / out))
    assert os.listdir(str(tmp_path)) == ["out"]
    assert read_description(str(tmp_path / "out")).step == 3000


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("other", "", r"is not an export of pretexture export: there is no pretexture\.json"),
        ("pretexture.json", "{", r"pretexture\.json is not an export's description"),
        ("pretexture.json", "[]", "is not an export's description"),
        ("pretexture.json", '{"step": 1}', "KeyError.*end_points"),
        ("pretexture.json", '{"end_points": {}, "color": 1}', "has no field .color"),
    ],
)
def test_a_folder_without_an_export_is_an_error(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ExportError, match=message):
        read_description(str(tmp_path))
    if name == "other":
        for path in ("other", "none"):
            with pytest.raises(ExportError, match=f"{path} is not an export"):
                read_description(str(tmp_path / path))


def test_a_run_without_that_checkpoint_is_an_error(run, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(WorkdirError, match="holds no run"):
        export_run(str(tmp_path), out)
    with pytest.raises(WorkdirError, match="has no checkpoint of step 5, but of 3000, 12000"):
        export_run(run, out, 5)
    config = read_config(run)
    write_config(str(tmp_path), config)
    with pytest.raises(WorkdirError, match="has no checkpoint yet"):
        export_run(str(tmp_path), out)
    write_config(str(tmp_path), dataclasses.replace(config, module="/exports/rotation"))
    with pytest.raises(WorkdirError, match="holds an evaluation of /exports/rotation"):
        export_run(str(tmp_path), out)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    trained.run(tmp_path)
    (data,) = tmp_path.glob("model.ckpt-7000.data*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    source = export.run_source(str(tmp_path))
    for write, arguments in (
        (export.write_saved_model, [str(tmp_path / "out")]),
        (frozen.write_frozen, [str(tmp_path / "out.pb"), (1, 32, 32, 3)]),
    ):
        with pytest.raises(CheckpointError, match=r"model\.ckpt-7000 is damaged: ") as error:
            write(source, *arguments)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert not list(tmp_path.glob("*out*"))


# Operations of TensorFlow that Huawei's offline compiler takes and our networks need.
KNOWN = {
    "Placeholder", "Const", "Identity", "Pad", "Conv2D", "BiasAdd", "FusedBatchNormV3", "Relu",
    "AddV2", "MaxPool", "AvgPool", "Mean", "Squeeze", "Split", "ConcatV2",
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["revnet50", "vgg19"])
def test_a_frozen_graph_has_fixed_shapes_and_plain_operations(architecture, tmp_path):
    recipe = trained.VGG.replace(architecture=architecture, filters_factor=0.25)
    values = trained.run(tmp_path, recipe)
    path = tmp_path / "graphs" / "frozen.pb"
    names = frozen.write_frozen(export.run_source(str(tmp_path)), str(path), IMAGE.shape)
    assert os.listdir(str(path.parent)) == ["frozen.pb"]

    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    assert {node.op for node in definition.node} <= KNOWN
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                assert tensor.dtype in (tf.float32, tf.int32), operation
                if operation.type != "FusedBatchNormV3":  # its last outputs are for training
                    assert tensor.shape.is_fully_defined(), operation
        image = graph.get_tensor_by_name("image:0")
        assert image.shape.as_list() == list(IMAGE.shape)
        found = session.run({name: f"{name}:0" for name in names}, {image: IMAGE})
    (expected,) = trained.end_points(recipe, values, IMAGE)
    trained.assert_agree(found, expected)
