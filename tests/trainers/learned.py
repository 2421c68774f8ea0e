"""What a run's metrics say of what was learned, and waiting for it."""

import time

from pretexture.trainers.runs.metrics import TIMINGS, read_metrics


def learned(folder, *without):
    """The lines of metrics without what depends on the clock, and without further fields."""
    return [
        {name: value for name, value in line.items() if name not in (*TIMINGS, *without)}
        for line in read_metrics(str(folder))
    ]


def wait_for_step(folder, step, process):
    """Waits until a run in another process has told of a step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = read_metrics(str(folder))
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not get to step {step}: {process.communicate()[0]}")
