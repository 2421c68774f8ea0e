"""What a run writes about itself: `metrics.jsonl`, TensorBoard events and the progress bar."""

import contextlib
import json
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

import numpy as np
from pretexture.loader import ImageFolder, imagenet
from pretexture.loader.console.files import write_text
from pretexture.loader.console.progress import Bar, duration
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.imagenet import description
from pretexture.loader.shards.remote import Storage

from ..engines.optimization import schedule
from .chance import chance
from .events import EventWriter, view_grid
from .folder import Config, overlap
from .metrics import METRICS, SKIPPED, describe, read_metrics, speed

# A function that is handed each line of metrics, as it stands in `metrics.jsonl`.
Hook = Callable[[Dict[str, Any]], None]


def passes(every: int, before: int, step: int) -> bool:
    """Whether a multiple of `every` is behind the step `before` and not behind `step`."""
    return step // every > before // every


class Report:
    """Collects each step's metrics and writes their means every few steps.

    A line of `metrics.jsonl` holds `step`; `epoch`, fractional; the means of the task's loss and
    metrics and of the learning rate `lr` over the steps since the line before; `images_per_second`;
    `waiting`, the share of time spent waiting for data; if there were any, `skipped`: how many
    records could not be used, so that others took their place; and what was measured at this step,
    such as `knn`.

    Args:
        folder: the run's folder.
        step: the step after which the run starts or is resumed; lines of later steps are removed.
        total: total number of steps.
        steps_per_epoch: number of steps per epoch of the training split.
        batch_size: images per step.
        log_steps: steps between two lines; `flush` writes one at any step.
        hook: function that is handed each new line.
    """

    def __init__(
        self,
        folder: str,
        step: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        log_steps: int,
        hook: Hook = lambda line: None,
    ):
        path = os.path.join(folder, METRICS)
        lines = [line for line in read_metrics(folder) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = EventWriter(folder, step)
        self._bar = Bar(total, "steps")
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._log_steps = log_steps
        self._hook = hook
        self._step = step
        self._skipped_before = sum(line.get(SKIPPED, 0) for line in lines)
        self._line: Dict[str, Any] = {}
        self._measured: Mapping[str, float] = {}
        self._clear()

    def add(
        self,
        step: int,
        values: Mapping[str, float],
        waited: float,
        skipped: int = 0,
        measured: Mapping[str, float] = {},
        seconds: float = 0.0,
    ) -> None:
        """Takes the metrics of a step.

        Args:
            step: its number. If it lies several behind the step before, the device made those by
                itself.
            values: its metrics by name.
            waited: seconds that it waited for its batch.
            skipped: records of the batch that could not be used.
            measured: what an evaluation after this step found; it makes a line due.
            seconds: seconds that this evaluation took, which do not count as training.
        """
        due = passes(self._log_steps, self._step, step) or bool(measured)
        self._measured = measured
        self._began += seconds
        self._steps += step - self._step
        self._calls += 1
        self._step = step
        self._waited += waited
        self._skipped += skipped
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if due:
            self.flush()
        words = describe(self._line)
        skipped = self._skipped_before + self._skipped
        self._bar.update(step, f"{words}, {skipped:,} skipped" if skipped else words)

    def show(self, text: str) -> None:
        """Shows what the run does between two steps."""
        self._bar.update(self._step, text)

    def views(self, step: int, image: np.ndarray) -> None:
        """Shows a step's views, [N, views…, H, W, 3], in TensorBoard."""
        self._events.image(step, "views", view_grid(image))

    def flush(self) -> None:
        """Writes a line for the steps since the last one, if there were any."""
        if not self._steps:
            return
        seconds = time.monotonic() - self._began
        self._line = {
            "step": self._step,
            "epoch": self._step / self._steps_per_epoch,
            **{name: total / self._calls for name, total in self._sums.items()},
            "images_per_second": self._steps * self._batch_size / seconds,
            "waiting": self._waited / seconds,
        }
        self._line.update(self._measured)
        if self._skipped:
            self._line[SKIPPED] = self._skipped
            self._skipped_before += self._skipped
        try:
            print(json.dumps(self._line), file=self._file, flush=True)
        except OSError as error:
            error.filename = self._path
            raise
        scalars = {name: value for name, value in self._line.items() if name != "step"}
        self._events.scalars(self._step, scalars)
        self._clear()
        self._hook(dict(self._line))

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is left and closes the files."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._file.close)
            stack.callback(self._events.close)
            stack.callback(self._bar.close)
            self.flush()

    def _clear(self) -> None:
        self._steps = self._calls = 0
        self._sums: Dict[str, float] = {}
        self._waited = 0.0
        self._skipped = 0
        self._measured = {}
        self._began = time.monotonic()


def plan(
    config: Config, data: str, workdir: str, storage: Storage, device: str, step: int
) -> List[str]:
    """What a run will do, in lines of text.

    Args:
        config: the run's configuration.
        data, workdir, storage: see `Options`.
        device: where it runs.
        step: the step after which it starts or is resumed.
    """
    recipe, network = config.recipe, config.recipe.network
    rate = schedule(recipe, config.steps_per_epoch)
    words = [f"{recipe.optimizer.name}, learning rate {rate.base:g}"]
    if rate.warmup_epochs:
        words.append(f"warmed up over {rate.warmup_epochs:g} epochs")
    if rate.decay_epochs:
        epochs = ", ".join(f"{epoch:g}" for epoch in rate.decay_epochs)
        words.append(f"times {rate.decay_factor:g} after epochs {epochs}")
    words.append(f"weight decay {recipe.optimizer.weight_decay:g}")
    lines = [
        f"task      {recipe.task}",
        f"data      {redacted(data)}, split {recipe.train_split}: "
        f"{_images(config, data, storage)}, "
        f"{config.steps_per_epoch:,} steps of {recipe.batch_size} an epoch",
        f"views     {recipe.pipeline}",
        f"heads     {config.parameters:,} parameters on the frozen {config.module}"
        if config.module
        else f"model     {network.architecture}, widening factor {network.filters_factor:g}: "
        f"{config.parameters:,} parameters",
        f"device    {device}, TensorFlow {config.tensorflow}",
        f"training  {', '.join(words)}",
        f"steps     {config.steps:,}, {config.steps / config.steps_per_epoch:.3g} epochs",
        f"workdir   {redacted(workdir)}" + (f", resumed after step {step:,}" if step else ""),
    ]
    warning = overlap(data, recipe.train_split, data, recipe.eval_split, storage)
    return [*lines, warning] if warning else lines


def _images(config: Config, data: str, storage: Storage) -> str:
    """The number of training images, and of those that the split leaves out."""
    count, split = config.records, config.recipe.train_split
    words = f"{count:,} images"
    if split != "train":
        return words
    try:
        records = imagenet(data, "val", **vars(storage))
        held_out = len(records) if isinstance(records, ImageFolder) else -count
        # Counting the records of shards would read them, but dataset.json has counted them.
        splits = description(data, storage).get("splits", {})
        held_out += int(splits["train"]["records"]) if held_out < 0 else 0
    except (OSError, ValueError, KeyError, TypeError):
        return words
    return f"{count:,} of {count + held_out:,} images, {held_out:,} held out as val"


def memory_words(config: Config, step_bytes: int) -> str:
    """The memory that a run takes on its devices, in words.

    Args:
        config: the run's configuration.
        step_bytes: see `engines.memory.live_bytes`.
    """
    values = 4 * config.parameters
    kept = (2 if config.recipe.optimizer.name == "adam" else 1) * values
    optimizer = config.recipe.optimizer.name
    return (
        f"parameters {_size(values)}, {optimizer} {_size(kept)}, activations and gradients at "
        f"least {_size(step_bytes)}, counted from the graph of a step; on a CPU they took 1.3 to "
        "2.2 times as much"
    )


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def result(
    config: Config,
    folder: str,
    log_steps: int,
    first: int,
    step: int,
    interrupted: Optional[int],
    seconds: float,
    waited: float,
) -> List[str]:
    """What a run did, in lines of text.

    Args:
        config: the run's configuration.
        folder: its folder.
        log_steps: steps between two lines of metrics.
        first: the step after which it started or was resumed.
        step: its last step.
        interrupted: number of the signal that ended it early; None if none did.
        seconds: seconds that it took.
        waited: seconds of these that it spent waiting for data.
    """
    steps = step - first
    if not steps and interrupted:
        return [f"interrupted before step {step + 1:,} of {config.steps:,}"]
    if not steps:
        return [f"nothing to do: step {step:,} of {config.steps:,} was made already"]
    lines = [
        f"{'interrupted' if interrupted else 'done'} after step {step:,} of {config.steps:,}: "
        f"{steps:,} steps in {duration(seconds)}, "
        f"{speed(steps * config.recipe.batch_size / seconds)}, "
        f"{waited / seconds:.1%} of the time waiting for data"
    ]
    metrics = read_metrics(folder)
    skipped = sum(line.get(SKIPPED, 0) for line in metrics)
    if skipped:
        lines.append(skipped_words(skipped))
    # Lines at the end may be means over few steps, which say little, so they count only if there
    # are no others.
    metrics = [m for m in metrics if m["step"] % log_steps == 0] or metrics
    best = max(metrics, key=lambda line: line.get("accuracy", -line["loss"]))
    for name, line in (("last", metrics[-1]), ("best", best)):
        lines.append(f"{name} metrics, at step {line['step']:,}: {describe(line)}")
    if "accuracy" in best:
        share = chance(config.recipe, config.recipe.batch_size)["accuracy"]
        lines.append(f"an accuracy of {share:.1%} is chance")
    return lines


def skipped_words(records: int) -> str:
    """How many records could not be used, in words."""
    return (
        f"skipped {records:,} records that could not be used, counted each time they came up; "
        "others took their place"
    )
