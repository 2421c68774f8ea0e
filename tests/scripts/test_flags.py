"""What all commands have in common: how flags are read, and in which order lines are printed."""

import re
import subprocess
import sys
import warnings

import pytest
from pretexture.scripts import evaluate, flags, linear_eval, prepare, pretrain, preview

NEEDED = {
    pretrain: ["rotation", "--data", "d", "--workdir", "w"],
    linear_eval: ["--module", "m", "--data", "d", "--workdir", "w"],
    evaluate: ["--data", "d", "--workdir", "w"],
}


@pytest.mark.parametrize("script", NEEDED, ids=lambda script: script.__name__)
def test_flags_may_be_written_with_underscores(script):
    parser = script._parser()
    needed = NEEDED[script]
    for flag, value in {"batch_size": 5, "cache_size": "3GB", "image_key": "a_b"}.items():
        hyphens = flag.replace("_", "-")
        expected = parser.parse_args([*needed, f"--{hyphens}", str(value)])
        assert parser.parse_args([*needed, f"--{flag}", str(value)]) == expected
        assert parser.parse_args([*needed, f"--{flag}={value}"]) == expected


def test_what_follows_two_hyphens_is_the_program_s_own():
    parser = flags.parser("")
    parser.add_argument("--host-index")
    parser.add_argument("rest", nargs="*")
    found = parser.parse_args(["--host_index", "1", "--", "train.py", "--host_index", "2"])
    assert (found.host_index, found.rest) == ("1", ["train.py", "--host_index", "2"])


@pytest.mark.parametrize(
    "script,arguments,message",
    [
        (pretrain, ["rotaton"], "invalid choice: 'rotaton'; did you mean rotation?"),
        (pretrain, ["colour"], "invalid choice: 'colour'; choose from supervised, "),
        (pretrain, ["rotation", "--bach-size", "4"], "; did you mean --batch-size?"),
        (preview, ["--split", "validation"], "your own validation images .* are the split test"),
        (preview, ["--split", "tset"], "split must be train, val, trainval or test, not 'tset'"),
    ],
)
def test_a_mistyped_word_is_answered_in_two_lines(script, arguments, message, capsys):
    needed = ["--data", "d", "--workdir", "w"] if script is pretrain else []
    with pytest.raises(SystemExit) as exit:
        script.main([*needed, *arguments])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("\n") == 2
    assert re.search(message, said)


def test_redirected_output_keeps_its_order(images, tmp_path):
    pytest.importorskip("PIL")
    pytest.importorskip("google.protobuf")
    for number, image in enumerate(images):
        folder = tmp_path / "src" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image)
    command = [sys.executable, prepare.__file__, str(tmp_path / "src"), str(tmp_path / "out")]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    lines = run.stdout.decode().splitlines()
    first = lines.index(f"reading the names of the images in {tmp_path / 'src'}")
    (progress,) = [i for i, line in enumerate(lines) if line.startswith("37/37 images  read, ")]
    written = [i for i, line in enumerate(lines) if ": train: " in line]
    assert first == 0 and first < progress < written[0]


def test_warnings_of_the_loader_take_one_line(capsys):
    with flags.short_errors(False):
        warnings.warn("crops are random", stacklevel=1)
    assert capsys.readouterr().err == "warning: crops are random\n"
