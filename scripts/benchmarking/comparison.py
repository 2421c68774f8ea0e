"""The measuring and comparing of contenders, from shards to files with the report."""

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from pretexture.loader import imagenet, presets
from pretexture.loader.console.marked import replace_marked
from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import is_url

from . import machine, report
from .jobs import CONTENDERS, ON_CPU, OTHERS, OURS, PAPER, TASKS, Job, Outcome

Say = Callable[[str], None]


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison(NamedTuple):
    """The results of a benchmark.

    Attributes:
        about: settings, machine, versions and contenders left out; see `report.markdown`.
        titles: titles of the tasks by name.
        runs: all measurements.
    """

    about: Dict[str, Any]
    titles: Dict[str, str]
    runs: List[report.Run]

    @property
    def summaries(self) -> Dict[report.Key, report.Summary]:
        """The results of all rounds, by contender, task and number of threads."""
        return report.summarize(self.runs)

    def markdown(self) -> str:
        """The report, in tables."""
        return report.markdown(self.summaries, self.titles, self.about)


def benchmark(
    data: str,
    *,
    tasks: Sequence[str] = PAPER,
    against: Sequence[str] = ON_CPU,
    rounds: int = 5,
    seconds_per_run: float = 5.0,
    threads: Sequence[int] = (1,),
    batch_size: int = 64,
    dtype: str = "float32",
    say: Say = _to_stderr,
) -> Comparison:
    """Measures how fast the Loader and other loaders turn TFRecords into batches.

    The contenders take turns, once in each round, each in a new process that is pinned to the same
    processors.

    Args:
        data: path of a folder of train-*-of-* shards.
        tasks: names of `TASKS`; those with the same pipeline are measured once.
        against: names of `CONTENDERS` to compare with; those that are not installed are left out.
        rounds: number of rounds.
        seconds_per_run: seconds of a measurement, after a warm-up.
        threads: numbers of threads to measure with, on as many processors.
        batch_size: images per batch.
        dtype: type of the images; contenders that cannot make it are left out.
        say: function that is told, line by line, what has been measured.

    Raises: ValueError for an unknown name, for data at a URL, for too few records or processors, or
        if the Loader fails or contenders make different arrays; OSError.
    """
    if is_url(data):
        raise ValueError(
            f"--data {data}: this measures loaders on local files, which is what all of them read; "
            f"copy the shards first"
        )
    for names, known in ((tasks, TASKS), (against, OTHERS)):
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is not one of {', '.join(known)}")
    if not seconds_per_run > 0:
        raise ValueError(f"--seconds-per-run must be above 0, not {seconds_per_run}")
    cpus = machine.available()
    counts, limit = sorted(set(threads)), machine.processors()
    if counts[-1] > limit:
        raise ValueError(
            f"--threads {counts[-1]} is more than the {limit} processors that may be used"
        )
    records = imagenet(data, "trainval")
    if len(records) < batch_size:
        raise ValueError(f"{data} has {len(records)} records, fewer than --batch-size")
    titles = _titles(tasks)
    contenders, left_out = _present([OURS, *against], dtype)
    left_out += _lacking(contenders, list(titles))
    for path in records.paths:
        _read(path)
    with tempfile.TemporaryDirectory(prefix="pretexture-benchmark-") as folder:
        converting = [
            name
            for name in contenders
            if CONTENDERS[name].converts and set(titles) & set(CONTENDERS[name].tasks)
        ]
        conversions, unconverted = _convert(converting, records.paths, folder, counts[-1], say)
        jobs = [
            Job(
                contender=name,
                task=task,
                paths=records.paths,
                batch_size=batch_size,
                threads=count,
                dtype=dtype,
                seconds=seconds_per_run,
                cpus=tuple(cpus[-count:]),
                seed=0,
                converted=os.path.join(folder, name) if name in conversions else "",
            )
            for count in counts
            for task in titles
            for name in contenders
            if count <= (CONTENDERS[name].most_threads or count)
            and task in CONTENDERS[name].tasks
            and (name in conversions or name not in converting)
        ]
        runs, failures = _measure(jobs, rounds, say)
    _check_shapes(runs)
    about = {
        "settings": {
            "rounds": rounds,
            "seconds": seconds_per_run,
            "batch_size": batch_size,
            "dtype": dtype,
            "data": pathlib.Path(data).resolve().name,
            "records": len(records),
            "cpus": cpus[-counts[-1] :],
        },
        "machine": machine.description(),
        "versions": _versions(contenders),
        "conversions": {name: found._asdict() for name, found in conversions.items()},
        "left_out": left_out + unconverted + failures,
    }
    return Comparison(about, titles, runs)


