import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("google.protobuf")

from PIL import Image
from pretexture.loader import presets
from pretexture.loader.backends.reference import renderer as reference
from pretexture.loader.console.marked import replace_marked
from pretexture.loader.shards.writer import TFRecordWriter, example
from pretexture.scripts import bench_instructions, benchmark
from pretexture.scripts.benchmarking import comparison, decode, report
from pretexture.scripts.benchmarking.jobs import (
    CONTENDERS,
    KERAS,
    LOADING,
    ON_GPU,
    OURS,
    SMALL,
    TASKS,
    Job,
    Outcome,
)

SCRIPTS = pathlib.Path(benchmark.__file__).parent
SHAPES = {
    "supervised": ((4, 224, 224, 3), (4,)),
    "rotation": ((4, 4, 224, 224, 3), (4, 4)),
    "exemplar": ((4, 8, 224, 224, 3), (4,)),
    "jigsaw": ((4, 9, 64, 64, 3), (4,)),
    "eval": ((4, 224, 224, 3), (4,)),
    "eval_patches": ((4, 9, 64, 64, 3), (4,)),
    "simclr": ((4, 2, 224, 224, 3), (4,)),
    "dino": ((4, 224, 224, 3, 4, 224, 224, 3, 4, 6, 96, 96, 3), (4,)),
    "small": ((4, 32, 32, 3), (4,)),
}

