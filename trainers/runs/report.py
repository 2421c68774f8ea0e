"""What a run writes about itself: `metrics.jsonl`, TensorBoard events and the progress bar."""

import contextlib
import json
import os
import time
from typing import Any, Dict, Mapping

import numpy as np
from pretexture.loader.console.files import write_text
from pretexture.loader.console.progress import Bar

from .events import EventWriter
from .metrics import METRICS, SKIPPED, describe, read_metrics
from .views import view_grid


def passes(every: int, before: int, step: int) -> bool:
    """Whether a multiple of `every` is behind the step `before` and not behind `step`."""
    return step // every > before // every


class Report:
    """Collects each step's metrics and writes their means every few steps.

    A line of `metrics.jsonl` holds `step`; `epoch`, fractional; the means of the task's loss and
    metrics and of the learning rate `lr` over the steps since the line before; `images_per_second`;
    `waiting`, the share of time spent waiting for data; and if there were any, `skipped`: how many
    records could not be used, so that others took their place.

    Args:
        folder: of the run.
        step: after which it starts or is taken up again; lines of later steps are removed.
        total: steps in all.
        steps_per_epoch: of the training split.
        batch_size: images a step.
        log_steps: lines are written at multiples of this, and where `flush` is called.
    """

    def __init__(
        self,
        folder: str,
        step: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        log_steps: int,
    ):
        path = os.path.join(folder, METRICS)
        lines = [line for line in read_metrics(folder) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = EventWriter(folder, step)
        self._bar = Bar(total)
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._log_steps = log_steps
        self._step = step
        self._skipped_before = sum(line.get(SKIPPED, 0) for line in lines)
        self._line: Dict[str, Any] = {}
        self._clear()

    def add(self, step: int, values: Mapping[str, float], waited: float, skipped: int = 0) -> None:
        """Takes the metrics of a step.

        Args:
            step: its number. If it lies several behind the step before, the device made those by
                itself.
            values: its metrics by name.
            waited: seconds that it waited for its batch.
            skipped: records of the batch that could not be used.
        """
        due = passes(self._log_steps, self._step, step)
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
        self._began = time.monotonic()
