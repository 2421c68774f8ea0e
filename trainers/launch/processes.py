"""Processes that belong together: their output is prefixed, and they end together."""

import collections
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import IO, Any, Deque, Dict, List, Optional, Sequence, Tuple

_TAIL = 20  # lines of standard error that are repeated at the end
_PATIENCE = 30.0  # seconds from a request to end to a kill
_NOTICE = 3.0  # seconds in which workers notice by themselves, and report, that one of them is gone
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit statuses of processes that were asked to end, and have saved a checkpoint.
_ON_REQUEST = tuple(128 + number for number in _SIGNALS)
_WRONG_FLAGS = 2


class Group:
    """Runs a command several times at once.

    Args:
        command: program and arguments.
        environments: variables of each process, which are added to those of this one.
        first: number of the first process, for the prefixes.
    """

    def __init__(
        self, command: Sequence[str], environments: Sequence[Dict[str, str]], first: int = 0
    ):
        self._command = list(command)
        self._environments = environments
        self._first = first
        self._processes: List[subprocess.Popen[str]] = []
        self._tails: List[Deque[str]] = []
        self._readers: List[threading.Thread] = []
        self._write = threading.Lock()
        self._started = False
        self._signal = 0

    def run(self) -> Tuple[int, bool]:
        """Starts the processes and waits for all of them.

        Ctrl-C and SIGTERM are passed on, a closed terminal as SIGTERM; a second signal kills. If a
        process fails, the others are asked to end, and killed if they do not.

        Returns: the exit status, that of the process that failed first (128 and the signal's number
            for one that was killed), and whether it makes sense to start again.
        """
        before = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            for number, environment in enumerate(self._environments):
                self._start(number, environment)
            self._started = True
            if self._signal:  # it came meanwhile
                self._send(_asking(self._signal))
            failed = self._wait()
        finally:
            for process in self._processes:
                if process.poll() is None:
                    process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        for reader in self._readers:
            reader.join(timeout=5)
        if failed is None:
            return 0, False
        status = self._processes[failed].returncode
        if self._signal:
            return 128 + self._signal, False
        if status in _ON_REQUEST:  # a user or a worker on another machine has asked it to end
            return status, False
        self._tell(failed, status)
        return (status if status > 0 else 128 - status), status != _WRONG_FLAGS

    def _start(self, number: int, environment: Dict[str, str]) -> None:
        # It gets its own session, so that Ctrl-C reaches it only once, from this process.
        process = subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
        self._processes.append(process)
        self._tails.append(collections.deque(maxlen=_TAIL))
        streams = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        readers = [
            threading.Thread(target=self._copy, args=(number, source, target), daemon=True)
            for source, target in streams
        ]
        for reader in readers:
            reader.start()
        self._readers += readers

    def _copy(self, number: int, source: IO[str], target: Any) -> None:
        for line in source:
            with self._write:
                print(f"[{self._first + number}] {line}", end="", file=target, flush=True)
                if target is sys.stderr:
                    self._tails[number].append(line)

    def _wait(self) -> Optional[int]:
        """Waits until all have ended; returns the number of the first that failed, or None."""
        failed = None
        asked = deadline = float("inf")
        with ThreadPoolExecutor(len(self._processes)) as pool:
            running = {pool.submit(process.wait): i for i, process in enumerate(self._processes)}
            while running:
                for ended in wait(running, timeout=0.2, return_when=FIRST_COMPLETED).done:
                    number, status = running.pop(ended), ended.result()
                    if failed is None and status:
                        failed = number
                        deadline = time.monotonic() + _PATIENCE
                        # Processes that were asked to end get the time to save a checkpoint.
                        if not self._signal and status not in _ON_REQUEST:
                            asked = time.monotonic() + _NOTICE
                if time.monotonic() > asked:
                    self._send(signal.SIGTERM)
                    asked = float("inf")
                if time.monotonic() > deadline:
                    self._send(signal.SIGKILL)
        return failed

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _pass_on(self, number: int, frame: Any) -> None:
        if self._started:
            self._send(signal.SIGKILL if self._signal else _asking(number))
        self._signal = number

    def _tell(self, number: int, status: int) -> None:
        """Says which process failed, and repeats the end of its standard error."""
        how = f"ended with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        tail = self._tails[number]
        print(
            f"launch: process {self._first + number} {how}{'; its last words:' if tail else ''}",
            file=sys.stderr,
        )
        for line in tail:
            print(f"[{self._first + number}] {line}", end="", file=sys.stderr, flush=True)


def _asking(number: int) -> int:
    """The signal that asks processes to end; they handle SIGTERM, but not SIGHUP."""
    return signal.SIGTERM if number == signal.SIGHUP else number
