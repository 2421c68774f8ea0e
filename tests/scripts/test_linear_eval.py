import json
import signal
import sys

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib")

import matplotlib.image
import trained
from pretexture.scripts import linear_eval as script
from pretexture.scripts import run_flags
from pretexture.trainers.exports.saved_model import export_run
from pretexture.trainers.recipes import FIELDS, LINEAR_EVAL

CHANGED = {str: "changed", int: 7, float: 2.5, tuple: (3.0, 4.5)}


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """An export, which tests must not change."""
    folder = tmp_path_factory.mktemp("module")
    trained.run(folder / "run")
    return export_run(str(folder / "run"), str(folder / "export"))


@pytest.fixture(scope="module")
def data(images, write_shards, tmp_path_factory):
    """A folder with 12 training images and 5 validation images of 12 classes."""
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, images[:12], 2, "train")
    write_shards(folder, images[12:17], 1, "validation")
    return str(folder)


@pytest.fixture
def arguments(module, data, tmp_path):
    """The arguments of a short run."""
    flags = ["--module", module, "--data", data, "--workdir", str(tmp_path / "work")]
    flags += ["--num-classes", "12", "--batch-size", "6", "--device", "cpu"]
    return [*flags, "--end-points", "block2, logits"]


def _recipe(*arguments):
    required = ["--module", "m", "--data", "d", "--workdir", "w"]
    flags = script._parser().parse_args([*required, *arguments])
    return run_flags.chosen_recipe(flags, LINEAR_EVAL, run_flags.LINEAR_FIELDS)


@pytest.mark.parametrize("name", run_flags.LINEAR_FIELDS)
def test_every_recipe_field_of_linear_evaluation_has_a_flag(name):
    before = LINEAR_EVAL.flat()[name]
    value = {"pooling": "max", "combine_patches": "concat", "optimizer": "adam", "dct": "fast"}.get(
        name, CHANGED[type(before)]
    )
    written = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    recipe = _recipe(f"--{name.replace('_', '-')}", written)
    assert recipe == LINEAR_EVAL.replace(**{name: value}) != LINEAR_EVAL


def test_defaults_are_the_published_ones():
    assert _recipe() == LINEAR_EVAL


def test_network_fields_have_no_flags(capsys):
    names = set(FIELDS) - set(run_flags.LINEAR_FIELDS)
    for name in sorted(names):
        with pytest.raises(SystemExit):
            _recipe(f"--{name.replace('_', '-')}", "1")
        assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [[], ["--cache"]])
def test_results_are_a_table_and_a_chart(arguments, module, tmp_path, capsys, cache):
    assert script.main([*arguments, "--steps", "3", *cache]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("views") and line.endswith(trained.VGG.representation_pipeline)
        for line in lines
    )
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    assert (results["images"], results["module"]) == (5, module)
    assert list(results["end_points"]) == ["block2", "logits"]
    at = lines.index("end point    features    top1    top5")
    assert lines[at + 1].split()[0] == "(chance)"
    for line, (name, values) in zip(lines[at + 2 :], results["end_points"].items()):
        words = line.split()
        assert words[:2] == [name, f"{values['features']:,}"]
        assert words[2:4] == [f"{values[metric]:.1%}" for metric in ("top1", "top5")]
    assert lines[-1] == ", ".join(
        str(tmp_path / "work" / name) for name in ("results.json", "results.png")
    )
    picture = matplotlib.image.imread(str(tmp_path / "work" / "results.png"))
    assert picture.shape[0] > 300 and picture.shape[1] > 500
    assert (tmp_path / "work" / "features").exists() == bool(cache)


