"""Measures one job in a process of its own.

    python -m pretexture.scripts.benchmarking.worker JOB

The job comes as JSON, and the outcome goes to standard output as its last line.
"""

import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from typing import Any, Dict, List, Tuple

from .jobs import CONTENDERS, TASKS, TRAINING, Job, Outcome

WARM_UP_BATCHES = 3
WARM_UP_SECONDS = 1.5
FEWEST_BATCHES = 2


def main() -> None:
    """Reads the job, pins the process, and only then loads the contender's libraries."""
    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, "paths": tuple(fields["paths"]), "cpus": tuple(fields["cpus"])})
    if job.cpus:
        os.sched_setaffinity(0, job.cpus)
    outcome = measure(job)
    sys.stdout.flush()
    print("\n" + json.dumps(dataclasses.asdict(outcome)), flush=True)
    # Some libraries take long to stop, or never stop.
    os._exit(0)


def measure(job: Job) -> Outcome:
    """Runs the contender until it is warm, then for the job's time.

    The measured time begins and ends right after a batch has been handed over, when equally many
    batches are prefetched.
    """
    module = TRAINING if TASKS[job.task].trains_in else CONTENDERS[job.contender].module
    source = importlib.import_module(f".{module}", __package__).open(job)
    batches = iter(source)
    warm = time.perf_counter() + min(WARM_UP_SECONDS, job.seconds)
    count = 0
    while count < WARM_UP_BATCHES or time.perf_counter() < warm:
        image, label = next(batches)
        count += 1

    before, cpu, thread = source.times(), _cpu_seconds(), time.thread_time()
    begin = now = time.perf_counter()
    count = 0
    while count < FEWEST_BATCHES or now - begin < job.seconds:
        image, label = next(batches)
        count += 1
        now = time.perf_counter()
    thread, cpu, after = time.thread_time() - thread, _cpu_seconds() - cpu, source.times()
    return Outcome(
        images=count * job.batch_size,
        seconds=now - begin,
        cpu_seconds=cpu,
        peak_bytes=_peak_bytes(),
        shape=_shape(image),
        label_shape=_shape(label),
        dtype=_dtype(image),
        times={name: after[name] - before[name] for name in after},
        thread_seconds=thread,
    )


def _shape(array: Any) -> Tuple[int, ...]:
    if isinstance(array, tuple):
        return tuple(side for each in array for side in _shape(each))
    return () if array is None else tuple(int(side) for side in array.shape)


def _dtype(array: Any) -> str:
    """A NumPy, TensorFlow or PyTorch dtype's plain name."""
    if isinstance(array, tuple):
        return _dtype(array[0])
    if array is None:
        return ""
    return getattr(array.dtype, "name", None) or str(array.dtype).split(".")[-1]


def _cpu_seconds() -> float:
    """The processor time of this process and its workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for fields in _descendants().values():
        total += (int(fields[13]) + int(fields[14])) / ticks
    return total


def _peak_bytes() -> int:
    """The largest resident memory of this process and its workers together."""
    if not os.path.isdir("/proc/self"):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    total = 0
    for pid in ("self", *_descendants()):
        try:
            with open(f"/proc/{pid}/status") as file:
                fields = dict(line.split(":", 1) for line in file)
        except OSError:
            continue
        total += int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
    return total


def _descendants() -> Dict[str, List[str]]:
    """The fields of /proc/PID/stat for every process that descends from this one."""
    stats = {}
    for pid in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        try:
            with open(f"/proc/{pid}/stat") as file:
                text = file.read()
        except OSError:
            continue
        # The name, in parentheses, may hold anything.
        stats[pid] = [pid, "", *text[text.rindex(")") + 2 :].split()]
    found: Dict[str, List[str]] = {}
    family = {str(os.getpid())}
    while True:
        more = {pid: f for pid, f in stats.items() if f[3] in family and pid not in found}
        if not more:
            return found
        found.update(more)
        family.update(more)


if __name__ == "__main__":
    main()
