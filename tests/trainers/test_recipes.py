"""The recipes, compared with a second copy of the paper's choices."""

import pytest

pytest.importorskip("tensorflow")

from pretexture.loader import Pipeline, presets
from pretexture.scripts.run_flags import LINEAR_FIELDS, PRETRAIN_FIELDS
from pretexture.trainers import tasks
from pretexture.trainers.recipes import FIELDS, LINEAR_EVAL, RECIPES

PAPER = {
    "supervised": {
        "architecture": "resnet50",
        "mode": "v2",
        "filters_factor": 4,
        "pipeline": str(presets.SUPERVISED),
        "batch_size": 256,
        "epochs": 90,
        "decay_epochs": (30, 60, 80),
        "num_classes": 1000,
        "train_split": "trainval",
        "eval_split": "test",
    },
    "rotation": {
        "architecture": "revnet50",
        "filters_factor": 16,
        "pipeline": str(presets.ROTATION),
        "batch_size": 64,
        "epochs": 35,
        "decay_epochs": (15, 25),
        "train_split": "train",
        "eval_split": "val",
    },
    "exemplar": {
        "architecture": "resnet50",
        "mode": "v1",
        "filters_factor": 12,
        "pipeline": str(presets.EXEMPLAR),
        "batch_size": 64,
        "epochs": 35,
        "decay_epochs": (15, 25),
        "embed_dim": 1000,
        "margin": 0.5,
        "normalize_axis": 1,
        "train_split": "train",
        "eval_split": "val",
    },
    "jigsaw": {
        "architecture": "resnet50",
        "mode": "v1",
        "filters_factor": 8,
        "patch_strides": True,
        "pipeline": str(presets.PATCHES),
        "representation_pipeline": str(presets.EVAL_PATCHES),
        "batch_size": 128,
        "epochs": 35,
        "decay_epochs": (15, 25),
        "embed_dim": 1000,
        "permutations": "maximal-100",
        "permutations_per_batch": 8,
        "head_units": 4096,
        "train_split": "train",
        "eval_split": "val",
    },
    "linear": {
        "batch_size": 512,
        "epochs": 70,
        "decay_epochs": (30, 50),
        "warmup_epochs": 0,
        "weight_decay": 0,
        "max_features": 9000,
        "pooling": "adaptive_max",
        "hidden_units": 0,
        "pipeline": str(presets.EVAL),
        "train_split": "trainval",
        "eval_split": "test",
    },
}
PAPER["relative_patch_location"] = PAPER["jigsaw"]

FOR_ALL = {
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_scale_batch_size": 256,
    "lr_decay_factor": 0.1,
    "last_relu": True,
    "small_root": False,
    "reversible": False,
    "precision": "float32",
}


@pytest.mark.parametrize("name", PAPER)
def test_recipes_are_as_published(name):
    recipe = LINEAR_EVAL if name == "linear" else RECIPES[name]
    wanted = {"task": name, "warmup_epochs": 5, "weight_decay": 1e-4, **FOR_ALL, **PAPER[name]}
    found = recipe.flat()
    assert {field: found[field] for field in wanted} == wanted


def test_whole_images_are_represented_as_published():
    for name in ("supervised", "rotation", "exemplar"):
        assert RECIPES[name].representation_pipeline == str(presets.EVAL)


def test_the_npu_recipes_follow_the_ports_readme_and_its_code():
    stated, code = RECIPES["supervised-npu"], RECIPES["supervised-npu-code"]
    assert (stated.batch_size, stated.eval_batch_size, stated.optimizer.decay_epochs) == (
        128,
        32,
        (),
    )
    shown = stated.eval_pipeline
    assert shown == "resize_small(256)|crop(224)|normalize('imagenet')"
    assert stated.representation_pipeline == shown
    assert stated.pipeline == (
        "inception_crop(aspect=(0.75, 1.33), last_position=False)|resize(224, coords='tf1')"
        "|flip|normalize('imagenet')"
    )
    assert (code.batch_size, code.optimizer.decay_epochs) == (128, ())
    assert (stated.dct, code.dct) == ("fast", "fast")
    assert code.representation_pipeline == str(presets.EVAL)
    assert code.pipeline == RECIPES["supervised-paper"].pipeline and not code.eval_pipeline


# Flags of the published code's scripts, by recipe.
LEGACY = {
    "supervised": ("inception_preprocess", {"resize_size": "224"}),
    "rotation": ("inception_preprocess,rotate", {"resize_size": "224"}),
    "exemplar": (
        "to_gray,crop_inception_preprocess_patches,standardization",
        {
            "resize_size": "224,224",
            "num_of_inception_patches": 8,
            "grayscale_probability": 0.66,
        },
    ),
    "jigsaw": (
        "resize,to_gray,crop,crop_patches,standardization",
        {
            "resize_size": "292,292",
            "crop_size": "255,255",
            "grayscale_probability": 0.66,
            "splits_per_side": 3,
            "patch_jitter": 21,
        },
    ),
}
LEGACY["relative_patch_location"] = LEGACY["jigsaw"]


@pytest.mark.parametrize("name", LEGACY)
def test_paper_recipes_preprocess_as_the_published_code(name):
    names, flags = LEGACY[name]
    paper = RECIPES[f"{name}-paper"]
    assert Pipeline(paper.pipeline) == Pipeline.from_legacy(names, **flags)
    assert "tf1" in paper.pipeline
    changed = {
        "exemplar": {"normalize_axis": 0, "eval_batch_size": 16},
        "jigsaw": {"permutations": "published"},
    }
    changed = {"pipeline": paper.pipeline, "dct": "fast", **changed.get(name, {})}
    expected = RECIPES[name].replace(**changed)
    assert paper == expected


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("tiny")])
def test_no_recipe_evaluates_on_its_training_split(name):
    recipe = RECIPES[name]
    assert {"train": "val", "trainval": "test"}[recipe.train_split] == recipe.eval_split
    assert name.split("-")[0] == recipe.task == tasks.build(recipe).name


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-small")])
def test_exports_of_small_recipes_get_views_of_the_training_size(name):
    recipe = RECIPES[name]
    plan = Pipeline(recipe.pipeline).compile(training=True)
    shown = Pipeline(recipe.representation_pipeline).compile(training=False)
    assert (shown.height, shown.width) == (plan.height, plan.width)
    assert len(shown.views) == int("patches" in recipe.pipeline)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_classes": 0}, "num_classes must be 1 or more, not 0"),
        ({"max_features": 0}, "max_features must be 1 or more, not 0"),
        ({"margin": -0.5}, "margin must not be negative, not -0.5"),
        ({"hidden_units": -1}, "hidden_units must not be negative"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"precision": "half"}, "precision must be float32 or mixed, not half"),
        ({"normalize_axis": 2}, "normalize_axis must be 0 or 1, not 2"),
        ({"dct": "slow"}, "dct must be accurate or fast, not slow"),
        ({"pooling": "mean"}, "pooling must be adaptive_max or .* not mean"),
        ({"combine_patches": "sum"}, "combine_patches must be avg_pool or .* not sum"),
    ],
)
def test_impossible_values_of_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RECIPES["exemplar"].replace(**fields)


def test_every_field_is_used_by_pretraining_or_linear_evaluation():
    assert set(PRETRAIN_FIELDS) | set(LINEAR_FIELDS) == set(FIELDS) - {"task"}