def test_without_matplotlib_there_is_no_chart(arguments, tmp_path, capsys, monkeypatch):
    for name in ("pretexture.trainers.transfer.chart", "pretexture.loader.pyplot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert script.main([*arguments, "--steps", "1", "--cache"]) == 0
    assert "pip install 'pretexture[plot]'" in capsys.readouterr().err
    assert (tmp_path / "work" / "results.json").exists()
    assert not (tmp_path / "work" / "results.png").exists()


def test_an_interrupted_run_says_how_to_resume(arguments, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        trained.interrupt_after(patched, 1)
        assert script.main([*arguments, "--steps", "3", "--cache"]) == 128 + signal.SIGINT
    assert "run the same command again to resume" in capsys.readouterr().out
    assert script.main([*arguments, "--steps", "3", "--cache"]) == 0
    assert "resumed after step 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more,message",
    [
        (["--end-points", "block9"], "the module has no end point block9, but block1"),
        (["--pipeline", "resize(96)|patches(3)"], "the module takes one view of an image"),
        (["--cache", "--pipeline", "gray(0.5)|resize(32)"], "--cache needs views without chance"),
        (["--pooling", "mean"], "pooling must be adaptive_max or adaptive_avg or max or avg"),
        (["--num-classes", "2"], "counted from 0, and --num-classes is 2: give --num-classes"),
        (["--module", "nothing"], "nothing is not an export of pretexture export"),
    ],
)
def test_errors_take_one_line(arguments, more, message):
    with pytest.raises(SystemExit) as exit:
        script.main([*arguments, *more])
    assert exit.value.code.startswith("error: ") and "\n" not in exit.value.code
    assert message in exit.value.code


def test_steps_and_epochs_exclude_each_other(arguments, capsys):
    with pytest.raises(SystemExit):
        script.main([*arguments, "--steps", "3", "--epochs", "2"])
    assert "argument --epochs: not allowed with argument --steps" in capsys.readouterr().err


@pytest.mark.usefixtures("no_hang")
def test_module_data_and_workdir_may_be_urls(module, data, arguments, s3, tmp_path):
    pytest.importorskip("s3fs")
    for folder, name in ((module, "module"), (data, "data")):
        s3.fs.put(folder, f"{s3.bucket}/{name}", recursive=True)
    assert script.main([*arguments, "--cache", "--steps", "3"]) == 0
    expected = json.loads((tmp_path / "work" / "results.json").read_text())
    urls = {"--module": "module", "--data": "data", "--workdir": "work"}
    remote = list(arguments)
    for flag, name in urls.items():
        remote[remote.index(flag) + 1] = f"{s3.bucket}/{name}"
    remote += ["--endpoint-url", s3.endpoint, "--cache-dir", str(tmp_path / "cache"), "--cache"]
    assert script.main([*remote, "--steps", "3"]) == 0
    found = json.loads(s3.fs.cat(f"{s3.bucket}/work/results.json"))
    assert found["end_points"] == expected["end_points"]
    assert (found["module"], found["data"]) == (f"{s3.bucket}/module", f"{s3.bucket}/data")
    assert s3.fs.exists(f"{s3.bucket}/work/results.png")
    assert not s3.fs.exists(f"{s3.bucket}/work/features")


def test_a_folder_of_a_few_photographs_needs_neither_classes_nor_a_batch(
    module, images, tmp_path, capsys
):
    for number, image in enumerate(images):
        split = "val" if number % 4 == 0 else "train"
        folder = tmp_path / "data" / split / ("ape", "bee", "cat")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image)
    flags = ["--module", module, "--data", str(tmp_path / "data"), "--end-points", "logits"]
    flags += ["--workdir", str(tmp_path / "work"), "--steps", "2", "--device", "cpu", "--cache"]
    assert script.main(flags) == 0
    recipe = json.loads((tmp_path / "work" / "config.json").read_text())["recipe"]
    assert recipe["num_classes"] == 3
    assert recipe["batch_size"] == 4  # of 27 images


def test_a_batch_that_is_too_large_is_refused_before_features_are_computed(arguments, tmp_path):
    with pytest.raises(SystemExit, match="has 12 records, fewer than batch_size 13: give a --bat"):
        script.main([*arguments, "--batch-size", "13", "--cache"])
    assert not (tmp_path / "work").exists()
