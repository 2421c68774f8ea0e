"""The metrics that a run writes, and waiting for them."""

import time

from pretexture.trainers.runs.metrics import TIMINGS, read_metrics


def learned(folder, *without):
    """The lines of metrics without the given fields and those that depend on the clock."""
    return [
        {name: value for name, value in line.items() if name not in (*TIMINGS, *without)}
        for line in read_metrics(str(folder))
    ]


def wait_for_step(folder, step, process):
    """Waits until a run in another process has written the metrics of a step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = read_metrics(str(folder))
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not get to step {step}: {process.communicate()[0]}")
