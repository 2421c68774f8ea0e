import json
import os
import pathlib
import sys

import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from pretexture.loader.console.marked import replace_marked
from pretexture.scripts import evaluate, export, knn, linear_eval, pretrain, run_flags
from pretexture.scripts.study import main
from pretexture.trainers.recipes import LINEAR_EVAL, RECIPES
from pretexture.trainers.transfer import chart, study

PARSERS = {
    "pretrain": pretrain._parser,
    "evaluate": evaluate._parser,
    "export": export._parser,
    "linear-eval": linear_eval._parser,
    "knn": knn._parser,
}


def _runs(*accuracies, pretext=None):
    """The results of runs as they are on disk, from the top-1 of block1 and logits of each."""
    runs = []
    for block1, logits in accuracies:
        run = {"end_points": {"block1": {"top1": block1}, "logits": {"top1": logits}}}
        run["knn"] = {"block1": {"top1": block1 - 0.25}, "logits": {"top1": logits - 0.05}}
        if pretext is not None:
            run["pretext"] = {"accuracy": pretext, "loss": 0.5}
        runs.append(run)
    return runs


FOUND = {
    "random": _runs((0.30, 0.20), (0.34, 0.18)),
    "supervised": _runs((0.50, 0.62), (0.54, 0.60), pretext=0.7),
    "jigsaw": _runs((0.40, 0.35), pretext=0.25),
}


@pytest.fixture
def bars(monkeypatch):
    """The arguments of `Axes.bar` for each series: (heights, label, errors)."""
    drawn = []
    original = Axes.bar

    def bar(self, x, height, width, **how):
        drawn.append((list(height), how["label"], how["yerr"]))
        return original(self, x, height, width, **how)

    monkeypatch.setattr(Axes, "bar", bar)
    return drawn


@pytest.mark.parametrize("name", study.STUDY)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_commands_of_a_network_have_valid_flags(name, seed):
    entry = study.STUDY[name]
    commands = study._commands(entry, "DATA", "F", "F/linear", seed, 10)
    flags = {command[0]: PARSERS[command[0]]().parse_args(command[1:]) for command in commands}
    scripts = ["pretrain", "evaluate", "export", "linear-eval", "knn"]
    assert [command[0] for command in commands] == [
        name for name in scripts if entry.epochs or name != "evaluate"
    ]
    pretraining, linear = flags["pretrain"], flags["linear-eval"]
    recipe = run_flags.chosen_recipe(pretraining, RECIPES[entry.recipe], run_flags.PRETRAIN_FIELDS)
    assert (recipe.task, recipe.train_split, recipe.num_classes) == (
        entry.recipe[: -len("-small")],
        "trainval",
        10,
    )
    if entry.epochs:
        assert recipe.epochs == entry.epochs and pretraining.steps is None
        decays = recipe.optimizer.decay_epochs
        assert recipe.optimizer.warmup_epochs < decays[0] < decays[1] < entry.epochs
    else:
        assert pretraining.steps == 0
    heads = run_flags.chosen_recipe(linear, LINEAR_EVAL, run_flags.LINEAR_FIELDS)
    assert (heads.train_split, heads.eval_split, heads.num_classes) == ("trainval", "test", 10)
    assert heads.optimizer.decay_epochs[-1] < heads.epochs == study.LINEAR["epochs"]
    assert linear.cache and linear.module == flags["export"].out
    neighbours = flags["knn"]
    assert (neighbours.train_split, neighbours.eval_split) == ("trainval", "test")
    assert (neighbours.module, neighbours.out) == (
        flags["export"].out,
        os.path.join("F", "knn.json"),
    )
    assert pretraining.seed == linear.seed == seed
    assert pretraining.workdir == flags["export"].workdir == "F" != linear.workdir


def test_the_table_has_means_deviations_and_bold_best_end_points():
    lines = study._tables(FOUND, 10, "study.png").splitlines()
    assert "![Accuracy over end points](study.png)" in lines
    assert "| pretraining | seeds | block1 | logits |" in lines
    # The sample standard deviation of two values is |a - b| / sqrt(2).
    assert "| random | 2 | **32.0 ± 2.8** | 19.0 ± 1.4 |" in lines
    assert "| supervised | 2 | 52.0 ± 2.8 | **61.0 ± 1.4** |" in lines
    assert "| jigsaw | 1 | **40.0** | 35.0 |" in lines
    assert "| supervised | 70.0 | 0.500 |" in lines
    assert not any(line.startswith("| random | ") and line.endswith("0.500 |") for line in lines)
    assert lines[-1] == "```" and sum(line.startswith("pretexture ") for line in lines) == 14
    columns = [line.count("|") for line in lines if line.startswith("|")]
    assert columns == [5] * 5 + [4] * 3 + [5] * 5 + [4] * 3 + [4] * 4
    # Nearest neighbours have a table of their own, and another best end point.
    assert "| random | 2 | 7.0 ± 2.8 | **14.0 ± 1.4** |" in lines


