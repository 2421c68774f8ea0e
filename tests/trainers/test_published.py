import os

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import trained
from pretexture.loader import presets
from pretexture.trainers.exports import published
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.recipes import Network as Described
from pretexture.trainers.runs.checkpoints import CheckpointError
from pretexture.trainers.transfer.representation import Representation
from published_code import IMPLEMENTATIONS, Network, random_values

FACTOR, CLASSES = 0.25, 5
CASES = {
    "v1": {"architecture": "resnet50", "mode": "v1"},
    "v1-patches": {"architecture": "resnet50", "mode": "v1", "patch_strides": True},
    "v2": {"architecture": "resnet50", "mode": "v2"},
    "v2-last": {"architecture": "resnet50", "mode": "v2", "last_relu": False},
    "revnet": {"architecture": "revnet50"},
    "revnet-patches": {"architecture": "revnet50", "last_relu": False, "patch_strides": True},
    "vgg": {"architecture": "vgg19"},
}


def _network(case, implementation="plain"):
    """A network of the published code, and images for it."""
    size = (32, 32) if case == "vgg" else (40, 48)
    image = trained.images(2, *size, 3)
    options = {"factor": FACTOR, "classes": CLASSES, **CASES[case]}
    return Network(implementation, image.shape, **options), image


def _source(path, case, **fields):
    options = {"filters_factor": FACTOR, "num_classes": CLASSES, **CASES[case], **fields}
    classes, pipeline = options.pop("num_classes"), options.pop("pipeline", None)
    return published.source(published.Published(str(path), Described(**options), classes, pipeline))


@pytest.mark.parametrize("implementation", ["plain", "tf.layers"])
@pytest.mark.parametrize("case", ["v1-patches", "v2-last", "revnet-patches", "vgg"])
def test_a_published_checkpoint_gives_the_published_end_points(case, implementation, tmp_path):
    if implementation not in IMPLEMENTATIONS:
        pytest.skip("this TensorFlow has no tf.layers")
    network, image = _network(case, implementation)
    network.set(random_values(network.shapes))
    source = _source(network.save(str(tmp_path / "model.ckpt-7000")), case)
    module = export.write_saved_model(source, str(tmp_path / "module"))
    trained.assert_agree(trained.use(module, image)[0], network(image))
    assert export.read_description(module).step == 7000


@pytest.mark.parametrize("implementation", ["plain", "tf.layers"])
@pytest.mark.parametrize("case", ["v2", "revnet", "vgg"])
def test_the_published_code_reads_our_checkpoints(case, implementation, tmp_path):
    if implementation not in IMPLEMENTATIONS:
        pytest.skip("this TensorFlow has no tf.layers")
    recipe = RECIPES["exemplar"].replace(
        **{"mode": "v2", "pipeline": trained.VGG.pipeline, **CASES[case]},
        filters_factor=FACTOR,
        embed_dim=CLASSES,
    )
    values = trained.run(tmp_path, recipe)
    network, image = _network(case, implementation)
    network.restore(str(tmp_path / "model.ckpt-7000"))
    trained.assert_agree(network(image), trained.end_points(recipe, values, image)[0])


@pytest.fixture(scope="module")
def values():
    """The variables of a published VGG19 and whatever else its checkpoint holds."""
    shapes = _network("vgg")[0].shapes
    weights = random_values(shapes)
    slots = {f"{name}/Momentum": value + 1 for name, value in weights.items() if "kernel" in name}
    head = {"module/conv2d_19/kernel": np.ones((1, 1, 45, 7), np.float32)}
    return {**weights, **slots, **head}


def test_a_runs_folder_or_a_checkpoints_file_stands_for_the_checkpoint(values, tmp_path):
    trained.checkpoint(tmp_path / "model.ckpt-7000", values)
    for name in ("", "model.ckpt-7000.index", "model.ckpt-7000.data-00000-of-00001"):
        assert _source(tmp_path / name, "vgg").weights.path == str(tmp_path / "model.ckpt-7000")


