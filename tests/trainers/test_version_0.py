"""Files of version 0.1, which wrote all fields of a recipe side by side, are still read."""

import json

import pytest

tf = pytest.importorskip("tensorflow")

import tiny
import trained
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.exports.description import DESCRIPTION, read_description
from pretexture.trainers.recipes import RECIPES, Network, Optimizer
from pretexture.trainers.run import Options, pretrain
from pretexture.trainers.runs.folder import read_config
from pretexture.trainers.transfer.representation import Representation

# The configuration of a run with `tiny.ROTATION`.
RECIPE = {
    "task": "rotation",
    "pipeline": "inception_crop(area=(0.5, 1))|resize(12)|range(-1, 1)|rotate",
    "batch_size": 6,
    "eval_batch_size": 5,
    "epochs": 3.0,
    "train_split": "train",
    "eval_split": "val",
    "architecture": "tiny",
    "mode": "v2",
    "filters_factor": 4.0,
    "last_relu": True,
    "small_root": False,
    "patch_strides": False,
    "reversible": False,
    "precision": "float32",
    "loss_scale": 0.0,
    "eval_pipeline": "",
    "representation_pipeline": "resize_small(256)|crop(224)|range(-1, 1)",
    "dct": "accurate",
    "num_classes": 1000,
    "embed_dim": 1000,
    "margin": 0.5,
    "normalize_axis": 1,
    "pooling": "adaptive_max",
    "max_features": 9000,
    "hidden_units": 0,
    "combine_patches": "avg_pool",
    "permutations": "maximal-100",
    "head_units": 4096,
    "permutations_per_batch": 8,
    "optimizer": "sgd",
    "lr": 2.0,
    "lr_scale_batch_size": 256,
    "warmup_epochs": 0.5,
    "decay_epochs": [2.0],
    "lr_decay_factor": 0.1,
    "weight_decay": 0.0001,
}
CONFIG = {
    "recipe": RECIPE,
    "seed": 0,
    "records": 36,
    "steps_per_epoch": 6,
    "steps": 4,
    "parameters": 364,
    "data": "/data",
    "tensorflow": "2.21.0",
    "module": "",
    "image_key": "image/encoded",
    "label_key": "image/class/label",
    "label_offset": 1,
}
# Descriptions of the exports of a run and of a published network.
RUN = {
    "recipe": {
        **RECIPE,
        "pipeline": "inception_crop(area=(0.5, 1))|resize(32)|range(-1, 1)|rotate",
        "architecture": "revnet50",
        "filters_factor": 0.25,
        "last_relu": False,
        "small_root": True,
        "reversible": True,
    },
    "step": 2,
    "patches": False,
    "channels": 3,
    "end_points": {"block1": [None, None, None, 16], "logits": [None, 4]},
    "tensorflow": "2.21.0",
}
PUBLISHED = {
    "recipe": {
        "architecture": "vgg19",
        "mode": "v2",
        "filters_factor": 0.125,
        "last_relu": True,
        "patch_strides": False,
        "representation_pipeline": "resize_small(37)|crop(32)|range(-1, 1)",
        "pipeline": "resize(32)",
    },
    "step": None,
    "patches": False,
    "channels": 3,
    "end_points": {"logits": [None, 4]},
    "tensorflow": "1.15.5",
}


def _write(folder, name, values):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def test_a_configuration_is_read(tmp_path):
    _write(tmp_path, "config.json", CONFIG)
    config = read_config(str(tmp_path))
    assert config.recipe == tiny.ROTATION
    assert config.recipe.optimizer == Optimizer("sgd", 2.0, 256, 0.5, (2.0,), 0.1, 0.0001)
    assert (config.steps_per_epoch, config.parameters, config.label_offset) == (6, 364, 1)
    # Every field has its own value, so that none is taken for another.
    changed = {**RECIPE, "optimizer": "adam", "mode": "v1", "margin": 2.5}
    _write(tmp_path, "config.json", {**CONFIG, "recipe": changed})
    recipe = read_config(str(tmp_path)).recipe
    assert (recipe.optimizer.name, recipe.network.mode, recipe.margin) == ("adam", "v1", 2.5)


def test_a_run_is_resumed(shards, tmp_path):
    def train(steps):
        options = Options(shards, str(tmp_path), steps=steps, device="cpu")
        return pretrain(tiny.ROTATION, options, say=lambda line: None)

    train(2)
    _write(tmp_path, "config.json", CONFIG)
    assert train(4).step == 4
    # The variables have the names of that version.
    names = {
        "module/batch_normalization/beta",
        "module/batch_normalization/gamma",
        "module/conv2d/kernel",
        "module/conv2d_1/bias",
        "module/conv2d_1/kernel",
    }
    names |= {f"{name}/Momentum" for name in names}
    names |= {f"module/batch_normalization/moving_{name}" for name in ("mean", "variance")}
    found = dict(tf.train.list_variables(str(tmp_path / "model.ckpt-4")))
    assert set(found) == {*names, "global_step", "loader_state"}


def test_an_export_of_a_run_is_described(tmp_path):
    _write(tmp_path, DESCRIPTION, RUN)
    description = read_description(str(tmp_path))
    assert description.network == Network(
        "revnet50", filters_factor=0.25, last_relu=False, small_root=True, reversible=True
    )
    assert description.pipeline == RUN["recipe"]["pipeline"]
    assert description.representation_pipeline == RECIPE["representation_pipeline"]
    assert (description.step, description.patches) == (2, False)
    assert description.end_points == {"block1": (None, None, None, 16), "logits": (None, 4)}
    assert description.recipe["task"] == "rotation"


def test_an_export_of_a_published_network_is_used(tmp_path):
    recipe = RECIPES["rotation"].replace(
        pipeline="resize(32)|rotate", architecture="vgg19", filters_factor=0.125
    )
    trained.run(tmp_path / "run", recipe)
    module = export.export_run(str(tmp_path / "run"), str(tmp_path / "module"))
    _write(tmp_path / "module", DESCRIPTION, PUBLISHED)
    description = read_description(module)
    assert description.network == Network("vgg19", filters_factor=0.125)
    assert (description.pipeline, description.recipe) == ("resize(32)", None)
    images = trained.images(1, 32, 32, 3)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        points = Representation(module).network()(tf.constant(images))
        session.run(tf.compat.v1.local_variables_initializer())
        found = session.run(points)
    trained.assert_agree(found, trained.use(module, images)[0])