class Files:
    """The files that a comparison is written to.

    Args:
        runs: path of a file for every run and all medians, in JSON.
        plot: path of a bar chart; its ending gives the format.
        page: path of a document; what is between its marks <!-- benchmark --> is replaced by the
            report, with the chart of `plot`.

    Raises: ValueError, OSError or ImportError if they cannot be written.
    """

    def __init__(
        self, runs: Optional[str] = None, plot: Optional[str] = None, page: Optional[str] = None
    ):
        self._runs, self._plot, self._page = runs, plot, page
        for written in filter(None, (runs, plot)):
            make_parent(written)
        if plot:
            importlib.import_module("pretexture.loader.pyplot")
        if page:
            replace_marked(pathlib.Path(page).read_text(), report.MARK, "")

    def write(self, comparison: Comparison) -> None:
        """Writes a comparison to all of them."""
        titles, summaries = comparison.titles, comparison.summaries
        if self._page:
            page, text = pathlib.Path(self._page), comparison.markdown()
            if self._plot:
                picture = pathlib.Path(os.path.relpath(self._plot, page.parent)).as_posix()
                text = f"![Images a second by task and loader]({picture})\n\n{text}"
            page.write_text(replace_marked(page.read_text(), report.MARK, text))
        if self._plot:
            from . import chart

            chart.draw(summaries, titles, self._plot)
        if self._runs:
            result = {
                **comparison.about,
                "pipelines": {task: str(presets.find(TASKS[task].pipeline)) for task in titles},
                "summaries": [
                    {"contender": key[0], "task": key[1], "threads": key[2], **_plain(summary)}
                    for key, summary in summaries.items()
                ],
                "runs": [_flat(run) for run in comparison.runs],
            }
            pathlib.Path(self._runs).write_text(json.dumps(result, indent=1) + "\n")


