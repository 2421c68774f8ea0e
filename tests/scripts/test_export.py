import json
import os
import stat
import sys

import pytest

pytest.importorskip("tensorflow")

import trained
from pretexture.scripts import export as script

PUBLISHED = ["--architecture", "vgg19", "--filters-factor", "0.125", "--num-classes", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, which tests must not change."""
    folder = tmp_path_factory.mktemp("run")
    trained.run(folder, steps=(3000, 12000))
    return str(folder)


@pytest.fixture
def atc(tmp_path, monkeypatch):
    """atc(status): puts a compiler on PATH that writes its arguments to the file `arguments`."""

    def make(status):
        path = tmp_path / "bin" / "atc"
        path.parent.mkdir()
        note = f"import sys; open({str(tmp_path / 'arguments')!r}, 'w').write(str(sys.argv[1:]))"
        path.write_text(f"#!{sys.executable}\n{note}\nsys.exit({status})\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return make


def test_a_run_and_its_checkpoint_as_published_give_the_same_export(run, tmp_path, capsys):
    own, published = str(tmp_path / "own"), str(tmp_path / "published")
    assert script.main(["--workdir", run, "--step", "3000", "--out", own]) == 0
    assert capsys.readouterr().out == f"wrote {own}\n"
    flags = ["--published", f"{run}/model.ckpt-3000", *PUBLISHED, "--pipeline", "resize(32)"]
    assert script.main([*flags, "--out", published]) == 0
    image = trained.images(2, 40, 40, 3)
    trained.assert_agree(*(trained.use(module, image)[0] for module in (own, published)), 1e-6)
    with open(os.path.join(published, "pretexture.json")) as file:
        described = json.load(file)
    assert described["network"] == {
        "architecture": "vgg19",
        "mode": "v2",
        "filters_factor": 0.125,
        "last_relu": True,
        "small_root": False,
        "patch_strides": False,
        "reversible": False,
    }
    assert described["representation_pipeline"] == "resize(32)"
    assert described["pipeline"] == "resize(32)"  # the size that follows from the kernels
    assert described["recipe"] is None


def test_offline_compiler_gets_the_frozen_graph(run, tmp_path, atc, capfd):
    atc(0)
    flags = ["--om", str(tmp_path / "deep" / "model.om"), "--soc-version", "Ascend310"]
    flags += ["--size", "32,64", "--batch-size", "5"]
    assert script.main(["--workdir", run, "--out", str(tmp_path / "out"), *flags]) == 0
    names = ["block1", "block2", "block3", "block4", "block5", "fc6", "pre_logits", "logits"]
    assert (tmp_path / "arguments").read_text() == str(
        [
            f"--model={tmp_path}/deep/model.pb",
            "--framework=3",
            f"--output={tmp_path}/deep/model",
            "--soc_version=Ascend310",
            "--input_shape=image:5,32,64,3",
            "--out_nodes=" + ";".join(f"{name}:0" for name in names),
        ]
    )
    assert os.listdir(str(tmp_path / "deep")) == ["model.pb"]
    assert f"wrote {tmp_path}/deep/model.om\n" in capfd.readouterr().out


def test_a_failing_or_missing_compiler_is_an_error_that_names_the_command(
    run, tmp_path, atc, monkeypatch
):
    flags = ["--workdir", run, "--out", str(tmp_path / "out"), "--size", "32"]
    flags += ["--frozen", str(tmp_path / "a graph.pb")]
    flags += ["--om", str(tmp_path / "model.om"), "--soc-version", "Ascend310"]
    command = rf"atc '--model={tmp_path}/a graph\.pb' --framework=3 --output={tmp_path}/model "
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"there is no atc on PATH\. It comes with .* CANN") as end:
        script.main(flags)
    assert end.match(command)
    assert sorted(os.listdir(str(tmp_path))) == ["a graph.pb", "out"]
    atc(3)
    with pytest.raises(SystemExit, match=f"^error: atc failed with status 3.*{command}"):
        script.main(flags)


def test_an_onnx_file_is_written_without_a_saved_model(run, tmp_path, capfd):
    pytest.importorskip("tf2onnx")
    path = tmp_path / "made" / "model.onnx"
    assert script.main(["--workdir", run, "--onnx", str(path)]) == 0
    said = capfd.readouterr()
    names = "block1, block2, block3, block4, block5, fc6, pre_logits, logits"
    assert said.out == f"wrote {path}: image [N, H, W, 3] -> {names}\n"
    assert said.err == ""
    assert os.listdir(str(tmp_path)) == ["made"] and os.listdir(str(path.parent)) == ["model.onnx"]


def test_a_torch_file_is_written_with_the_path_of_its_module(tmp_path, capsys):
    pytest.importorskip("torch")
    from pretexture.trainers.exports import torch_resnet

    trained.run(tmp_path / "run", trained.VGG.replace(architecture="resnet50"))
    path = str(tmp_path / "model.pt")
    assert script.main(["--workdir", str(tmp_path / "run"), "--torch", path]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {path}: read it with load() of {torch_resnet.__file__}, which")
    torch_resnet.load(path)


def test_torch_refuses_a_vgg_before_anything_is_written(run, tmp_path):
    pytest.importorskip("torch")
    flags = ["--out", str(tmp_path / "out"), "--torch", str(tmp_path / "model.pt")]
    with pytest.raises(SystemExit, match=r"^error: --torch takes resnet50 only, .* a vgg19: "):
        script.main(["--workdir", run, *flags])
    assert not os.listdir(str(tmp_path))


@pytest.mark.parametrize(
    "flag,missing,extra", [("onnx", "tf2onnx", "onnx"), ("torch", "torch", "torch")]
)
def test_a_missing_package_is_one_line_that_names_its_extra(
    flag, missing, extra, run, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    for module in (f"{flag}_file", "torch_resnet"):
        monkeypatch.delitem(sys.modules, f"pretexture.trainers.exports.{module}", raising=False)
        monkeypatch.delattr(f"pretexture.trainers.exports.{module}", raising=False)
    flags = ["--out", str(tmp_path / "out"), f"--{flag}", str(tmp_path / "file")]
    install = rf"^error: .* cannot be imported .*: pip install 'pretexture\[{extra}\]'$"
    with pytest.raises(SystemExit, match=install):
        script.main(["--workdir", run, *flags])
    assert not os.listdir(str(tmp_path))


def test_at_least_one_format_must_be_given(capsys):
    with pytest.raises(SystemExit) as end:
        script.main(["--workdir", "w"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "give at least one of --out, --onnx, --torch, --frozen, --om" in said


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--workdir", "{}/none"], "error: .*none holds no run: there is no config.json"),
        (["--workdir", "{run}", "--onnx", "{run}/config.json/f"], "error: .*config.json"),
        (["--workdir", "{run}", "--onnx", "{run}"], "error: .*Is a directory: '{run}"),
        (
            ["--published", "{run}/model.ckpt-3000", *PUBLISHED, "--filters-factor", "0.25"],
            "error: .*model.ckpt-3000: .* variables do not fit",
        ),
    ],
)
def test_errors_of_an_onnx_file_take_one_line_and_leave_nothing(flags, message, run, tmp_path):
    pytest.importorskip("tf2onnx")
    before = sorted(os.listdir(run))
    flags = [flag.format(tmp_path, run=run) for flag in ["--onnx", "{}/out.onnx", *flags]]
    with pytest.raises(SystemExit, match=message.format(run=run)) as end:
        script.main(flags)
    assert "\n" not in end.value.code
    assert not os.listdir(str(tmp_path)) and sorted(os.listdir(run)) == before


@pytest.mark.parametrize(
    "flags,message",
    [
        ([], "one of the arguments --workdir --published is required"),
        (["--workdir", "w", "--published", "p"], "--published: not allowed with"),
        (["--published", "p"], "argument --published: needs --architecture"),
        (["--published", "p", *PUBLISHED[:4]], "argument --published: needs --num-classes"),
        (["--published", "p", *PUBLISHED, "--step", "3"], "--step: not allowed with"),
        (["--workdir", "w", "--mode", "v1"], "argument --mode: only with --published"),
        (["--workdir", "w", "--no-last-relu"], "argument --no-last-relu: only with --published"),
        (["--workdir", "w", "--frozen", "f.pb"], "argument --frozen: needs --size"),
        (["--workdir", "w", "--om", "f.om", "--size", "8"], "argument --om: needs --soc-version"),
        (
            ["--workdir", "w", "--om", "f", "--size", "8", "--soc-version", "A"],
            r"argument --om: must end in .om, not 'f'",
        ),
        (["--workdir", "w", "--size", "8,9,10"], "must be H or H,W, not '8,9,10'"),
        (["--workdir", "w", "--size", "8x9"], "argument --size: invalid"),
        (["--workdir", "w", "--onnx", "s3://bucket/f"], "argument --onnx: must be a path on this"),
        (
            ["--workdir", "w", "--torch", "s3://bucket/f"],
            "argument --torch: must be a path on this",
        ),
        (["--workdir", "w", "--size", "8"], "argument --size: only with --frozen or --om"),
    ],
)
def test_contradictory_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        script.main([*flags, "--out", "o"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--workdir", "{}"], "error: .* holds no run: there is no config.json"),
        (["--workdir", "{run}", "--step", "5"], "error: .* has no checkpoint of step 5"),
        (["--workdir", "{run}", "--out", "{run}"], "error: .* exists and is not an export"),
        (["--workdir", "{run}", "--out", "{run}/config.json/out"], "error: .*config.json"),
        (["--published", "{}/none", *PUBLISHED], "error: .*none is not a checkpoint"),
        (["--published", "{run}", *PUBLISHED, "--pipeline", "turn"], "error: .* no step 'turn'"),
        (
            ["--published", "{run}/model.ckpt-3000", *PUBLISHED, "--filters-factor", "0.25"],
            "error: .*model.ckpt-3000: .* variables do not fit",
        ),
    ],
)
def test_errors_take_one_line(flags, message, run, tmp_path):
    flags = ["--out", "{}/out", *flags]
    with pytest.raises(SystemExit, match=message) as end:
        script.main([flag.format(tmp_path, run=run) for flag in flags])
    assert "\n" not in end.value.code
    assert not (tmp_path / "out").exists()
