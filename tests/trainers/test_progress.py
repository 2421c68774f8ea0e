import io

import pytest
from pretexture.loader.console import progress
from pretexture.loader.console.progress import Bar, duration


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_is_printed_now_and_then(clock):
    shown = io.StringIO()
    bar = Bar(40, "steps", shown)
    for step in range(1, 41):
        bar.update(step, f"loss {step}")
        clock[0] += 1
    bar.close()
    # The time left counts from the first step, so the other 39 take a second each.
    assert shown.getvalue().splitlines() == [
        " 1/40 steps  loss 1",
        "11/40 steps  loss 11, 0:29 left",
        "21/40 steps  loss 21, 0:19 left",
        "31/40 steps  loss 31, 0:09 left",
        "40/40 steps  loss 40",
    ]


def test_the_first_step_may_be_shown_more_than_once(clock):
    shown = io.StringIO()
    bar = Bar(4, "steps", shown)
    for text in ("starting", "kNN: 64 images"):
        bar.update(1, text)
        clock[0] += 20
    bar.update(2, "loss 1")
    assert shown.getvalue().splitlines() == [
        "1/4 steps  starting",
        "1/4 steps  kNN: 64 images",
        "2/4 steps  loss 1, 1:20 left",
    ]


def test_on_a_terminal_one_line_is_redrawn(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = _Terminal()
    bar = Bar(4, "images", shown)
    for step in range(1, 5):
        bar.update(step, "loss 1")
        clock[0] += 60
    bar.close()
    drawn = shown.getvalue().rstrip("\n").split("\r\033[K")[1:]
    assert drawn[0].startswith("1/4 images ━━━━ ") and drawn[0].endswith("loss 1")
    assert drawn[2].endswith("loss 1, 1:00 left")
    assert all(len(line) < 40 for line in drawn)
    assert shown.getvalue().endswith("\n")


@pytest.mark.parametrize(
    "seconds,text", [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_durations_look_like_a_clock(seconds, text):
    assert duration(seconds) == text
