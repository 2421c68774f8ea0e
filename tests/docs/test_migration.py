"""docs/ascend-migration.md covers all of the published code, and names only what exists here."""

import re

import pages
import pytest
from pretexture.loader.language.legacy import from_legacy
from pretexture.loader.language.steps import STEPS

LANGUAGES = ["docs/ascend-migration.md", "docs/ascend-migration.zh.md"]
SCRIPTS = [
    *("config/supervised/imagenet.sh", "config/rotation/imagenet.sh"),
    *("config/exemplar/imagenet.sh", "config/jigsaw/imagenet.sh"),
    "config/relative_patch_location/imagenet.sh",
    *("config/evaluation/rotation_or_exemplar.sh", "train_and_eval.py", "boot_modelarts.py"),
    "config/evaluation/jigsaw_or_relative_patch_location.sh",
]
# The flags that train_and_eval.py of the published code defines.
FLAGS = re.findall(
    r"\w+",
    """
    workdir num_gpus use_tpu run_eval tpu_worker_name dataset dataset_dir eval_batch_size
    keep_checkpoint_every_n_hours random_seed save_checkpoints_secs serving_input_key
    serving_input_shape signature task train_split val_split embed_dim margin
    num_of_inception_patches patch_jitter perm_subset_size splits_per_side eval_model
    hub_module pool_mode combine_patches architecture filters_factor last_relu mode
    batch_size decay_epochs epochs lr_decay_factor lr lr_scale_batch_size optimizer
    warmup_epochs weight_decay crop_size grayscale_probability preprocessing
    randomize_resize_method resize_size smaller_size
""",
)

# Which names read which flag.
READS = {
    "resize_size": {"resize", "inception_preprocess", "crop_inception_preprocess_patches"},
    "num_of_inception_patches": {"crop_inception_preprocess_patches"},
    "smaller_size": {"resize_small"},
    "crop_size": {"crop", "central_crop"},
    "splits_per_side": {"crop_patches"},
    "patch_jitter": {"crop_patches"},
    "grayscale_probability": {"to_gray"},
}


def _rows(page):
    """The rows of its tables as (there, here)."""
    return re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", pages.text(page), re.M)


@pytest.mark.parametrize("page", LANGUAGES)
def test_every_script_and_flag_of_the_published_code_is_on_the_page(page):
    text = pages.text(page)
    assert not [script for script in SCRIPTS if f"`{script}`" not in text]
    assert not [flag for flag in FLAGS if not re.search(rf"`--{flag}[` ]", text)]


@pytest.mark.parametrize("page", LANGUAGES)
def test_the_flags_and_commands_on_the_right_exist(page):
    for there, here in _rows(page):
        for words in re.findall(r"`pretexture ([^`]+)`", here):
            name, *rest = words.split()
            assert name in pages.COMMANDS, there
            if name == "pretrain":
                pages.parse([name, *rest, "--data", "a", "--workdir", "b"])
        known = {
            flag
            for name in pages.COMMANDS
            for action in pages.parser(name)._actions
            for flag in action.option_strings
        }
        assert set(re.findall(r"`(--[a-z-]+)", here)) <= known, there


def test_flags_that_keep_their_names_exist():
    (kept,) = re.findall(
        r"^These keep their names: (.*?)\n\n", pages.text(LANGUAGES[0]), re.M | re.S
    )
    names = {flag.replace("_", "-") for flag in re.findall(r"`(--\w+)`", kept)}
    assert len(names) == 19
    here = set()
    for name in ("pretrain", "linear-eval"):
        for action in pages.parser(name)._actions:
            here.update(action.option_strings)
    assert names <= here


def test_steps_are_those_that_the_old_names_stand_for():
    given = {"resize_size": "224", "num_of_inception_patches": 8, "smaller_size": 256}
    given.update(crop_size="224", splits_per_side=3, patch_jitter=21, grayscale_probability=0.66)
    checked = 0
    for there, here in _rows(LANGUAGES[0]):
        olds = re.findall(r"`([a-z0-9-][a-z0-9_]*)`", there)
        for old, new in zip(olds, re.findall(r"`([^`]+)`", here)):
            kind = STEPS.get(new.split("(")[0])
            if kind is None:
                continue
            flags = {flag: given[flag] for flag in given if old in READS[flag]}
            if old == "resize":
                flags["resize_size"] = "292"
            (step,) = from_legacy(old, flags)
            assert type(step) is kind, old
            numbers = [float(x) for x in re.findall(r"-?[0-9.]+", new)]
            assert set(numbers) <= {x for x in vars(step).values() if isinstance(x, (int, float))}
            checked += 1
    assert checked == 13


def test_both_languages_have_the_same_commands_and_tables():
    english, chinese = (
        [block.text for block in pages.blocks(page, "console", "python")] for page in LANGUAGES
    )
    assert english == chinese and len(english) == 7
    names = [[re.findall(r"`[^`]+`", there) for there, _ in _rows(page)] for page in LANGUAGES]
    assert names[0] == names[1]


@pytest.mark.parametrize("page", LANGUAGES)
def test_the_published_names_on_the_page_are_a_pipeline(page):
    (block,) = pages.blocks(page, "python")
    scope = {}
    exec(block.text, scope)
    assert str(scope["pipeline"].steps[0]) == "resize(292, 292, coords='tf1')"
