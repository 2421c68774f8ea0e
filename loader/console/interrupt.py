"""Ctrl-C ends a process within two seconds, and a training run with a checkpoint.

With several workers it may take longer, because they wait for each other to save that checkpoint.

Python handles a signal in the main thread, and only between two steps of Python code. So a signal
does not end a wait in compiled code, such as a step of TensorFlow that waits for another worker.
Therefore another thread reads each signal from the file descriptor that Python writes it to
(`signal.set_wakeup_fd`), and makes sure that the main thread does not wait for too long.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any, Callable, Iterator, Optional, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds after a signal in which the main thread must handle it, and a batch or a step must end.
_PATIENCE = 1.0
# The same for a batch or a step that other workers wait for. It is longer, because the workers can
# save a checkpoint only if all of them finish the step, and on a busy machine all may be slow.
_SHARED_PATIENCE = 10.0
_POLL = 0.05


class _Watch:
    """Reports signals in a separate thread, even if the main thread is in compiled code.

    Args:
        notice: function that is called with the number of each signal that has a Python handler.
    """

    def __init__(self, notice: Callable[[int], None]):
        self._notice = notice

    def __enter__(self) -> "_Watch":
        self._hears, self._tells = socket.socketpair()
        self._tells.setblocking(False)
        self._before = signal.set_wakeup_fd(self._tells.fileno())
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        signal.set_wakeup_fd(self._before)
        self._tells.close()

    def _listen(self) -> None:
        with self._hears:
            while True:
                numbers = self._hears.recv(64)
                if not numbers:
                    return
                for number in numbers:
                    if number in _SIGNALS:
                        self._notice(number)


def _in_main_thread() -> bool:
    """Whether this is the only thread that may handle signals."""
    return threading.current_thread() is threading.main_thread()


class PromptInterrupt:
    """A context in which Ctrl-C ends the process even if the main thread is in compiled code.

    SIGINT raises KeyboardInterrupt, as always. If compiled code does not return to Python within a
    second, the process ends at once with the exit status 128 + SIGINT. The context does nothing in
    a thread other than the main one, or if SIGINT has another handler: a handler that is set
    within the context decides alone how the process ends.
    """

    def __enter__(self) -> "PromptInterrupt":
        self._watch: Optional[_Watch] = None
        if _in_main_thread() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            self._handled = threading.Event()
            signal.signal(signal.SIGINT, self._handle)
            self._watch = _Watch(self._notice)
            self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._watch is not None:
            self._watch.__exit__()
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: Any) -> None:
        self._handled.set()
        raise KeyboardInterrupt

    def _notice(self, number: int) -> None:
        if number != signal.SIGINT or signal.getsignal(number) != self._handle:
            return
        if not self._handled.wait(_PATIENCE):
            os._exit(128 + number)
        self._handled.clear()


class Interrupt:
    """A context in which the first SIGINT or SIGTERM is noted, and the second one kills.

    Only the main thread gets signals; in other threads nothing is noted.

    Args:
        close: function that ends the wait for a batch, which then raises an error; None if there is
            no such wait.
        workers: number of processes that wait for each other's batches and steps. After a signal a
            batch or a step may take one second, but ten seconds if there are several workers.

    Attributes:
        signal: number of the signal that came; None before.
        closed: whether `close` was called, because a batch took too long after a signal.
    """

    def __init__(self, close: Optional[Callable[[], None]] = None, workers: int = 1) -> None:
        self.signal: Optional[int] = None
        self.closed = False
        self._close = close
        self._patience = _PATIENCE if workers == 1 else _SHARED_PATIENCE
        self._waits_since: Optional[float] = None
        self._steps_since: Optional[float] = None
        self._longest_step = 0.0
        self._noticed = False
        self._ended = threading.Event()

    def __enter__(self) -> "Interrupt":
        self._before = {}
        if _in_main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
            self._watch = _Watch(self._notice)
            self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        if self._before:
            self._watch.__exit__()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def awaited(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; after a signal they end if the next one takes too long."""
        try:
            while True:
                self._waits_since = time.monotonic()
                try:
                    batch = next(batches, None)
                finally:
                    self._waits_since = None
                if batch is None:
                    return
                yield batch
        except Exception:
            if not self.closed:
                raise

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """A context for a step in which this process waits for other workers.

        After a signal the process ends if the step takes too long and more than three times as long
        as the longest step before, because another worker is stuck or gone. There is no checkpoint
        then, because a checkpoint needs all workers.
        """
        began = self._steps_since = time.monotonic()
        try:
            yield
        finally:
            self._steps_since = None
            self._longest_step = max(self._longest_step, time.monotonic() - began)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def _notice(self, number: int) -> None:
        if self._noticed:  # the second signal, while compiled code delays `_note` for the first one
            os._exit(128 + number)
        self._noticed = True
        self.signal = number
        threading.Thread(target=self._end_waits, args=(number,), daemon=True).start()

    def _end_waits(self, number: int) -> None:
        began = time.monotonic()
        while not self._ended.wait(_POLL):
            now = time.monotonic()
            waits_since, steps_since = self._waits_since, self._steps_since
            if self._close and waits_since and now - max(began, waits_since) > self._patience:
                self.closed = True
                self._close()
                return
            patience = max(self._patience, 3 * self._longest_step)
            if steps_since and now - max(began, steps_since) > patience:
                os._exit(128 + number)