def scaling(most: Optional[int] = None) -> List[int]:
    """1, 2, 4, … threads up to `most`, by default as many as processors may be used."""
    most = most or machine.processors()
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def _read(path: str) -> None:
    """Brings a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def _titles(tasks: Sequence[str]) -> Dict[str, str]:
    """The tasks to measure and their titles; those with the same pipeline are measured once."""
    same: Dict[Any, List[str]] = {}
    for task in dict.fromkeys(tasks):
        same.setdefault(TASKS[task], []).append(task)
    # Each under the name that contenders know it by, the first of its pipeline.
    names = list(TASKS)
    first = {pipeline: names[list(TASKS.values()).index(pipeline)] for pipeline in same}
    return {
        first[pipeline]: ", ".join(title.replace("_", " ") for title in titles)
        for pipeline, titles in same.items()
    }


def _present(names: Sequence[str], dtype: str) -> Tuple[List[str], List[str]]:
    """The contenders that can take part, and a line for each that cannot."""
    present, left_out = [], []
    for name in dict.fromkeys(names):
        contender = CONTENDERS[name]
        missing = [module for module in contender.requires if not _installed(module)]
        if missing:
            wanted = " ".join(contender.requires[module][0] for module in missing)
            left_out.append(f"{name} (not installed: pip install {wanted})")
        elif dtype not in contender.dtypes:
            left_out.append(f"{name} (makes no {dtype})")
        else:
            present.append(name)
    return present, left_out


def _lacking(contenders: Sequence[str], tasks: Sequence[str]) -> List[str]:
    """A line for each contender that cannot do all of these tasks."""
    lines = []
    for name in contenders:
        lacking = [task for task in tasks if task not in CONTENDERS[name].tasks]
        if lacking:
            lines.append(f"{name} at {', '.join(lacking)} (not among its tasks)")
    return lines


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def _versions(contenders: Sequence[str]) -> List[str]:
    wanted: List[Tuple[str, ...]] = [("pretexture",), ("numpy",)]
    for name in contenders:
        wanted += list(CONTENDERS[name].requires.values())
    found = [machine.version(names) for names in dict.fromkeys(wanted)]
    found.append(machine.libjpeg_version())
    return [f"Python {machine.description()['python']}", *(text for text in found if text)]


def _convert(
    contenders: Sequence[str], paths: Sequence[str], folder: str, processes: int, say: Say
) -> Tuple[Dict[str, report.Conversion], List[str]]:
    """Lets these contenders convert the shards, each to a file in `folder` with its own name.

    Returns what they did, and a line for each one that failed.
    """
    conversions, failures = {}, []
    for name in contenders:
        target = os.path.join(folder, name)
        arguments = [CONTENDERS[name].module, name, target, str(processes), *paths]
        try:
            seconds = float(_run_module(arguments, processes))
        except RuntimeError as error:
            failures.append(f"{name}: {error}")
            say(failures[-1])
            continue
        conversions[name] = report.Conversion(
            seconds, processes, os.path.getsize(target), sum(map(os.path.getsize, paths))
        )
        say(f"{name} has converted the shards in {seconds:.1f} s")
    return conversions, failures


def _measure(jobs: Sequence[Job], rounds: int, say: Say) -> Tuple[List[report.Run], List[str]]:
    """Runs all jobs once a round, the contenders of a task one after the other.

    Returns the runs, and a line for each contender that failed at a task; it is not tried again.
    """
    runs: List[report.Run] = []
    failed: Dict[Tuple[str, str, int], str] = {}
    done = 0
    for number in range(rounds):
        for group in _groups(jobs):
            # A different contender begins each round.
            turn = number % len(group)
            for job in group[turn:] + group[:turn]:
                done += 1
                key = (job.contender, job.task, job.threads)
                if key in failed:
                    continue
                where = f"{job.contender} at {job.task}, {job.threads} thread(s)"
                job = dataclasses.replace(job, seed=number)
                try:
                    outcome = _run_job(job)
                except RuntimeError as error:
                    if job.contender == OURS:
                        raise ValueError(f"{where}: {error}") from None
                    failed[key] = f"{where}: {error}"
                    say(failed[key])
                    continue
                runs.append(report.Run(job, outcome))
                say(f"{done}/{rounds * len(jobs)} {where}: {outcome.rate:,.0f} images/s")
    return runs, list(failed.values())


def _groups(jobs: Sequence[Job]) -> List[List[Job]]:
    groups: Dict[Tuple[str, int], List[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.threads), []).append(job)
    return list(groups.values())


def _run_job(job: Job) -> Outcome:
    """Measures a job in a new process. Raises: RuntimeError with the last line that it printed."""
    arguments = ["worker", json.dumps(dataclasses.asdict(job))]
    printed = _run_module(arguments, job.threads, CONTENDERS[job.contender].on_gpu)
    fields = json.loads(printed)
    for name in ("shape", "label_shape"):
        fields[name] = tuple(fields[name])
    return Outcome(**fields)


def _run_module(arguments: Sequence[str], threads: int, on_gpu: bool = False) -> str:
    """Runs a module of `benchmarking` with arguments in a new process, which may see the GPUs.

    Returns the last line of its standard output. Raises: RuntimeError with that of its standard
    error.
    """
    count = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if not on_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    module, *rest = arguments
    process = subprocess.run(
        [sys.executable, "-m", f"pretexture.scripts.benchmarking.{module}", *rest],
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode != 0:
        said = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        raise RuntimeError(said[-1] if said else f"exit status {process.returncode}")
    return process.stdout.splitlines()[-1]


def _check_shapes(runs: Sequence[report.Run]) -> None:
    """Raises ValueError if the contenders do not make arrays of the same shape and type."""
    shapes: Dict[str, Tuple[str, Any]] = {}
    for job, outcome in runs:
        if not outcome.shape:
            continue
        found = (outcome.shape, outcome.label_shape, outcome.dtype)
        name, expected = shapes.setdefault(job.task, (job.contender, found))
        if found != expected:
            raise ValueError(f"at {job.task} {name} makes {expected}, {job.contender} {found}")


def _plain(summary: report.Summary) -> Dict[str, Any]:
    fields = summary._asdict()
    return {**fields, "rate": fields["rate"]._asdict(), "cpu_rate": fields["cpu_rate"]._asdict()}


def _flat(run: report.Run) -> Dict[str, Any]:
    """A run as one dict, without the fields that all runs share."""
    job = dataclasses.asdict(run.job)
    names = ("contender", "task", "threads", "seed")
    return {**{name: job[name] for name in names}, **dataclasses.asdict(run.outcome)}
