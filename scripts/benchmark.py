"""Measures how fast the Loader and other loaders turn TFRecords into batches.

The contenders take turns, once in each round, each in a new process that is pinned to the same
processors; the report gives medians over the rounds. Prints Markdown tables, and the progress on
standard error.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

from pretexture.loader import imagenet, presets
from pretexture.loader.console.paths import make_parent
from pretexture.loader.shards.remote import is_url
from pretexture.scripts import flags
from pretexture.scripts.benchmarking import machine, report
from pretexture.scripts.benchmarking.jobs import CONTENDERS, OURS, PAPER, SMALL, TASKS, Job, Outcome
from pretexture.scripts.marked import replace_marked


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        _run(args)
    return 0


def _run(args: argparse.Namespace) -> None:
    if is_url(args.data):
        raise ValueError(
            f"--data {args.data}: this measures loaders on local files, which is what all of "
            f"them read; copy the shards first"
        )
    # Paths that cannot be written fail now, not at the end.
    for written in filter(None, (args.json, args.plot)):
        make_parent(written)
    if args.plot:
        importlib.import_module("pretexture.loader.pyplot")
    if args.markdown:
        replace_marked(pathlib.Path(args.markdown).read_text(), report.MARK, "")
    cpus = machine.available()
    threads = _threads(args, len(cpus) or os.cpu_count() or 1)
    records = imagenet(args.data, "trainval")
    if len(records) < args.batch_size:
        raise ValueError(f"{args.data} has {len(records)} records, fewer than --batch-size")
    titles = _titles(args.tasks)
    contenders, left_out = _present([OURS, *args.against], args.dtype)
    left_out += _lacking(contenders, list(titles))
    for path in records.paths:
        _read(path)
    with tempfile.TemporaryDirectory(prefix="pretexture-benchmark-") as folder:
        converting = [
            name
            for name in contenders
            if CONTENDERS[name].converts and set(titles) & set(CONTENDERS[name].tasks)
        ]
        conversions, unconverted = _convert(converting, records.paths, folder, threads[-1])
        jobs = [
            Job(
                contender=name,
                task=task,
                paths=records.paths,
                batch_size=args.batch_size,
                threads=count,
                dtype=args.dtype,
                seconds=args.seconds_per_run,
                cpus=tuple(cpus[-count:]),
                seed=0,
                converted=os.path.join(folder, name) if name in conversions else "",
            )
            for count in threads
            for task in titles
            for name in contenders
            if count <= (CONTENDERS[name].most_threads or count)
            and task in CONTENDERS[name].tasks
            and (name in conversions or name not in converting)
        ]
        runs, failures = _measure(jobs, args.rounds)
    _check_shapes(runs)
    about = {
        "settings": {
            "rounds": args.rounds,
            "seconds": args.seconds_per_run,
            "batch_size": args.batch_size,
            "dtype": args.dtype,
            "data": pathlib.Path(args.data).resolve().name,
            "records": len(records),
            "cpus": cpus[-threads[-1] :],
        },
        "machine": machine.description(),
        "versions": _versions(contenders),
        "conversions": {name: found._asdict() for name, found in conversions.items()},
        "left_out": left_out + unconverted + failures,
    }
    _publish(args, about, titles, runs)


def _publish(
    args: argparse.Namespace,
    about: Dict[str, Any],
    titles: Dict[str, str],
    runs: Sequence[report.Run],
) -> None:
    summaries = report.summarize(runs)
    text = report.markdown(summaries, titles, about)
    print(text, end="")
    if args.markdown:
        page = pathlib.Path(args.markdown)
        if args.plot:
            picture = pathlib.Path(os.path.relpath(args.plot, page.parent)).as_posix()
            text = f"![Images a second by task and loader]({picture})\n\n{text}"
        page.write_text(replace_marked(page.read_text(), report.MARK, text))
    if args.plot:
        from pretexture.scripts.benchmarking import chart

        chart.draw(summaries, titles, args.plot)
    if args.json:
        result = {
            **about,
            "pipelines": {task: str(presets.find(TASKS[task].pipeline)) for task in titles},
            "summaries": [
                {"contender": key[0], "task": key[1], "threads": key[2], **_plain(summary)}
                for key, summary in summaries.items()
            ],
            "runs": [_flat(run) for run in runs],
        }
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


def _threads(args: argparse.Namespace, limit: int) -> List[int]:
    """The numbers of threads to measure with."""
    if args.scaling:
        most = max(args.threads or [limit])
        counts = [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    else:
        counts = args.threads or [1]
    if max(counts) > limit:
        raise ValueError(
            f"--threads {max(counts)} is more than the {limit} processors that may be used"
        )
    return sorted(set(counts))


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
    contenders: Sequence[str], paths: Sequence[str], folder: str, processes: int
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
            _say(failures[-1])
            continue
        conversions[name] = report.Conversion(
            seconds, processes, os.path.getsize(target), sum(map(os.path.getsize, paths))
        )
        _say(f"{name} has converted the shards in {seconds:.1f} s")
    return conversions, failures


def _measure(jobs: Sequence[Job], rounds: int) -> Tuple[List[report.Run], List[str]]:
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
                    _say(failed[key])
                    continue
                runs.append(report.Run(job, outcome))
                _say(f"{done}/{rounds * len(jobs)} {where}: {outcome.rate:,.0f} images/s")
    return runs, list(failed.values())


def _groups(jobs: Sequence[Job]) -> List[List[Job]]:
    groups: Dict[Tuple[str, int], List[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.threads), []).append(job)
    return list(groups.values())


def _run_job(job: Job) -> Outcome:
    """Measures a job in a new process. Raises: RuntimeError with the last line that it printed."""
    printed = _run_module(["worker", json.dumps(dataclasses.asdict(job))], job.threads)
    fields = json.loads(printed)
    for name in ("shape", "label_shape"):
        fields[name] = tuple(fields[name])
    return Outcome(**fields)


def _run_module(arguments: Sequence[str], threads: int) -> str:
    """Runs a module of `benchmarking` with arguments in a new process.

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
        "CUDA_VISIBLE_DEVICES": "",
    }
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(known: Sequence[str]) -> Any:
    """A parser of comma-separated names."""

    def parse(text: str) -> List[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


def _counts(text: str) -> List[int]:
    return [flags.whole(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    others = [name for name in CONTENDERS if name != OURS]
    contenders = "\n".join(f"  {name:<14}{c.about}" for name, c in CONTENDERS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"contenders:\n{contenders}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with shards train-*-of-*"
    )
    parser.add_argument(
        "--tasks",
        type=_names(list(TASKS)),
        default=PAPER,
        metavar="A,B,…",
        help=f"of {', '.join(TASKS)} (default: all but {SMALL}, which is for images of about 32 x "
        "32 pixels)",
    )
    parser.add_argument(
        "--against",
        type=_names(others),
        default=others,
        metavar="A,B,…",
        help=f"of {', '.join(others)} (default: all that are installed); '' for none",
    )
    parser.add_argument("--rounds", type=flags.whole, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--seconds-per-run",
        type=_seconds,
        default=5.0,
        metavar="X",
        help="measured, after a warm-up (default: 5)",
    )
    parser.add_argument(
        "--threads",
        type=_counts,
        metavar="N[,N…]",
        help="of each contender, on as many processors (default: 1)",
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="measure with 1, 2, 4, … threads up to --threads (default: one a processor)",
    )
    parser.add_argument(
        "--batch-size", type=flags.whole, default=64, metavar="N", help="(default: 64)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "uint8"),
        default="float32",
        help="of the images (default: float32); contenders that cannot make it are left out",
    )
    parser.add_argument(
        "--json", type=flags.local, metavar="FILE", help="write every run and all medians"
    )
    parser.add_argument(
        "--plot",
        type=flags.local,
        metavar="FILE",
        help="draw a bar chart, as PNG, SVG or PDF",
    )
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        help=f"put the report, with the chart of --plot, into this page between its "
        f"marks <!-- {report.MARK} -->",
    )
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
