"""What the documents say can be typed: commands are parsed, programs and the tutorial are run."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys

import numpy as np
import pages
import pytest

CONSOLE = ("", "console", "sh", "bash")
WITH_COMMANDS = [
    block for page in pages.PAGES for block in pages.blocks(page, *CONSOLE) if pages.commands(block)
]


@pytest.mark.parametrize("block", WITH_COMMANDS, ids=lambda block: block.place)
def test_the_commands_of_a_page_are_parsed(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in pages.commands(block):
        for word in words:  # files that are there when the command is typed
            if word.endswith(".json"):
                path = tmp_path / word
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        try:
            pages.parse(words)
        except SystemExit:
            pytest.fail(f"pretexture {' '.join(words)}\n{capsys.readouterr().err}")


def test_a_flag_that_does_not_exist_is_found(capsys):
    for words in (
        ["pretrain", "rotation", "--dataset_dir", "a", "--data", "a", "--workdir", "b"],
        ["launch", "--nproc", "2", "--", "evaluate", "--run-eval", "…"],
    ):
        with pytest.raises(SystemExit):
            pages.parse(words)
    with pytest.raises(AssertionError):
        urls = ["--data_url", "a", "--train_url", "b"]
        pages.parse(["modelarts", *urls, "--recipe", "rotation", "--batchsize", "3"])


# Flags on the pages that are those of other programs.
OTHER_PROGRAMS = {"--no-deps", "--aug-plus", "--sort", "--index-url", "--strict", "--headless"}


@pytest.mark.parametrize("page", [page for page in pages.PAGES if "ascend-migration" not in page])
def test_a_flag_named_in_a_sentence_is_a_flag_of_a_command(page):
    known = set(OTHER_PROGRAMS) | {"--help", "--version"}
    for name in pages.COMMANDS:
        known.update(
            flag for action in pages.parser(name)._actions for flag in action.option_strings
        )
    prose = re.sub(r"^```.*?^```", "", pages.text(page), flags=re.M | re.S)
    named = set(re.findall(r"(?<=`)--[a-z][\w-]*", prose))
    if page in ("CONTRIBUTING.md", "SECURITY.md", "docs/reliability.md"):  # those of pytest, fuzz
        named = {flag for flag in named if flag not in ("--kills", "--runs", "--seconds")}
    known |= {flag for flag in named if flag.replace("_", "-") in known}
    assert named <= known, sorted(named - known)


def _run(words, folder):
    """Runs a command of `pretexture` as a user does; returns what it says."""
    environment = {**os.environ, "HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(
        [sys.executable, "-m", "pretexture", *words],
        cwd=str(folder),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert process.returncode == 0, f"pretexture {' '.join(words)}\n{process.stdout}"
    return process.stdout


# So that the tutorial takes a test's time. The commands are otherwise the page's own.
SHORTER = {
    "pretrain": ["--steps", "2", "--batch-size", "4", "--filters-factor", "0.25"],
    "linear-eval": ["--steps", "2", "--batch-size", "4"],
}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, images):
    """The folder in which all commands of the tutorial have run, on 37 photographs."""
    pytest.importorskip("tensorflow")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("tutorial")
    for number, image in enumerate(images):
        path = folder / "photos" / ("cats" if number % 2 else "dogs") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    said = []
    for block in pages.blocks("docs/tutorial.md", "console"):
        for words in pages.commands(block):
            words = [word.replace("~", str(folder)) for word in words]
            said.append(_run([*words, *SHORTER.get(words[0], [])], folder))
    return folder, said


def test_the_tutorial_makes_what_it_says(tutorial):
    folder, said = tutorial
    for name in ("views.png", "patches.png", "crops.png", "runs/rotation/curves.png"):
        assert (folder / name).read_bytes()[1:4] == b"PNG"
    assert (folder / "shards" / "dataset.json").exists()
    assert "accuracy" in "".join(said)
    assert (folder / "runs" / "linear" / "results.json").exists()


def _program(block, replaced):
    program = block.text
    for pattern, new in replaced.items():
        program = re.sub(pattern, new, program)
    # A block fails at its line of the page.
    return compile("\n" * (block.line - 1) + program, str(pages.ROOT / block.page), "exec")


def _execute(page, scope, replaced, which=slice(None)):
    found = pages.blocks(page, "python")[which]
    assert found
    for block in found:
        exec(_program(block, replaced), scope)
    return scope


# 37 images make no batch of 64, and one epoch says as much as 35.
FEW = {r"batch_size=\d+": "batch_size=4", r"range\(35\)": "range(1)"}


@pytest.mark.parametrize("page", ["README.md", "docs/loader.md"])
def test_the_programs_that_read_shards_run(page, shards, tmp_path):
    folder = str(tmp_path)
    for path in shards:
        os.symlink(path, os.path.join(folder, os.path.basename(path)))
    os.symlink(shards[0], os.path.join(folder, "validation-00000-of-00001"))
    scope = _execute(page, {}, {**FEW, "/data/imagenet": folder})
    batch = scope["batch"]
    scope["loader"].close()
    if page == "README.md":
        assert batch.image.shape == (4, 4, 224, 224, 3) and batch.label.shape == (4, 4)
        assert scope["state"]["epoch"] == 1
    else:
        assert scope["large"].shape == (4, 2, 3, 224, 224)
        assert scope["small"].shape == (4, 6, 3, 96, 96)


def test_the_source_of_records_of_ones_own_runs(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = sqlite3.connect("images.db")
    table.execute("CREATE TABLE images (number INTEGER, jpeg BLOB, label INTEGER)")
    table.executemany("INSERT INTO images VALUES (?, ?, 7)", list(enumerate(images)))
    table.commit()
    scope = _execute("docs/data.md", {}, FEW)
    with scope["loader"] as loader:
        assert next(iter(loader)).label.tolist() == [7] * 4


def test_shards_in_a_bucket_are_read(s3, shards, tmp_path, monkeypatch):
    from pretexture.loader import imagenet

    s3.put(shards, "imagenet")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    replaced = {
        "s3://bucket": s3.bucket,
        "/local/pretexture": str(tmp_path),
        '"train"': '"trainval"',
    }
    scope = _execute("docs/storage.md", {"imagenet": imagenet}, replaced)
    assert len(scope["records"]) == 37


def _needs_tensorflow_2():
    """The pages' programs load exports as TensorFlow 2 does."""
    tensorflow = pytest.importorskip("tensorflow")
    if tensorflow.__version__.startswith("1."):
        pytest.skip("TensorFlow 1 loads SavedModels into a session")


