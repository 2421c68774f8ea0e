"""`pretrain` with recipes from files, with a run's config.json, and as a dry run."""

import dataclasses
import json

import numpy as np
import pytest
from pretexture.scripts import pretrain
from pretexture.trainers.recipe_files import read_recipe, write_recipe
from pretexture.trainers.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_read_back_from_its_file(name, tmp_path):
    path = str(tmp_path / "sub" / "recipe.json")
    write_recipe(path, RECIPES[name])
    assert read_recipe(path) == RECIPES[name]
    # As it stands in a config.json.
    nested = json.dumps(dataclasses.asdict(RECIPES[name]))
    (tmp_path / "nested.json").write_text(nested)
    assert read_recipe(str(tmp_path / "nested.json")) == RECIPES[name]


def test_a_saved_recipe_has_what_flags_change_and_needs_no_data(tmp_path, capsys):
    path = tmp_path / "recipe.json"
    flags = ["--lr", "0.25", "--decay-epochs", "1,2", "--save-recipe", str(path)]
    assert pretrain.main(["jigsaw-small", *flags]) == 0
    assert capsys.readouterr().out == f"{path}: the recipe; nothing was trained\n"
    values = json.loads(path.read_text())
    assert (values["task"], values["lr"], values["decay_epochs"]) == ("jigsaw", 0.25, [1, 2])
    expected = RECIPES["jigsaw-small"].replace(lr=0.25, decay_epochs=(1.0, 2.0))
    assert read_recipe(str(path)) == expected
    # A file can be the start of another one.
    other = tmp_path / "other.json"
    assert pretrain.main([str(path), "--batch-size", "8", "--save-recipe", str(other)]) == 0
    assert read_recipe(str(other)) == expected.replace(batch_size=8)


def test_a_saved_recipe_suits_the_data_that_are_given(images, write_shards, tmp_path):
    write_shards(tmp_path, images[:30], 3, "train")
    (tmp_path / "dataset.json").write_text('{"classes": ["ape", "bee", "cat"]}')
    path = str(tmp_path / "recipe.json")
    pretrain.main(["supervised-small", "--data", str(tmp_path), "--save-recipe", path])
    assert read_recipe(path).num_classes == 3


@pytest.mark.parametrize(
    "flags", [["--steps", "5"], ["--seed", "1"], ["--workdir", "w"], ["--dry-run"]]
)
def test_flags_that_are_not_of_a_recipe_are_not_saved(flags, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    with pytest.raises(SystemExit):
        pretrain.main(["rotation", *flags, "--save-recipe", str(path)])
    message = f"argument {flags[0]}: not allowed with argument --save-recipe"
    assert message in capsys.readouterr().err and not path.exists()


def test_fields_with_a_default_may_be_missing(tmp_path):
    path = tmp_path / "recipe.json"
    fields = {"task": "rotation", "pipeline": "resize(8)|rotate", "batch_size": 4, "epochs": 1}
    path.write_text(json.dumps({**fields, "eval_batch_size": 4, "filters_factor": 0.5}))
    recipe = read_recipe(str(path))
    assert recipe.network.filters_factor == 0.5 and recipe.optimizer.lr == 0.1


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"lrr": 1}, "the recipe has no field 'lrr'; did you mean 'lr'?"),
        ({"batch_sice": 1}, "the recipe has no field 'batch_sice'; did you mean 'batch_size'?"),
        ({"zzz": 1}, "the recipe has no field 'zzz'"),
        ({"task": None, "epochs": None}, "the recipe lacks 'task', 'epochs'"),
        ({"lr": "fast"}, "lr of the recipe must be a number, not 'fast'"),
        ({"lr": -1}, "lr must be above 0, not -1"),
        ({"network": 3, "optimizer": {}}, "network of the recipe is not a JSON object"),
    ],
)
def test_a_faulty_field_is_named_with_its_file(changes, message, tmp_path):
    base = RECIPES["rotation"]
    values = dataclasses.asdict(base) if "network" in changes else base.flat()
    values = {**values, **changes}
    values = {name: value for name, value in values.items() if changes.get(name, 0) is not None}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(values))
    with pytest.raises(SystemExit) as exit:
        pretrain.main([str(path), "--save-recipe", str(tmp_path / "out.json")])
    assert exit.value.code.startswith(f"error: {path}: ") and "\n" not in exit.value.code
    assert exit.value.code == f"error: {path}: {message}"
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "the following arguments are required: TASK, or --config"),
        (["rotation"], "the following arguments are required: --data, --workdir"),
        (["rotation", "--data", "d"], "the following arguments are required: --workdir"),
        (["rotatoin"], "invalid choice: 'rotatoin'; did you mean rotation? (or give a file"),
        (["none.json"], "there is no file none.json"),
        (["--config", "none.json"], "there is no file none.json"),
        (["rotation", "--dry-run-picture", "v.png", "--data", "d", "--workdir", "w"],
         "argument --dry-run-picture: only with argument --dry-run"),
    ],
)  # fmt: skip
def test_missing_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        pretrain.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch):
    pytest.importorskip("tensorflow")
    import tiny

    tiny.register(monkeypatch.setitem)
    return tiny