# Prints the shapes and dtypes of a contender's arrays for each task. It is a program of its own,
# because some libraries cannot be set up twice in a process.
DRIVER = """
import dataclasses, importlib, json, sys
from pretexture.scripts.benchmarking import worker
from pretexture.scripts.benchmarking.jobs import CONTENDERS, Job
job = Job(**json.loads(sys.argv[1]))
module = importlib.import_module(
    "pretexture.scripts.benchmarking." + CONTENDERS[job.contender].module
)
for task in sys.argv[2:]:
    batches = iter(module.open(dataclasses.replace(job, task=task)))
    for _ in range(2):
        image, label = next(batches)
    print(task, worker._shape(image), worker._shape(label), worker._dtype(image), sep=";")
sys.stdout.flush()
import os; os._exit(0)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.RandomState(0)
    for shard in range(2):
        with TFRecordWriter(folder / f"train-{shard:05d}-of-00002") as writer:
            for label in range(1, 7):
                pixels = random.randint(0, 256, (60 + 7 * label, 90, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG")
                writer.write(
                    example({"image/encoded": file.getvalue(), "image/class/label": label})
                )
    return folder


def installed(contender):
    if not all(comparison._installed(module) for module in CONTENDERS[contender].requires):
        return False
    if CONTENDERS[contender].module == "tfdata":
        return hasattr(pytest.importorskip("tensorflow").data.Options, "deterministic")
    if contender == "spdl":
        # SPDL loads FFmpeg, which may be missing, at its first use.
        use = "import spdl.io.utils; spdl.io.utils.get_ffmpeg_versions()"
        return subprocess.run([sys.executable, "-c", use], capture_output=True).returncode == 0
    return True


def environment(tmp_path):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}


def run_benchmark(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark.py"), *map(str, arguments)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )


def test_benchmark_writes_tables_json_a_chart_and_a_page(shards, tmp_path):
    pytest.importorskip("matplotlib")
    against = "tfdata,decode" if installed("tfdata") else "decode"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark -->\nold figures\n<!-- /benchmark -->\nafter\n")
    arguments = ["--data", shards, "--tasks", "jigsaw,relative_patch_location"]
    arguments += ["--against", against, "--rounds", 1, "--seconds-per-run", 0.05, "--batch-size", 4]
    arguments += ["--json", tmp_path / "new" / "out.json", "--plot", tmp_path / "new" / "out.png"]
    process = run_benchmark(tmp_path, *arguments, "--markdown", page)
    assert process.returncode == 0, process.stderr

    for contender in [OURS, *against.split(",")]:
        assert f"| {contender} |" in process.stdout
    assert "|  | jigsaw, relative patch location |" in process.stdout
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert process.stdout in text and "old figures" not in text
    assert "](new/out.png)\n" in text
    assert (tmp_path / "new" / "out.png").read_bytes().startswith(b"\x89PNG")

    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert result["settings"]["rounds"] == 1 and result["settings"]["records"] == 12
    assert len(result["runs"]) == 1 + len(against.split(","))
    for run in result["runs"]:
        assert run["images"] > 0 and run["cpu_seconds"] > 0 and run["peak_bytes"] > 1e6
        if run["contender"] != "decode":
            shapes = tuple(run["shape"]), tuple(run["label_shape"])
            assert shapes == SHAPES[run["task"]], run


def test_benchmark_can_be_called_from_python(shards):
    told = []
    found = comparison.benchmark(
        str(shards),
        tasks=["eval"],
        against=[],
        rounds=2,
        seconds_per_run=0.05,
        batch_size=4,
        say=told.append,
    )
    assert [(run.job.contender, run.job.task, run.job.seed) for run in found.runs] == [
        (OURS, "eval", 0),
        (OURS, "eval", 1),
    ]
    assert list(found.summaries) == [(OURS, "eval", 1)]
    assert f"| {OURS} |" in found.markdown()
    assert [line.partition(" ")[0] for line in told] == ["1/2", "2/2"]


def test_steps_of_training_are_measured_as_images(shards):
    if not installed("tfdata"):
        pytest.skip("tf.data is measured on newer versions of TensorFlow")
    found = comparison.benchmark(
        str(shards),
        tasks=["train"],
        against=[KERAS],
        rounds=1,
        seconds_per_run=0.05,
        batch_size=2,
        say=lambda line: None,
    )
    assert not found.about["left_out"]
    assert [(run.job.contender, run.outcome.shape) for run in found.runs] == [
        (OURS, ()),
        (KERAS, ()),
    ]
    assert all(run.outcome.images >= 4 and run.outcome.rate > 0 for run in found.runs)


@pytest.mark.parametrize(
    "most, expected", [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_scaling_doubles_the_threads_up_to_a_maximum(most, expected):
    assert comparison.scaling(most) == expected


@pytest.mark.parametrize(
    "contender", [name for name in CONTENDERS if name not in ("decode", KERAS, *ON_GPU)]
)
def test_every_contender_makes_the_same_arrays(contender, shards, tmp_path):
    if not installed(contender):
        pytest.skip(f"{contender} is not installed, or too old")
    paths = sorted(map(str, shards.iterdir()))
    job = {"contender": contender, "task": "", "paths": paths, "batch_size": 4}
    job.update(threads=1, dtype="float32", seconds=0.0, cpus=[], seed=0)
    expected = {task: SHAPES[task] for task in SHAPES if task in CONTENDERS[contender].tasks}
    if CONTENDERS[contender].converts:
        conversions, failures = comparison._convert([contender], paths, str(tmp_path), 1, print)
        assert not failures and conversions[contender].seconds > 0
        assert conversions[contender].bytes == (tmp_path / contender).stat().st_size
        job["converted"] = str(tmp_path / contender)
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(job), *expected],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if ";" in line]
    assert lines == [f"{task};{a};{b};float32" for task, (a, b) in expected.items()]


def test_batches_for_a_gpu_in_pytorch_are_those_of_the_loader(shards, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from pretexture.scripts.benchmarking import gpu, pretexture_loader

    paths = tuple(sorted(map(str, shards.iterdir())))
    job = Job("pretexture-gpu", "small", paths, 4, 1, "float32", 0.0, (), 0)
    if not gpu.torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="PyTorch sees no GPU"):
            gpu.open(job)
        monkeypatch.setattr(gpu, "DEVICE", "cpu")
    there, here = iter(pretexture_loader.open(job)), iter(gpu.open(job))
    for _ in range(4):  # more than an epoch
        for expected, tensor in zip(next(there), next(here)):
            assert np.array_equal(tensor.cpu().numpy(), expected)


def test_tasks_with_the_same_pipeline_are_measured_once():
    assert set(comparison._titles(LOADING)) == set(SHAPES)
    assert comparison._titles(["relative_patch_location"]) == {"jigsaw": "relative patch location"}


def test_a_contender_that_is_not_installed_is_named_and_left_out(monkeypatch):
    monkeypatch.setattr(comparison, "_installed", lambda module: module != "nvidia.dali")
    present, left_out = comparison._present([OURS, "dali", "opencv"], "float32")
    assert present == [OURS, "opencv"]
    assert left_out == ["dali (not installed: pip install nvidia-dali-cuda120)"]
    present, left_out = comparison._present([OURS, "opencv"], "uint8")
    assert present == [OURS] and left_out == ["opencv (makes no uint8)"]


def test_unsupported_tasks_of_a_contender_are_listed():
    lines = comparison._lacking([OURS, "ffcv"], ["supervised", "exemplar", "jigsaw"])
    assert lines == ["ffcv at exemplar, jigsaw (not among its tasks)"]


def test_a_contender_whose_conversion_fails_is_left_out_with_its_error(tmp_path, monkeypatch):
    broken = CONTENDERS["ffcv"]._replace(module="no_such_module")
    monkeypatch.setitem(CONTENDERS, "ffcv", broken)
    conversions, failures = comparison._convert(["ffcv"], [], str(tmp_path), 1, print)
    assert conversions == {} and len(failures) == 1
    assert failures[0].startswith("ffcv: ") and "no_such_module" in failures[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "/nowhere"], "there is no folder /nowhere"),
        (["--data", "{shards}", "--batch-size", "13"], "has 12 records, fewer than --batch-size"),
        (["--data", "{shards}", "--threads", "100000"], "more than the"),
        (["--data", "s3://bucket/data"], "this measures loaders on local files"),
        (
            ["--data", "{shards}", "--tasks", "eval,colour"],
            "'colour' is not one of supervised,",
        ),
        (["--data", "{shards}", "--against", "pretexture"], "is not one of first-epoch, tfdata, "),
        (["--data", "{shards}", "--seconds-per-run", "0"], "must be above 0, not 0.0"),
        (["--data", "{shards}", "--markdown", "/nowhere.md"], "No such file"),
    ],
)
def test_an_impossible_benchmark_is_an_error_of_one_line(arguments, message, shards, tmp_path):
    process = run_benchmark(tmp_path, *(text.format(shards=shards) for text in arguments))
    assert process.returncode == 1
    assert message in process.stderr and process.stderr.count("\n") == 1


def outcome(rate, cpu_rate=1.0, **fields):
    values = {
        "images": rate,
        "seconds": 1.0,
        "cpu_seconds": rate / cpu_rate,
        "peak_bytes": 5_000_000,
        "shape": (),
        "label_shape": (),
        "dtype": "float32",
        "times": {},
        "thread_seconds": 0.01,
    }
    return Outcome(**{**values, **fields})


def run(contender, rate, threads=1, **fields):
    job = Job(contender, "eval", (), 2, threads, "float32", 1.0, (), 0)
    return report.Run(job, outcome(rate, **fields))


def test_report_has_medians_spread_and_ratios_over_all_rounds():
    times = {"records": 1000, "read_seconds": 0.1, "decode_seconds": 0.6}
    times.update(resample_seconds=0.1, color_seconds=0.1, wait_seconds=0.99)
    runs = [run(OURS, rate, times=times) for rate in (1200, 900, 1000)]
    runs += [run("tfdata", rate, cpu_rate=0.8) for rate in (500, 100, 510)]
    summaries = report.summarize(runs)
    assert summaries[OURS, "eval", 1].rate == (1000, 900, 1200)
    assert summaries["tfdata", "eval", 1].rate == (500, 100, 510)
    about = {
        "settings": {"rounds": 3, "seconds": 1, "batch_size": 2, "dtype": "float32", "data": "d"},
        "machine": {"processor": "p", "processors": "2", "system": "s"},
        "versions": ["v"],
        "conversions": {
            "ffcv": {"seconds": 2.25, "processes": 3, "bytes": 6_000_000, "shard_bytes": 4_000_000}
        },
        "left_out": ["dali (no)"],
    }
    about["settings"].update(records=10, cpus=[1])
    text = report.markdown(summaries, {"eval": "eval"}, about)
    for line in (
        f"| {OURS} | 1,000 ± 15% |",
        "| tfdata | 500 ± 41% |",
        "| tfdata | 2.00 |",
        "| tfdata | 1.25 |",
        "| decode | 60.0% |",
        "| the rest: hand-over, idle | 10.0% |",
        "| time not waiting for a batch | 1.00% |",
        "| ffcv | 2.2 | 3 | 6 | 1.50 |",
        "Left out: dali (no).",
    ):
        assert line in text


def test_scaling_table_has_shares_of_perfect_scaling():
    summaries = report.summarize([run(OURS, 100), run(OURS, 190, threads=2)])
    parts = report._scaling(summaries, {"eval": "eval"}, [1, 2])
    assert f"| {OURS} | 100 (100%) | 190 (95%) |" in parts[1]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="no marks <!-- benchmark -->"):
        replace_marked("# Performance\n", "benchmark", "figures")


@pytest.mark.parametrize("task", SHAPES)
def test_decoded_region_is_exactly_what_the_views_need(task, monkeypatch):
    pipeline, training, _ = TASKS[task]
    plan = presets.find(pipeline).compile(training)
    renderer = reference.Renderer(plan, seed=3, dtype="uint8", layout="NHWC")
    size = (100, 128, 3) if task == SMALL else (700, 900, 3)
    image = np.random.RandomState(0).randint(0, 256, size).astype(np.uint8)

    def views(changed, record):
        monkeypatch.setattr(reference, "decode_image", lambda *_: changed)
        made = renderer.views(b"", 0, record, 1)[0]
        return np.concatenate([np.ravel(each) for each in made])

    for record in range(3):
        top, left, height, width = decode.needed_region(plan, 3, 1, record, *image.shape[:2])
        expected = views(image, record)
        outside = 255 - image
        outside[top : top + height, left : left + width] = image[
            top : top + height, left : left + width
        ]
        assert np.array_equal(views(outside, record), expected)
        # Here two neighbouring pixels of a view are at most three source pixels apart.
        margin = 4
        for edge in (
            np.s_[top : top + margin, left : left + width],
            np.s_[top + height - margin : top + height, left : left + width],
            np.s_[top : top + height, left : left + margin],
            np.s_[top : top + height, left + width - margin : left + width],
        ):
            inside = image.copy()
            inside[edge] = 255 - inside[edge]
            assert not np.array_equal(views(inside, record), expected)


CALLGRIND = """\
version: 1
summary: 66
fn=(1) main
ob=(1) /usr/bin/python
16 10
+3 5
calls=2 0
cob=(2) /lib/_core.so
cfn=(2)
17 51
ob=(2)
fn=(2) decode
1 20
cob=(3) /lib/libjpeg.so
calls=1 0
* 31
- 31

