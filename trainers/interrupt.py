"""Ctrl-C as a request."""

import signal
import threading
from typing import Any, Optional

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which the first SIGINT or SIGTERM is noted, and the second one kills.

    Attributes:
        signal: the number of the one that came; None before.

    Only the main thread gets signals; in others nothing is ever noted.
    """

    def __init__(self) -> None:
        self.signal: Optional[int] = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        else:
            self._before = {}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
