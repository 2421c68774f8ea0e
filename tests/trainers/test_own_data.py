import json

import pytest
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.remote import DEFAULT_STORAGE
from pretexture.trainers.own_data import suited
from pretexture.trainers.recipes import LINEAR_EVAL, RECIPES


@pytest.fixture(scope="module")
def prepared(images, write_shards, tmp_path_factory):
    """A folder with 30 images for training and 5 for validation, of three named classes."""
    folder = tmp_path_factory.mktemp("prepared")
    write_shards(folder, images[:30], 3, "train")
    write_shards(folder, images[30:35], 1, "validation")
    splits = {"train": {"records": 30}, "validation": {"records": 5}}
    described = {"classes": ["ape", "bee", "cat"], "splits": splits}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def _suited(recipe, data, *given):
    return suited(recipe, given, str(data), DEFAULT_STORAGE, RecordOptions())


def test_the_classes_are_those_that_dataset_json_names(prepared):
    recipe, words = _suited(LINEAR_EVAL, prepared)
    assert recipe.num_classes == 3
    assert words[0] == "3 classes, as the data name them"
    assert _suited(RECIPES["supervised"], prepared)[0].num_classes == 3
    # The number says nothing of a task without classes, and a run resumes with what it began with.
    assert _suited(RECIPES["rotation"], prepared)[0].num_classes == 1000
    assert _suited(LINEAR_EVAL.replace(num_classes=7), prepared, "num_classes")[0].num_classes == 7


def test_the_classes_are_those_of_class_folders(images, tmp_path):
    for number, image in enumerate(images[:12]):
        folder = tmp_path / "train" / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image)
    assert _suited(LINEAR_EVAL, tmp_path)[0].num_classes == 4


@pytest.mark.parametrize(
    "name,split,batch", [("rotation", "trainval", 4), ("rotation-small", "trainval", 16)]
)
def test_a_batch_has_no_more_images_than_a_quarter_of_a_small_split(prepared, name, split, batch):
    # 30 images: 7 is a quarter, 4 the largest power of two in it. 16 images fit, and stay.
    recipe = RECIPES[name].replace(train_split=split)
    found, words = _suited(recipe, prepared)
    assert found.batch_size == batch
    assert bool(words) == (batch != recipe.batch_size)
    assert _suited(recipe, prepared, "batch_size")[0].batch_size == recipe.batch_size


def test_ones_own_validation_images_are_evaluated_on(prepared, images, write_shards, tmp_path):
    assert _suited(RECIPES["rotation"], prepared)[0].eval_split == "test"
    assert _suited(RECIPES["rotation"], prepared, "eval_split")[0].eval_split == "val"
    write_shards(tmp_path, images[:30], 3, "train")  # perhaps ImageNet: as in the paper
    assert _suited(RECIPES["rotation"], tmp_path)[0].eval_split == "val"


def test_too_few_classes_are_refused(prepared, images, write_shards, tmp_path):
    with pytest.raises(ValueError, match="has 3 classes, and --num-classes is 2: leave"):
        _suited(LINEAR_EVAL.replace(num_classes=2), prepared, "num_classes")
    write_shards(tmp_path, images[:30], 3, "train")
    (tmp_path / "dataset.json").write_text('{"classes": ["unlabelled"]}')
    with pytest.raises(ValueError, match="has a single class, so there are no classes to tell"):
        _suited(LINEAR_EVAL, tmp_path)
    assert _suited(RECIPES["rotation"], tmp_path)[0].task == "rotation"


@pytest.mark.parametrize(
    "text,message",
    [
        ("[1, 2]", "dataset.json must hold a JSON object"),
        ('{"classes": 3}', "classes are not a list"),
    ],
)
def test_a_malformed_description_is_not_taken_for_none(
    images, write_shards, tmp_path, text, message
):
    write_shards(tmp_path, images[:30], 3, "train")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        _suited(LINEAR_EVAL, tmp_path)


def test_data_that_cannot_be_read_change_nothing(tmp_path):
    assert _suited(LINEAR_EVAL, tmp_path / "none") == (LINEAR_EVAL, [])
