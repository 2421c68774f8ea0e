"""A progress bar on a terminal; elsewhere a line now and then."""

import shutil
import sys
import time
from typing import Any, Optional

_SECONDS_ON_TERMINAL = 0.1
_SECONDS_ELSEWHERE = 10.0


class Bar:
    """Shows the progress of a run and the time left.

    Args:
        total: how many there are in all.
        of: what is counted, such as "images".
        file: file to print to; standard error by default.
    """

    def __init__(self, total: int, of: str, file: Any = None):
        self._total = total
        self._of = of
        self._file = sys.stderr if file is None else file
        self._terminal = self._file.isatty()
        self._first = 0
        self._began: Optional[float] = None  # time of the first update; before it the run sets up
        self._shown: Optional[float] = None

    def update(self, done: int, text: str) -> None:
        """Shows how many are done and the text, unless the last update was a moment ago."""
        now = time.monotonic()
        pause = _SECONDS_ON_TERMINAL if self._terminal else _SECONDS_ELSEWHERE
        if self._shown is not None and now - self._shown < pause and done < self._total:
            return
        self._shown = now
        head = f"{done:>{len(str(self._total))}}/{self._total} {self._of}"
        tail = text
        if self._began is None:
            self._first, self._began = done, now
        elif self._first < done < self._total:
            left = (now - self._began) / (done - self._first) * (self._total - done)
            tail = f"{text}, {duration(left)} left"
        if not self._terminal:
            print(f"{head}  {tail}", file=self._file, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        room = max(0, min(30, width - len(head) - len(tail) - 4))
        filled = room * done // max(1, self._total)
        bar = "━" * filled + " " * (room - filled)
        print(f"\r\033[K{f'{head} {bar} {tail}'[:width]}", end="", file=self._file, flush=True)

    def close(self) -> None:
        """Ends the line, so that the last state stays on the terminal."""
        if self._terminal and self._shown is not None:
            print(file=self._file, flush=True)


def duration(seconds: float) -> str:
    """The seconds as text such as 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
