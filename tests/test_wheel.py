"""What a user gets from `pip install`: the wheel alone, in new virtual environments."""

import os
import pathlib
import re
import subprocess
import venv

import pytest

WHEEL = os.environ.get("PRETEXTURE_WHEEL", "")
COMMANDS = [
    *(
        "prepare",
        "preview",
        "explore",
        "pretrain",
        "evaluate",
        "export",
        "linear-eval",
        "plot",
        "launch",
    ),
    *("modelarts", "study", "benchmark"),
]

pytestmark = pytest.mark.skipif(not WHEEL, reason="PRETEXTURE_WHEEL names no wheel")


class Environment:
    """A new virtual environment with the wheel and an extra."""

    def __init__(self, folder, extra):
        venv.create(str(folder), with_pip=True)
        self.bin = folder / "bin"
        self.folder = folder
        pip = [str(self.bin / "python"), "-m", "pip", "install", "-q"]
        subprocess.check_call([*pip, "--disable-pip-version-check", WHEEL + extra])

    def run(self, *command, status=0):
        """The output of a program of the environment; it must end with the status."""
        process = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=str(self.folder),
            env={"PATH": str(self.bin), "HOME": str(self.folder), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.returncode == status, process.stdout
        return process.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("bare"), "")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("demo"), "[demo]")
    environment.run("pretexture", "prepare", "--demo", "data")
    return environment


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extra(bare, command):
    assert bare.run("pretexture", command, "--help").startswith(f"usage: pretexture {command} ")


def test_the_commands_are_listed_and_a_typing_error_is_met_with_the_nearest(bare):
    listed = bare.run("python", "-m", "pretexture", "--help")
    assert all(f"\n  {command} " in listed for command in COMMANDS)
    said = bare.run("pretexture", "pretrian", status=2)
    assert said == "pretexture: there is no command 'pretrian'; did you mean pretrain?\n"


def test_versions_are_said(bare):
    version = bare.run("python", "-c", "import pretexture; print(pretexture.__version__)").strip()
    lines = bare.run("pretexture", "--version").splitlines()
    assert lines[0] == f"pretexture {version}" and "TensorFlow is not installed" in lines
    assert any(line.startswith("libjpeg-turbo ") for line in lines)
    isa = bare.run("python", "-c", "import pretexture.loader._core as c; print(c.kernels()[0])")
    assert lines[-1] == f"instruction set in use: {isa.strip()}"


@pytest.mark.parametrize(
    "command, extra",
    [
        ("prepare --demo data", "prepare"),
        ("preview --data data --pipeline ROTATION --out a.png", "prepare"),
        ("explore --data data", "explore"),
        ("pretrain rotation --data data --workdir run", "tensorflow"),
    ],
)
def test_what_is_missing_is_one_line_that_names_a_small_extra(bare, command, extra):
    said = bare.run("pretexture", *command.split(), status=1)
    assert said.count("\n") == 1 and f"pip install 'pretexture[{extra}]'" in said


def test_the_demo_is_prepared_and_previewed_without_tensorflow_or_the_trainers(demo):
    assert (demo.folder / "data" / "dataset.json").exists()
    said = demo.run(
        *[
            "pretexture",
            "preview",
            "--data",
            "data",
            "--pipeline",
            "ROTATION",
            "--count",
            "2",
            "--out",
            "views.png",
        ]
    )
    assert said.startswith("views.png: ")
    assert (demo.folder / "views.png").read_bytes()[1:4] == b"PNG"
    demo.run("python", "-c", "import tensorflow", status=1)
    demo.run(
        "python",
        "-c",
        "import sys\n"
        "import pretexture.loader.prepare.conversion, pretexture.loader.preview\n"
        "import pretexture.scripts.prepare, pretexture.scripts.preview\n"
        "import pretexture.scripts.benchmark\n"
        "sys.exit('pretexture.trainers' in sys.modules)",
    )


def test_the_page_of_explore_is_in_the_wheel(tmp_path):
    environment = Environment(tmp_path / "explore", "[explore]")
    said = environment.run(
        "python",
        "-c",
        "from pretexture.loader.explore import server\n"
        "app = server.make_app([], None, '', '', 'token')\n"
        "app.testing = True\n"
        "for name in ('', *server._FILES):\n"
        "    response = app.test_client().get(f'/token/{name}')\n"
        "    print(response.status_code, len(response.data) > 1000)",
    )
    assert said.splitlines() == ["200 True"] * 4


def test_nothing_in_the_wheel_refers_to_a_file_that_is_not_in_it(bare):
    package = next((bare.folder / "lib").glob("python*/site-packages/pretexture"))
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!/blob/main/)docs/", text), path
        assert not re.search(r"scripts/(?!COMMAND)\w+\.py", text), path


def test_the_wheel_has_the_licences_of_what_is_in_it(bare):
    folder = next((bare.folder / "lib").glob("python*/site-packages/pretexture-*.dist-info"))
    notices = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.txt")}
    assert "work of the Independent JPEG Group" in notices["libjpeg-turbo.txt"]
    assert "PNG Reference Library" in notices["libpng.txt"]
    assert "Jean-loup Gailly" in notices["zlib.txt"] and "Wenzel Jakob" in notices["pybind11.txt"]
    assert any("Apache License" in path.read_text() for path in folder.rglob("LICENSE"))


def test_with_tensorflow_the_wheel_trains_evaluates_and_exports(demo, tmp_path):
    trained = Environment(tmp_path / "trained", "[tensorflow-cpu]")
    data = ["--data", str(demo.folder / "data")]
    small = ["--filters-factor", "0.25", "--batch-size", "16", "--train-split", "trainval"]
    flags = ["--workdir", "run", "--steps", "2", "--eval-split", "test", *small]
    said = trained.run("pretexture", "pretrain", "rotation-small", *data, *flags)
    assert "done after step 2 of 2" in said and "next: pretexture evaluate --workdir run" in said
    assert "accuracy" in trained.run("pretexture", "evaluate", *data, "--workdir", "run")
    trained.run("pretexture", "export", "--workdir", "run", "--out", "export")
    assert (pathlib.Path(trained.folder) / "export" / "saved_model.pb").exists()
