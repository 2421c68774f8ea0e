"""Medians, ratios and Markdown tables out of many measurements."""

import statistics
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .jobs import CONTENDERS, OURS, Job, Outcome

MARK = "benchmark"
_STAGES = (
    ("read_seconds", "read, check, parse"),
    ("decode_seconds", "decode"),
    ("resample_seconds", "resample"),
    ("color_seconds", "colour, normalise, write"),
)


class Run(NamedTuple):
    """A measurement and its result."""

    job: Job
    outcome: Outcome


class Spread(NamedTuple):
    """The middle and the ends of some measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


class Conversion(NamedTuple):
    """The conversion of the shards to a contender's own format.

    Attributes:
        seconds: length of the conversion by the clock.
        processes: number of processes that it used.
        bytes: size of the converted file.
        shard_bytes: size of the shards.
    """

    seconds: float
    processes: int
    bytes: int
    shard_bytes: int


Key = Tuple[str, str, int]  # contender, task, threads


class Summary(NamedTuple):
    """The results of all rounds of a contender at a task.

    Attributes:
        rounds: number of rounds.
        rate: images per second.
        cpu_rate: images per CPU-second.
        peak_bytes: largest peak of memory.
        stages: shares of the loader's threads' time, by stage; empty if unknown.
        record_seconds: seconds of one thread per image.
        waiting: share of the time in which the consumer waits for batches.
        consumer: processor time of the consumer's thread, as a share of the time.
    """

    rounds: int
    rate: Spread
    cpu_rate: Spread
    peak_bytes: int
    stages: Dict[str, float]
    record_seconds: float
    waiting: Optional[float]
    consumer: float


def summarize(runs: Iterable[Run]) -> Dict[Key, Summary]:
    """One summary for each contender, task and number of threads, in the order of the runs."""
    groups: Dict[Key, List[Run]] = {}
    for run in runs:
        groups.setdefault((run.job.contender, run.job.task, run.job.threads), []).append(run)
    return {key: _summary(group) for key, group in groups.items()}


def _summary(runs: List[Run]) -> Summary:
    outcomes = [run.outcome for run in runs]
    stages: Dict[str, float] = {}
    waiting = None
    spent = sum(run.outcome.seconds * run.job.threads for run in runs)
    records = sum(o.times.get("records", 0) for o in outcomes)
    if records:
        stages = {name: sum(o.times[name] for o in outcomes) / spent for name, _ in _STAGES}
        waiting = statistics.median(o.times["wait_seconds"] / o.seconds for o in outcomes)
    return Summary(
        rounds=len(runs),
        rate=Spread.of([o.rate for o in outcomes]),
        cpu_rate=Spread.of([o.cpu_rate for o in outcomes]),
        peak_bytes=max(o.peak_bytes for o in outcomes),
        stages=stages,
        record_seconds=spent / records if records else 0.0,
        waiting=waiting,
        consumer=statistics.median(o.thread_seconds / o.seconds for o in outcomes),
    )


def markdown(summaries: Dict[Key, Summary], titles: Dict[str, str], about: Dict[str, Any]) -> str:
    """The whole report.

    Args:
        summaries: summaries of all measurements.
        titles: titles of the tasks, in the order of their columns.
        about: `settings`, with `rounds`, `seconds`, `batch_size`, `dtype`, `data` (its name),
            `records` and `cpus` (those of the largest number of threads); `machine`, see
            `machine.description`; `versions`; `conversions`, the fields of a Conversion for each
            contender that made one; `left_out`, a line for each contender that was left out.
    """
    parts = []
    threads = sorted({key[2] for key in summaries})
    for count in threads:
        parts += _tables(_Grid(summaries, titles, count))
    if len(threads) > 1:
        parts += _scaling(summaries, titles, threads)
    settings, machine = about["settings"], about["machine"]
    pinned = "pinned to no processors in particular"
    if settings["cpus"]:
        pinned = "pinned to as many processors as it has threads, the same for all"
    parts.append(
        f"Medians of {_count(settings['rounds'], 'alternating round')} of {settings['seconds']:g} s"
        f", each contender in a fresh process, {pinned}; ± is half of the distance from the lowest "
        f"to the highest. Batches of {settings['batch_size']}, {settings['dtype']}, from "
        f"{settings['data']} ({settings['records']:,} records, in the page cache)."
    )
    parts.append(
        f"Machine: {machine['processor']}, {machine['processors']} processors, {machine['system']}"
        f". Versions: {', '.join(about['versions'])}."
    )
    contenders = dict.fromkeys(key[0] for key in summaries)
    parts.append("\n".join(f"- {name}: {CONTENDERS[name].about}." for name in contenders))
    if about["conversions"]:
        parts += _conversions(about["conversions"])
    if about["left_out"]:
        parts.append("Left out: " + "; ".join(about["left_out"]) + ".")
    return "\n\n".join(parts) + "\n"


class _Grid:
    """The summaries of one number of threads, with a row per contender and a column per task."""

    def __init__(self, summaries: Dict[Key, Summary], titles: Dict[str, str], threads: int):
        self._summaries, self._titles, self.threads = summaries, titles, threads
        self.contenders = [
            name for name in dict.fromkeys(key[0] for key in summaries) if self._any(name)
        ]

    def _any(self, contender: str) -> bool:
        return any((contender, task, self.threads) in self._summaries for task in self._titles)

    def table(
        self,
        cell: Callable[[Summary, Summary], str],
        contenders: Optional[Sequence[str]] = None,
    ) -> str:
        """Cells from a summary and that of the Loader at the same task."""
        rows = []
        for contender in self.contenders if contenders is None else contenders:
            row = [contender]
            for task in self._titles:
                ours = self._summaries.get((OURS, task, self.threads))
                theirs = self._summaries.get((contender, task, self.threads))
                row.append(cell(theirs, ours) if theirs and ours else "-")
            rows.append(row)
        return _table(["", *self._titles.values()], rows)

    def ours(self, rows: Sequence[Tuple[str, Callable[[Summary], str]]]) -> str:
        """A table of the Loader alone, with a row for each figure."""
        summaries = [self._summaries.get((OURS, task, self.threads)) for task in self._titles]
        return _table(
            ["", *self._titles.values()],
            [[name, *(figure(s) if s else "-" for s in summaries)] for name, figure in rows],
        )


def _tables(grid: _Grid) -> List[str]:
    others = [name for name in grid.contenders if name != OURS]
    loaders = [name for name in grid.contenders if name != "decode"]
    threads = _count(grid.threads, "thread")
    parts = [f"**Images a second, {threads}**", grid.table(lambda s, _: _spread(s.rate))]
    if others:
        parts += [
            f"**{OURS} makes so many times as many images a second, {threads}**",
            grid.table(lambda s, ours: _ratio(ours.rate.median / s.rate.median), others),
        ]
    parts += [f"**Images a CPU-second, {threads}**", grid.table(lambda s, _: _spread(s.cpu_rate))]
    if others:
        parts += [
            f"**{OURS} makes so many times as many images a CPU-second, {threads}**",
            grid.table(lambda s, ours: _ratio(ours.cpu_rate.median / s.cpu_rate.median), others),
        ]
    parts += [
        f"**Peak resident memory, MB, libraries included, {threads}**",
        grid.table(lambda s, _: f"{s.peak_bytes / 1e6:,.0f}", loaders),
        f"**Where {OURS}'s threads spend their time, {threads}**",
        grid.ours(
            [
                *((title, _stage(name)) for name, title in _STAGES),
                ("the rest: hand-over, idle", _rest),
                ("of a thread's time an image, ms", lambda s: f"{s.record_seconds * 1e3:.2f}"),
            ]
        ),
        f"**What taking {OURS}'s batches costs the consumer, {threads}**",
        grid.ours(
            [
                ("processor time of its thread", lambda s: _percent(s.consumer, 2)),
                ("time not waiting for a batch", lambda s: _percent(1 - (s.waiting or 0), 2)),
            ]
        ),
    ]
    return parts


def _stage(name: str) -> Callable[[Summary], str]:
    return lambda summary: _percent(summary.stages[name])


def _rest(summary: Summary) -> str:
    # A record that is being rendered when the measurement begins can make it negative.
    return _percent(max(0.0, 1 - sum(summary.stages.values())))


def _scaling(
    summaries: Dict[Key, Summary], titles: Dict[str, str], threads: Sequence[int]
) -> List[str]:
    """Images a second by number of threads, and the share of perfect scaling that they are."""
    parts = []
    for task, title in titles.items():
        rows = []
        for contender in dict.fromkeys(key[0] for key in summaries):
            found = [summaries.get((contender, task, count)) for count in threads]
            first = found[0]
            if first is None or sum(s is not None for s in found) < 2:
                continue
            row = [contender]
            for count, summary in zip(threads, found):
                if summary is None:
                    row.append("-")
                    continue
                share = summary.rate.median / first.rate.median * threads[0] / count
                row.append(f"{summary.rate.median:,.0f} ({_percent(share, 0)})")
            rows.append(row)
        parts += [
            f"**Images a second by threads, {title}** (share of perfect scaling)",
            _table(["", *(_count(count, "thread") for count in threads)], rows),
        ]
    return parts


def _conversions(conversions: Dict[str, Dict[str, Any]]) -> List[str]:
    """The conversions of shards, which contenders make before the measurements."""
    rows = [
        [
            name,
            f"{found['seconds']:,.1f}",
            str(found["processes"]),
            f"{found['bytes'] / 1e6:,.0f}",
            f"{found['bytes'] / found['shard_bytes']:.2f}",
        ]
        for name, found in conversions.items()
    ]
    header = ["", "seconds", "processes", "MB", "times the size of the shards"]
    return ["**Shards converted once, before the measurements**", _table(header, rows)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(spread: Spread) -> str:
    digits = 0 if spread.median >= 100 else 1
    return f"{spread.median:,.{digits}f} ± {(spread.high - spread.low) / 2 / spread.median:.0%}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