ob=(1)
fn=(3)
0 0
totals: 66
"""


def test_instructions_are_counted_once_by_binary():
    costs = bench_instructions._costs_by_object(iter(CALLGRIND.splitlines(keepends=True)))
    assert costs == {"/usr/bin/python": 15, "/lib/_core.so": 51}


@pytest.mark.parametrize(
    "now, libjpeg, status, said",
    [
        ((102, 51), "3.0", 0, "+2.0%"),
        ((104, 51), "3.0", 1, "SUPERVISED (total) by 4.0%"),
        ((100, 53), "3.0", 1, "SUPERVISED (core) by 6.0%"),
        ((150, 99), "3.1", 0, "not compared, since the figures were kept elsewhere: libjpeg 3.1"),
    ],
)
def test_growth_beyond_the_tolerance_fails(
    now, libjpeg, status, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bench_instructions, "KEPT", tmp_path / "instructions.json")
    count = bench_instructions.Count
    bench_instructions._keep({"SUPERVISED": count(100, 50)}, {"libjpeg": "3.0"})
    result = bench_instructions._compare({"SUPERVISED": count(*now)}, {"libjpeg": libjpeg})
    assert result == status
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_counted_images_are_reproducible(tmp_path):
    first = bench_instructions._jpeg(0, 40, 50, "4:2:0")
    assert first == bench_instructions._jpeg(0, 40, 50, "4:2:0")
    assert first != bench_instructions._jpeg(1, 40, 50, "4:2:0")


def test_every_contender_has_a_module():
    for contender in CONTENDERS.values():
        assert (
            importlib.util.find_spec(f"pretexture.scripts.benchmarking.{contender.module}")
            is not None
        )