def test_a_network_is_compared_with_the_untrained_one_of_its_seed_and_kind():
    patches = {**FOUND, "random_patches": _runs((0.25, 0.30))}
    assert study._margins(patches, "end_points")[3:] == [
        "| supervised | logits | +32.0, +26.0 |",
        "| jigsaw | block1 | +10.0 |",
    ]
    assert study._margins(FOUND, "knn")[3:] == ["| supervised | logits | +42.0, +42.0 |"]
    assert study._margins({"supervised": FOUND["supervised"]}, "knn") == []


def test_the_part_of_a_document_between_its_marks_is_replaced():
    text = "before\n<!-- study -->\nold\n<!-- /study -->\nafter\n<!-- other -->"
    once = replace_marked(text, "study", "new")
    assert once == "before\n<!-- study -->\n\nnew\n<!-- /study -->\nafter\n<!-- other -->"
    assert replace_marked(once, "study", "new") == once
    for wrong in ("", "<!-- study -->", "<!-- /study --> <!-- study -->"):
        with pytest.raises(ValueError, match="there are no marks <!-- study --> and <!-- /study"):
            replace_marked(wrong, "study", "new")


@pytest.fixture
def called(monkeypatch):
    """A list of the commands that were run; each writes the files of the real command."""
    commands = []

    def call(command):
        assert command[:3] == [sys.executable, "-m", "pretexture"]
        script = command[3]
        if script == "knn":
            out = pathlib.Path(command[command.index("--out") + 1])
            commands.append((script, str(out.parent)))
            points = {"block1": {"top1": 0.25, "top5": 1.0}, "logits": {"top1": 0.5, "top5": 0.75}}
            out.write_text(json.dumps({"end_points": points}))
            return 0
        workdir = command[command.index("--workdir") + 1]
        commands.append((script, workdir))
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        if script == "evaluate":
            found = {"accuracy": 0.75, "loss": 1.25}
            (folder / "eval-test.json").write_text(json.dumps(found))
        if script == "linear-eval":
            best = 0.5 if "random" in workdir else 0.75
            points = {"block1": {"top1": best, "top5": 1.0}, "logits": {"top1": 0.25, "top5": 0.5}}
            (folder / "results.json").write_text(json.dumps({"end_points": points}))
            (folder / "features" / "train").mkdir(parents=True)
            (folder / "features" / "train" / "features.npy").write_bytes(b"much")
        return 0

    monkeypatch.setattr(study.subprocess, "call", call)
    return commands


@pytest.fixture
def arguments(tmp_path):
    """The arguments of a study of two networks."""
    document = tmp_path / "docs.md"
    document.write_text("# Study\n<!-- study -->\n<!-- /study -->\nThe end.\n")
    flags = ["--data", "DATA", "--workdir", str(tmp_path / "work"), "--out", str(document)]
    return [*flags, "--tasks", "random,supervised", "--seeds", "2"]


def test_a_study_writes_its_document_and_repeats_nothing(arguments, called, tmp_path, bars):
    assert main(arguments) == 0
    untrained = ["pretrain", "export", "linear-eval", "knn"]
    trained = ["pretrain", "evaluate", "export", "linear-eval", "knn"]
    assert [script for script, _ in called] == 2 * [*untrained, *trained]
    folders = [f"{name}-{seed}" for seed in (0, 1) for name in ("random", "supervised")]
    assert {pathlib.Path(workdir).name for _, workdir in called} == {*folders, "linear"}
    text = (tmp_path / "docs.md").read_text()
    assert text.startswith("# Study\n<!-- study -->\n") and text.endswith("-->\nThe end.\n")
    assert "| supervised | 2 | **75.0 ± 0.0** | 25.0 ± 0.0 |" in text
    assert "| supervised | block1 | +25.0, +25.0 |" in text
    assert "| supervised | 75.0 | 1.250 |" in text
    assert "| supervised | 2 | 25.0 ± 0.0 | **50.0 ± 0.0** |" in text
    assert (tmp_path / "docs.png").read_bytes().startswith(b"\x89PNG")
    assert bars == [([50, 25], "random", [0, 0]), ([75, 25], "supervised", [0, 0])]
    assert not list(tmp_path.glob("work/*/linear/features/*/*"))

    del called[:]
    assert main(arguments) == 0
    assert called == [] and (tmp_path / "docs.md").read_text() == text