@pytest.mark.parametrize(
    "side,shown", [(64, "resize_small(73)|crop(64)|range(-1, 1)"), (224, str(presets.EVAL))]
)
def test_the_kernels_of_a_vgg_give_the_size_of_its_images(side, shown, tmp_path):
    image = trained.images(2, side, side, 3)
    network = Network("plain", image.shape, architecture="vgg19", factor=0.25, classes=CLASSES)
    assert network.shapes["module/conv2d_16/kernel"][:2] == [side // 32] * 2
    network.set(random_values(network.shapes))
    path = network.save(str(tmp_path / "model.ckpt-7000"))
    source = _source(path, "vgg", filters_factor=0.25)
    module = export.write_saved_model(source, str(tmp_path / "module"))
    trained.assert_agree(trained.use(module, image)[0], network(image))
    assert str(Representation(module).pipeline) == shown
    # A given pipeline may show larger images.
    larger = _source(path, "vgg", filters_factor=0.25, pipeline="resize(256)")
    module = export.write_saved_model(larger, str(tmp_path / "larger"))
    (points,) = trained.use(module, trained.images(2, 256, 256, 3))
    assert points["fc6"].shape[1:3] == (9 - side // 32,) * 2


def test_a_hub_module_names_variables_without_the_scope(values, tmp_path):
    inner = {name[len("module/") :]: value for name, value in values.items() if "module" in name}
    trained.checkpoint(tmp_path / "hub" / "variables" / "variables", inner)
    source = _source(tmp_path / "hub", "vgg")
    assert source.description.step is None
    module = export.write_saved_model(source, str(tmp_path / "module"))
    reader = tf.train.load_checkpoint(os.path.join(module, "variables", "variables"))
    names = reader.get_variable_to_shape_map()
    assert len(names) == 19 + 18 * 4 + 1  # without momenta and head
    for name in names:
        assert np.array_equal(reader.get_tensor(name), values[name]), name


@pytest.mark.parametrize(
    "change,fields,message",
    [
        (
            "module/conv2d_3/kernel",
            {},
            r"model\.ckpt-7000: there is no variable module/conv2d_3/kernel; the model's has "
            r"\[3, 3, 4, 4\] \(1 of the model's 92 variables do not fit\)",
        ),
        (
            None,
            {"num_classes": 6},
            r"conv2d_18/kernel has shape \[1, 1, 128, 5\], the model's has ",
        ),
        (None, {"num_classes": 6}, r"\[1, 1, 128, 6\] \(2 of the model's 92 variables do not fit"),
        (None, {"filters_factor": 0.5}, r"module/conv2d/kernel has shape \[3, 3, 3, 2\], .*3, 4\]"),
        (None, {"architecture": "resnet50"}, r"there is no variable|has shape"),
    ],
)
def test_variables_that_do_not_fit_are_named(values, change, fields, message, tmp_path):
    kept = {name: value for name, value in values.items() if name != change}
    path = trained.checkpoint(tmp_path / "model.ckpt-7000", kept)
    with pytest.raises(CheckpointError, match=message):
        export.write_saved_model(_source(path, "vgg", **fields), str(tmp_path / "module"))
    assert not (tmp_path / "module").exists()


def test_a_path_without_a_checkpoint_is_an_error(tmp_path):
    (tmp_path / "model.ckpt-7000.index").write_text("nothing of the kind")
    with pytest.raises(CheckpointError, match=r"model\.ckpt-7000 is not a checkpoint"):
        _source(tmp_path / "model.ckpt-7000", "v2")
    with pytest.raises(CheckpointError, match=r"model\.ckpt-8 is not a checkpoint"):
        _source(tmp_path / "model.ckpt-8", "v2")
    with pytest.raises(CheckpointError, match="holds neither a checkpoint nor a hub module"):
        _source(tmp_path, "v2")


def test_the_description_says_how_a_published_network_is_used(values, tmp_path):
    path = trained.checkpoint(tmp_path / "model.ckpt-7000", values)
    whole, patches = (_source(path, case).description for case in ("v1", "v1-patches"))
    assert whole.representation_pipeline == str(presets.EVAL)
    assert patches.representation_pipeline == str(presets.EVAL_PATCHES)
    assert (whole.patches, patches.patches) == (False, True)
    named = _source(path, "vgg", pipeline="eval_patches").description
    assert named.representation_pipeline == str(presets.EVAL_PATCHES)
    assert named.patches
    assert patches.network == Described("resnet50", "v1", FACTOR, patch_strides=True)