@pytest.fixture
def data(images, write_shards, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_shards(folder, images[:18], 2, "train")
    write_shards(folder, images[18:23], 1, "validation")
    return str(folder)


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("length", [["--epochs", "2"], ["--steps", "5"]])
def test_config_repeats_a_run(tiny, data, tmp_path, length):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["tiny-rotation", "--data", data, "--workdir", str(first), "--seed", "7"]
    arguments += ["--train-split", "trainval", "--eval-split", "test", "--lr", "0.75"]
    arguments += ["--label-offset", "0", "--log-steps", "1", "--device", "cpu", *length]
    assert pretrain.main(arguments) == 0
    config = ["--config", str(first / "config.json"), "--log-steps", "1", "--device", "cpu"]
    assert pretrain.main([*config, "--workdir", str(second)]) == 0
    found, expected = _lines(second), _lines(first)
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert configs[0] == configs[1] and configs[0]["seed"] == 7

    third = tmp_path / "third"
    assert pretrain.main([*config, "--workdir", str(third), "--seed", "0", "--steps", "2"]) == 0
    changed = json.loads((third / "config.json").read_text())
    assert changed == {**configs[0], "seed": 0, "steps": 2}


def test_a_faulty_config_names_its_file_and_field(tiny, tmp_path):
    import trained

    trained.write_config(tmp_path, tiny.ROTATION)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["seed"]
    path.write_text(json.dumps(values))
    arguments = ["--config", str(path), "--workdir", str(tmp_path / "w")]
    with pytest.raises(SystemExit) as exit:
        pretrain.main(arguments)
    assert exit.value.code == f"error: {path} is not a run's configuration: it lacks 'seed'"
    path.write_text(json.dumps({**values, "seed": 0, "module": "m"}))
    with pytest.raises(SystemExit, match="is of a linear evaluation, which linear-eval runs"):
        pretrain.main(arguments)


def test_a_dry_run_says_what_would_be_run_and_trains_nothing(tiny, data, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "run"
    arguments = ["tiny-rotation", "--data", data, "--workdir", str(folder), "--device", "cpu"]
    arguments += ["--train-split", "trainval", "--eval-split", "test", "--epochs", "4"]
    assert pretrain.main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    # 3 x 3 x 3 x 8 weights, 2 x 8 of the normalisation, 32 x 4 weights and 4 biases.
    count = 3 * 3 * 3 * 8 + 16 + 32 * 4 + 4
    for line in (
        f"data      {data}, split trainval: 18 images, 3 steps of 6 an epoch",
        f"model     tiny, widening factor 4: {count} parameters",
        "steps     12, 4 epochs",
        f"picture   {folder / 'views.png'}: views of the first batch",
        "this was a dry run: nothing was trained",
    ):
        assert line in said
    assert any(line.startswith("memory    parameters 0.0 MiB, sgd 0.0 MiB, ") for line in said)
    assert [path.name for path in folder.iterdir()] == ["views.png"]
    # 6 images of 4 turns, 12 pixels each, 2 pixels apart.
    pixels = np.asarray(image.open(folder / "views.png"))
    assert pixels.shape == (6 * 14 - 2, 4 * 14 - 2, 3)
    for row in range(6):
        turns = [pixels[14 * row :][:12, 14 * i :][:, :12] for i in range(4)]
        for turn, view in enumerate(turns):
            np.testing.assert_allclose(view, np.rot90(turns[0], turn), atol=1)

    # The run itself is not affected, and a dry run of it says where it would be resumed.
    assert pretrain.main([*arguments[:-1], "1"]) == 0
    capsys.readouterr()
    other = ["--dry-run", "--dry-run-picture", str(tmp_path / "other.png")]
    assert pretrain.main([*arguments, *other]) == 0
    assert f"workdir   {folder}, resumed after step 3" in capsys.readouterr().out
    assert (tmp_path / "other.png").exists()
    with pytest.raises(SystemExit, match=r"was trained with lr = 2, and now it is 0\.5"):
        pretrain.main([*arguments, *other, "--lr", "0.5"])


def test_the_memory_of_a_graph_is_that_of_the_tensors_that_are_needed_at_once():
    tf = pytest.importorskip("tensorflow")
    from pretexture.trainers.engines.memory import live_bytes

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1000])  # 4,000 bytes
        a = tf.exp(x)
        b = tf.exp(a)  # a is not needed any more
        c = tf.reshape(b, [10, 100])  # the same memory
        tf.exp(c)
    assert live_bytes(graph) == 8000

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1000])
        layers = [x]
        for _ in range(5):
            layers.append(tf.exp(layers[-1]))
        tf.gradients(layers[-1], x)  # exp's gradient needs exp's result
    # The five results and one gradient with its product; constants are small.
    assert 6 * 4000 <= live_bytes(graph) <= 8 * 4000
