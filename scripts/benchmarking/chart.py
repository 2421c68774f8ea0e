"""The report as a bar chart, with a line chart below it if several thread counts were tried."""

import itertools
from typing import Any, Dict, List

from pretexture.loader.pyplot import pyplot

from .jobs import FIRST_EPOCH, OURS
from .report import Key, Summary

# Okabe and Ito's colours, two blues for ours, and some more for many loaders at once.
_OURS = {OURS: "#0072b2", FIRST_EPOCH: "#56b4e9"}
_OTHERS = ["#e69f00", "#f0c566", "#009e73", "#cc79a7", "#999999", "#d55e00", "#6a3d9a", "#8c6d31"]


def draw(summaries: Dict[Key, Summary], titles: Dict[str, str], path: str) -> None:
    """Writes the chart; the file's ending chooses the format."""
    threads = sorted({key[2] for key in summaries})
    loaders = [name for name in dict.fromkeys(key[0] for key in summaries) if name != "decode"]
    others = [name for name in loaders if name not in _OURS]
    colors = {**_OURS, **dict(zip(others, itertools.cycle(_OTHERS)))}
    rows = 2 if len(threads) > 1 else 1
    width = max(6.0, 1.9 * len(titles) + 2)
    figure, axes = pyplot.subplots(rows, 1, figsize=(width, 4.2 * rows), squeeze=False)
    _bars(axes[0][0], summaries, titles, loaders, colors, threads[0])
    if rows == 2:
        _lines(axes[1][0], summaries, next(iter(titles)), loaders, colors)
        axes[1][0].set_title(f"by threads, {next(iter(titles.values()))}")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _bars(
    axis: Any,
    summaries: Dict[Key, Summary],
    titles: Dict[str, str],
    loaders: List[str],
    colors: Dict[str, str],
    threads: int,
) -> None:
    bar = 0.84 / len(loaders)
    for i, name in enumerate(loaders):
        label: Any = name
        for place, task in enumerate(titles):
            summary = summaries.get((name, task, threads))
            if summary is None:
                continue
            rate = summary.rate
            axis.bar(
                place - 0.42 + (i + 0.5) * bar,
                rate.median,
                0.92 * bar,
                color=colors[name],
                yerr=[[rate.median - rate.low], [rate.high - rate.median]],
                error_kw={"elinewidth": 0.7, "ecolor": "#444444"},
                label=label,
            )
            label = None
            if name == OURS:
                axis.annotate(
                    f"{rate.median:,.0f}",
                    (place - 0.42 + (i + 0.5) * bar, rate.high),
                    ha="center",
                    va="bottom",
                    fontsize=8,
                )
    label = "libjpeg-turbo alone"
    for place, task in enumerate(titles):
        summary = summaries.get(("decode", task, threads))
        if summary is not None:
            y = summary.rate.median
            axis.plot([place - 0.42, place + 0.42], [y, y], color="black", lw=1.2, label=label)
            label = None
    axis.set_xticks(range(len(titles)), [title.replace(", ", ",\n") for title in titles.values()])
    axis.set_ylabel("images a second")
    axis.set_title(f"{threads} thread" + ("" if threads == 1 else "s"))
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.1)
    axis.legend(frameon=False, fontsize=8, ncol=2)


def _lines(
    axis: Any,
    summaries: Dict[Key, Summary],
    task: str,
    loaders: List[str],
    colors: Dict[str, str],
) -> None:
    for name in loaders:
        points = sorted(
            (key[2], s.rate.median) for key, s in summaries.items() if key[:2] == (name, task)
        )
        axis.plot(*zip(*points), marker="o", color=colors[name], label=name)
    axis.set_xlabel("threads")
    axis.set_ylabel("images a second")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
