import dataclasses
import re

import pytest
from pretexture.loader.shards.record_options import RecordOptions
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.scripts import evaluate, flags, linear_eval, pretrain, run_flags
from pretexture.trainers.recipes import FIELDS, RECIPES


def _recipe(*arguments):
    flags = pretrain._parser().parse_args(["--data", "d", "--workdir", "w", *arguments])
    return run_flags.chosen_recipe(flags, RECIPES[flags.recipe], run_flags.PRETRAIN_FIELDS)


def _written(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


CHANGED = {str: "changed", int: 7, float: 2.5, bool: None, tuple: (3.0, 4.5)}


@pytest.mark.parametrize("name", run_flags.PRETRAIN_FIELDS)
def test_every_recipe_field_has_a_flag(name):
    before = RECIPES["jigsaw"].flat()[name]
    value = not before if isinstance(before, bool) else CHANGED[type(before)]
    if FIELDS[name].metadata["choices"]:
        (value,) = set(FIELDS[name].metadata["choices"]) - {before}
    assert before != value
    recipe = _recipe("jigsaw", f"--{name.replace('_', '-')}", _written(value))
    assert recipe == RECIPES["jigsaw"].replace(**{name: value})
    assert recipe.flat() == {**RECIPES["jigsaw"].flat(), name: value}


@pytest.mark.parametrize("name", RECIPES)
def test_without_flags_a_recipe_is_unchanged(name):
    assert _recipe(name) == RECIPES[name]


def test_an_empty_decay_epochs_flag_means_no_decay():
    assert _recipe("rotation", "--decay-epochs", "").optimizer.decay_epochs == ()


@pytest.mark.parametrize(
    "script,needed",
    [(pretrain, ["rotation"]), (evaluate, []), (linear_eval, ["--module", "m"])],
    ids=["pretrain", "evaluate", "linear_eval"],
)
def test_every_command_that_reads_records_has_the_record_flags(script, needed):
    needed = [*needed, "--data", "d", "--workdir", "w"]
    assert flags.record_options(script._parser().parse_args(needed)) == {}
    values = {
        "image_key": "image",
        "label_key": "label",
        "label_offset": -3,
        "on_error": "skip",
        "max_pixels": 179_000_000,
    }
    assert set(values) == {field.name for field in dataclasses.fields(RecordOptions)}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    assert flags.record_options(script._parser().parse_args([*needed, *given])) == values


def test_an_unusable_record_is_an_error_that_names_on_error_skip(
    write_shards, images, tmp_path, capsys
):
    pytest.importorskip("tensorflow")
    write_shards(tmp_path, [*images[:4], b"no image", *images[4:7]], 2)
    arguments = ["rotation-small", "--data", str(tmp_path), "--workdir", str(tmp_path / "run")]
    arguments += ["--train-split", "trainval", "--filters-factor", "0.125", "--batch-size", "8"]
    arguments += ["--steps", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as exit:
        pretrain.main(arguments)
    assert "train-00001-of-00002 at byte 0 (record 4): the image is " in exit.value.code
    assert exit.value.code.endswith(
        "; --on-error skip leaves out records that cannot be used, and counts them"
    )
    capsys.readouterr()
    assert pretrain.main([*arguments, "--on-error", "skip"]) == 0
    said = capsys.readouterr()
    assert "\nskipped 1 records that could not be used" in said.out
    assert "skipped: " in said.err and said.err.rstrip().endswith(", 1 skipped")


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    needed = ["rotation", "--data=~/d", "--workdir=~/w", "--cache-dir=~/c"]
    flags = pretrain._parser().parse_args(needed)
    found = (flags.data, flags.workdir, flags.cache_dir)
    assert found == tuple(str(tmp_path / name) for name in "dwc")
    flags = evaluate._parser().parse_args(["--data", "s3://b/~/d", "--workdir", "~/w"])
    assert (flags.data, flags.workdir) == ("s3://b/~/d", str(tmp_path / "w"))


@pytest.mark.parametrize(
    "flags,message",
    [
        ([], r"the label 0 less --label-offset=1 is below 0; .*, use --label-offset=0"),
        (["--label-offset", "0"], None),
        (
            ["--image-key", "picture"],
            "no feature 'picture' .*'image/encoded'.*; --image-key and --label-key name",
        ),
        (["--label-offset", "0", "--num-classes", "2"], "is of class 2, .*: give --num-classes"),
        (
            ["--label-offset", "0", "--max-pixels", "9"],
            "than --max-pixels=9; --on-error skip",
        ),
    ],
)
def test_record_errors_name_the_flag_that_helps(flags, message, images, tmp_path):
    pytest.importorskip("tensorflow")
    for i in range(2):  # its labels count from 0
        with TFRecordWriter(tmp_path / f"train-{i:05}-of-00002") as shard:
            for number in range(8):
                features = {"image/encoded": images[number], "image/class/label": number % 3}
                shard.write(example(features))
    arguments = ["supervised-small", "--data", str(tmp_path), "--workdir", str(tmp_path / "run")]
    arguments += ["--filters-factor", "0.125", "--batch-size", "8", "--train-split", "trainval"]
    arguments += ["--steps", "1", "--device", "cpu", "--num-classes", "3", *flags]
    if message is None:
        assert pretrain.main(arguments) == 0
        return
    with pytest.raises(SystemExit) as exit:
        pretrain.main(arguments)
    assert re.search(message, exit.value.code) and "\n" not in exit.value.code


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["colorization"], "invalid choice: 'colorization'"),
        (["rotation", "--last-relu", "yes"], "must be true or false, not 'yes'"),
        (["rotation", "--decay-epochs", "a,b"], "must be numbers such as 15,25, not 'a,b'"),
        (["rotation", "--steps", "-1"], "must be 0 or more, not -1"),
        (["rotation", "--learning-rate", "1"], "unrecognized arguments: --learning-rate"),
        (["rotation", "--steps", "5", "--epochs", "1"], "not allowed with argument"),
    ],
)
def test_contradictory_flags_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        pretrain.main(["--data", "d", "--workdir", "w", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["rotation"], "there is no folder"),
        (["rotation", "--lr", "-1"], "lr must be above 0, not -1"),
        (["rotation", "--decay-epochs", "3,2"], "decay_epochs must ascend"),
        (["rotation", "--seed", "-1"], "seed must be from 0 to 2147483647, not -1"),
        (["rotation", "--pipeline", "resize(8)|turn"], "there is no step 'turn'"),
        (["rotation", "--device", "npu"], "--device npu needs npu_"),
        (["rotation", "--device", "gpu"], "TensorFlow"),
    ],
)
def test_errors_take_one_line(arguments, message, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if "gpu" in arguments and tf.config.experimental.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as exit:
        pretrain.main(
            [*arguments, "--data", str(tmp_path / "none"), "--workdir", str(tmp_path / "w")]
        )
    assert exit.value.code.startswith("error: ") and "\n" not in exit.value.code
    assert message in exit.value.code
    assert not (tmp_path / "w").exists()


def test_with_traceback_errors_are_raised(tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(FileNotFoundError):
        pretrain.main(
            ["rotation", "--traceback", "--data", str(tmp_path / "none"), "--workdir", "w"]
        )


def test_evaluating_a_folder_without_a_run_is_an_error_of_one_line(tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(SystemExit, match=r"error: .* holds no run"):
        evaluate.main(["--workdir", str(tmp_path), "--data", str(tmp_path)])


def test_names_are_escaped_on_the_terminal(write_shards, images, tmp_path, capsys):
    pytest.importorskip("tensorflow")
    folder = tmp_path / "red\x1b[31m\x07\u202e"
    data, run = folder / "data", folder / "run"
    data.mkdir(parents=True)
    write_shards(data, images[:8], 2)
    write_shards(data, [*images[:2], b"no image"], 1, "validation")
    where = ["--data", str(data), "--workdir", str(run)]
    arguments = ["rotation-small", *where, "--filters-factor", "0.125", "--batch-size", "8"]
    arguments += ["--train-split", "trainval", "--eval-split", "test", "--steps", "1"]
    assert pretrain.main([*arguments, "--device", "cpu"]) == 0
    assert evaluate.main([*where, "--device", "cpu", "--on-error", "skip"]) == 0
    with pytest.raises(SystemExit) as exit:
        evaluate.main([*where, "--device", "cpu"])
    said = capsys.readouterr()
    for text in (said.out, said.err, exit.value.code):
        assert r"red\x1b[31m\x07\u202e" in text
        assert not set(text) & {"\x1b", "\x07", "\u202e"}


@pytest.mark.parametrize("name", ["rotation-small", "supervised-npu"])
def test_the_flags_that_show_lists_are_those_of_the_recipe(name, capsys):
    with pytest.raises(SystemExit) as exit:
        pretrain.main(["--show", name])
    assert not exit.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name}: task {RECIPES[name].task}"
    shown = [line.split(" ", 3)[2:] for line in lines if line.startswith("  --")]
    assert [flag for flag, _ in shown] == [
        f"--{field.replace('_', '-')}" for field in run_flags.PRETRAIN_FIELDS
    ]
    arguments = [part for flag, text in shown for part in (flag, "" if text == "''" else text)]
    # Given to another recipe, they make this one of it.
    other = RECIPES[name].replace(batch_size=7, lr=9.0, pipeline="crop(3)", epochs=2.0)
    flags = pretrain._parser().parse_args([name, "--data=d", "--workdir=w", *arguments])
    assert run_flags.chosen_recipe(flags, other, run_flags.PRETRAIN_FIELDS) == RECIPES[name]