def test_study_can_be_called_from_python(called, tmp_path):
    told = []
    found = study.study("DATA", str(tmp_path), tasks=["supervised"], seeds=1, say=told.append)
    points = {"block1": {"top1": 0.75, "top5": 1.0}, "logits": {"top1": 0.25, "top5": 0.5}}
    pretext = {"accuracy": 0.75, "loss": 1.25}
    near = {"block1": {"top1": 0.25, "top5": 1.0}, "logits": {"top1": 0.5, "top5": 0.75}}
    about = {"data": os.path.abspath("DATA"), "num_classes": 10}
    run = {**about, "end_points": points, "knn": near, "pretext": pretext}
    assert found == {"supervised": [run]}
    assert [line.split()[:3] for line in told[:-1]] == [
        ["$", "pretexture", script] for script, _ in called
    ]
    assert told[-1] == f"{tmp_path / 'study.md'}, {tmp_path / 'study.png'}"


def test_a_network_of_an_earlier_version_gets_its_nearest_neighbours(arguments, called, tmp_path):
    assert main(arguments) == 0
    text = (tmp_path / "docs.md").read_text()
    for path in tmp_path.glob("work/*/study.json"):
        found = json.loads(path.read_text())
        del found["knn"]
        path.write_text(json.dumps(found))
    del called[:]
    assert main(arguments) == 0
    assert [script for script, _ in called] == ["knn"] * 4
    assert (tmp_path / "docs.md").read_text() == text


@pytest.mark.parametrize("flag,value", [("--data", "OTHER"), ("--num-classes", "7")])
def test_networks_of_other_data_are_not_reported(arguments, called, tmp_path, flag, value):
    assert main(arguments) == 0
    text = (tmp_path / "docs.md").read_text()
    del called[:]
    message = (
        rf"random-0/study\.json was made with {flag} .*, and now it is .*{value}: give the same"
    )
    with pytest.raises(SystemExit, match=message):
        main([*arguments, flag, value])
    assert called == [] and (tmp_path / "docs.md").read_text() == text


def test_a_command_that_fails_ends_the_study(arguments, monkeypatch, tmp_path):
    monkeypatch.setattr(study.subprocess, "call", lambda command: 3)
    with pytest.raises(SystemExit, match=r"error: pretrain ended with status 3; see above"):
        main(arguments)
    assert not list(tmp_path.glob("work/*/study.json"))


def test_a_document_without_marks_is_refused_before_anything_is_run(arguments, called, tmp_path):
    (tmp_path / "docs.md").write_text("nothing")
    with pytest.raises(SystemExit, match="error: there are no marks"):
        main(arguments)
    assert called == []


def test_by_default_the_document_is_in_the_workdir(arguments, called, tmp_path):
    out = arguments.index("--out")
    assert main([*arguments[:out], *arguments[out + 2 :]]) == 0
    text = (tmp_path / "work" / "study.md").read_text()
    assert "| supervised | 75.0 | 1.250 |" in text and (tmp_path / "work" / "study.png").exists()


def test_an_unknown_task_is_an_error_before_anything_is_run(arguments, called):
    with pytest.raises(SystemExit, match="error: 'colour' is not one of random, supervised"):
        main([*arguments, "--tasks", "random,colour"])
    assert called == []


def test_a_chart_of_one_network_shows_top_1_and_top_5(bars, tmp_path):
    points = {"block1": {"top1": 0.25, "top5": 0.5}, "logits": {"top1": 0.125, "top5": 0.75}}
    chart.accuracy_bars({"": points}, str(tmp_path / "chart.png"), "title")
    assert bars == [([25, 12.5], "top-1", None), ([50, 75], "top-5", None)]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_several_shows_top_1_with_deviations(bars, tmp_path):
    points = {"block1": {"top1": 0.25, "top5": 0.5}, "logits": {"top1": 0.125, "top5": 0.75}}
    few = {"logits": {"top1": 0.5}}
    spread = {"a": {"block1": {"top1": 0.01}, "logits": {"top1": 0.02}}}
    chart.accuracy_bars({"a": points, "b": few}, str(tmp_path / "chart.svg"), "title", spread)
    (a, b) = bars
    assert a == ([25, 12.5], "a", [1, 2])
    assert b[0][0] != b[0][0] and b[0][1:] == [50] and b[1:] == ("b", None)


def test_a_chart_has_a_title_values_and_chance(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(chart.pyplot, "close", figures.append)
    points = {"block1": {"top1": 0.25, "top5": 0.5}, "logits": {"top1": 0.125, "top5": 0.75}}
    guessed = {"top1": 0.1, "top5": 0.5}
    chart.accuracy_bars({"": points}, str(tmp_path / "a.png"), "A title", chance=guessed)
    (axes,) = figures[0].axes
    assert figures[0]._suptitle.get_text() == "A title"
    assert [text.get_text() for text in axes.texts] == ["25.0", "12.5", "50.0", "75.0"]
    assert [line.get_ydata()[0] for line in axes.get_lines()] == [10, 50]
