"""Bar charts of the accuracy at each end point."""

from typing import Dict, Mapping

from pretexture.loader.pyplot import pyplot

EndPoints = Dict[str, Dict[str, float]]


def accuracy_bars(
    series: Mapping[str, EndPoints],
    path: str,
    title: str,
    spread: Mapping[str, EndPoints] = {},
    below: str = "end point",
    chance: Mapping[str, float] = {},
) -> None:
    """Draws the top-1 accuracy of each end point as bars, one group for each end point.

    Args:
        series: the accuracies, from 0 to 1, by series and end point: "top1" and, if there is only
            one series, "top5".
        path: path of the picture; its ending gives the format.
        title: text above the picture.
        spread: standard deviations of the values in `series`.
        below: text below the picture.
        chance: the accuracy of guessing, as a dotted line each: "top1" and perhaps "top5".
    """
    names = list(dict.fromkeys(name for points in series.values() for name in points))
    bars = [(label, "top1", points) for label, points in series.items()]
    if len(series) == 1:
        ((label, points),) = series.items()
        if any("top5" in values for values in points.values()):
            bars.append((label, "top5", points))
    width = 0.8 / len(bars)
    figure, axes = pyplot.subplots(figsize=(max(7.0, 1.3 * len(names)), 4), layout="constrained")
    for number, (label, metric, points) in enumerate(bars):
        places = [i + (number - (len(bars) - 1) / 2) * width for i in range(len(names))]
        heights = [100 * points.get(name, {}).get(metric, float("nan")) for name in names]
        errors = spread.get(label, {})
        drawn = axes.bar(
            places,
            heights,
            width,
            label=label or metric.replace("top", "top-"),
            yerr=[100 * errors[name][metric] for name in names] if errors else None,
            error_kw={"elinewidth": 0.8},
        )
        if len(series) == 1:
            axes.bar_label(drawn, [f"{height:.1f}" for height in heights], fontsize=7, padding=1)
    for number, (_, metric, _) in enumerate(bars):
        if metric in chance and number == [other for _, other, _ in bars].index(metric):
            axes.axhline(
                100 * chance[metric],
                color="gray" if len(series) > 1 else f"C{number}",
                linestyle=":",
                linewidth=1.2,
                label="chance" if len(series) > 1 else f"chance, {metric}",
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(bars) > 1 or chance:
        entries = len(axes.get_legend_handles_labels()[0])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=min(4, entries), fontsize=8)
    figure.suptitle(title, fontsize=11)
    axes.set_xlabel(below)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