def test_the_tutorials_program_reads_the_export(tutorial, monkeypatch, capsys):
    _needs_tensorflow_2()
    monkeypatch.chdir(tutorial[0])
    _execute("docs/tutorial.md", {}, {r"\(1, 512\)": ""})
    # A quarter of the recipe's width, of which the page gives the number.
    assert capsys.readouterr().out == "(1, 128)\n"
    from pretexture.trainers.recipes import RECIPES

    assert 512 * RECIPES["rotation-small"].network.filters_factor == 512


def test_a_hook_is_handed_the_metrics(tutorial, monkeypatch, capsys):
    monkeypatch.chdir(tutorial[0])
    short = {
        r'\["rotation-small"\]': '["rotation-small"].replace(batch_size=4, filters_factor=0.25)',
        '"runs/hooked"': '"runs/hook", steps=2, log_steps=1',
    }
    _execute("docs/training.md", {}, short, slice(0, 1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"\d+ [\d.]+$", line)] == ["1", "2"]


def test_features_in_a_file_are_read_as_the_page_reads_them(tutorial, monkeypatch):
    monkeypatch.chdir(tutorial[0])
    out = ["--out", "features.npz"]
    _run(["features", "--module", "runs/rotation/export", "--data", "shards", *out], tutorial[0])
    _execute("docs/evaluating.md", {"np": np}, {})
    with np.load("features.npz") as features:
        assert features["pre_logits"].shape == (len(features["label"]), 128)
        assert list(features["classes"]) == ["cats", "dogs"]


EXPORTS = {"saved_model": ("tensorflow", 1), "onnx": ("onnxruntime", 2), "torch": ("torch", 3)}


@pytest.mark.parametrize("kind", EXPORTS)
def test_the_programs_that_read_exports_run(kind, tutorial, monkeypatch):
    package, number = EXPORTS[kind]
    pytest.importorskip(package, reason=f"{package} is not installed")
    if kind == "saved_model":
        _needs_tensorflow_2()
    monkeypatch.chdir(tutorial[0])
    shape = [2, 64, 64, 3]
    images = np.zeros(shape, np.float32)
    if kind == "onnx":
        pytest.importorskip("tf2onnx")
    if kind != "saved_model":
        file = {"onnx": "model.onnx", "torch": "model.pt"}[kind]
        _run(["export", "--workdir", "runs/rotation", f"--{kind}", file], tutorial[0])
    scope = {"images": images}
    if kind == "torch":
        import torch
        from pretexture.trainers.exports import torch_resnet

        scope.update(images=torch.zeros([2, 3, 64, 64]), torch=torch, torch_resnet=torch_resnet)
    elif kind == "onnx":
        import onnxruntime

        scope.update(onnxruntime=onnxruntime)
    else:
        import tensorflow

        # TensorFlow 2.6 takes no NumPy array here.
        scope.update(tf=tensorflow, images=tensorflow.constant(images))
    _execute("docs/training.md", scope, {}, slice(number, number + 1))
    features = scope["features"] if kind == "onnx" else scope["end_points"]["pre_logits"]
    assert tuple(features.shape)[:2] == (2, 128)


def test_every_program_of_the_pages_is_run():
    """Those of the examples are run by tests/examples."""
    run = {"README.md", "docs/loader.md", "docs/data.md", "docs/storage.md", "docs/tutorial.md"}
    run |= {"docs/training.md", "docs/evaluating.md", "docs/examples/README.md"}
    run |= {"docs/ascend-migration.md", "docs/ascend-migration.zh.md"}  # by test_migration.py
    assert {page for page in pages.PAGES if pages.blocks(page, "python")} == run
    assert len(pages.blocks("docs/training.md", "python")) == 1 + len(EXPORTS)


def test_words_of_a_command_are_read_as_a_shell_reads_them():
    block = pages.Block("", 1, "console", '$ A=b pretexture plot a \\\n    "b c"  # why\n$ ls\n')
    assert pages.commands(block) == [["plot", "a", "b c"]]
    assert shlex.split("a  # b", comments=True) == ["a"]
