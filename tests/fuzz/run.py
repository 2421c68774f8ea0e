"""Runs the fuzz targets, each for some seconds, and says what they did.

`make fuzz` builds them and calls this. Each begins with the seeds that make_seeds writes and with
the inputs kept in tests/fuzz/corpus, and keeps what it finds worthwhile in build/fuzz/corpus for
the next time. An input that makes a target fail ends that target's run; it is kept, and its name
printed.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple, Optional

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "fuzz"

COMPILED = ("example", "huffman", "jpeg", "png", "tar", "tfrecord")
INTERPRETED = ("index", "lists", "permutations")

# The largest inputs, in bytes: large ones are slow, and small ones hold all that can go wrong.
MAX_LENGTH = {"jpeg": 2048, "huffman": 1024, "png": 1024}
ENVIRONMENT = {
    # All of what malloc returns is filled, so that memory which is read before it is written shows.
    "ASAN_OPTIONS": "max_malloc_fill_size=1000000:detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


class Outcome(NamedTuple):
    """What a target's run came to.

    Attributes:
        target: its name.
        runs: inputs tried.
        seconds: that it took.
        covered: branches of the code under test that were reached, as libFuzzer counts them.
        log: all that it printed.
        status: its exit status, 0 if nothing was found.
    """

    target: str
    runs: int
    seconds: int
    covered: int
    log: pathlib.Path
    status: int


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns 1 if anything was found."""
    flags = _parser().parse_args(arguments)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    subprocess.run([BUILD / "tests" / "fuzz" / "make_seeds", BUILD / "seeds"], check=True)
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        environment = {**os.environ, **ENVIRONMENT, "TMPDIR": scratch}
        with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
            outcomes = list(
                pool.map(lambda target: _run(target, flags, environment), flags.targets)
            )
    for outcome in outcomes:
        if outcome.status != 0:
            _explain(outcome)
    return 1 if any(outcome.status for outcome in outcomes) else 0


def _run(target: str, flags: argparse.Namespace, environment: Dict[str, str]) -> Outcome:
    corpus, findings = BUILD / "corpus" / target, BUILD / "findings"
    kept = HERE / "corpus" / target
    for folder in (corpus, findings, kept):
        folder.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{target}.log"
    limit = f"-runs={flags.runs}" if flags.runs else f"-max_total_time={flags.seconds}"
    with open(log, "wb") as output:
        process = subprocess.run(
            [
                *_command(target),
                limit,
                f"-max_len={MAX_LENGTH.get(target, 4096)}",
                "-timeout=60",
                "-print_final_stats=1",
                f"-artifact_prefix={findings}/{target}-",
                corpus,
                BUILD / "seeds" / target,
                kept,
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    text = log.read_text(errors="replace")
    outcome = Outcome(
        target,
        int(_last(r"stat::number_of_executed_units: +(\d+)", text)),
        int(_last(r"Done \d+ runs in (\d+) second", text)),
        int(_last(r" cov: (\d+)", text)),
        log,
        process.returncode,
    )
    print(
        f"{target:<14}{outcome.runs:>12,} runs in {outcome.seconds:>5,} s, "
        f"{outcome.covered:>5,} branches reached: "
        + ("nothing found" if outcome.status == 0 else "FAILED"),
        flush=True,
    )
    return outcome


def _command(target: str) -> List[str]:
    if target in COMPILED:
        return [str(BUILD / "tests" / "fuzz" / f"{target}_fuzz")]
    return [sys.executable, str(HERE / f"{target}_fuzz.py")]


def _last(pattern: str, text: str) -> str:
    return ([*re.findall(pattern, text)] or ["0"])[-1]


def _explain(outcome: Outcome) -> None:
    text = outcome.log.read_text(errors="replace")
    telling = r"^.*(?:FINDING|ERROR:|runtime error|SUMMARY|Error\b|Test unit written).*$"
    print(f"\n{outcome.target} found something; all that it said is in {outcome.log}")
    for line in re.findall(telling, text, re.MULTILINE)[-8:]:
        print(f"  {line.strip()}")
    file = _last(r"Test unit written to (\S+)", text)
    if file != "0":
        command = " ".join([*_command(outcome.target), file])
        print(f"To see it again: {command}")
        print(f"Once it is mended, keep the input in {HERE / 'corpus' / outcome.target}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    everything = [*COMPILED, *INTERPRETED]
    parser.add_argument(
        "targets",
        nargs="*",
        default=everything,
        metavar="TARGET",
        help=f"of {', '.join(everything)} (default: all)",
    )
    parser.add_argument(
        "--seconds", type=int, default=60, metavar="N", help="for each target (default: 60)"
    )
    parser.add_argument(
        "--runs", type=int, metavar="N", help="inputs for each target, instead of seconds"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="targets at a time (default: one a processor)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
