"""Workers wait for one another before TensorFlow connects them.

TensorFlow itself waits for workers that never come in silence, for an hour or for ever, and cannot
be interrupted meanwhile. So they meet first, at the address of the first one, where its own server
listens afterwards.
"""

import contextlib
import select
import socket
import sys
import time
from typing import Dict, Sequence

_PATIENCE = 600.0  # seconds
_SAY = 30.0  # seconds between two words about it
_POLL = 0.5
_GREETING = b"pretexture worker "
_GO = b"go"


def meet(addresses: Sequence[str], worker: int, patience: float = _PATIENCE) -> None:
    """Returns once all workers have called it.

    Args:
        addresses: HOST:PORT of each worker.
        worker: which one this is.
        patience: seconds.

    Raises: ConnectionError where others do not come in time, or the port is taken.
    """
    waiting = _Waiting(addresses, worker, patience)
    if worker == 0:
        _receive(waiting)
    else:
        _call(waiting)


class _Waiting:
    """For whom, and for how long."""

    def __init__(self, addresses: Sequence[str], worker: int, patience: float):
        self.addresses = addresses
        self.worker = worker
        self.host, _, port = addresses[0].rpartition(":")
        self.port = int(port)
        self._began = self._said = time.monotonic()
        self._patience = patience

    def go_on(self, missing: Sequence[int]) -> None:
        """Says now and then who is missing. Raises ConnectionError when the time is up."""
        now = time.monotonic()
        names = ", ".join(f"{other} at {self.addresses[other]}" for other in missing)
        if now - self._began > self._patience:
            raise ConnectionError(
                f"worker {self.worker} has waited {self._patience:g} s for worker {names}: is it "
                f"running, and can it be reached?"
            )
        if now - self._said > _SAY:
            self._said = now
            print(f"worker {self.worker} waits for worker {names}", file=sys.stderr, flush=True)


def _receive(waiting: _Waiting) -> None:
    """The first worker's part: lets all go on when all are there."""
    expected = set(range(1, len(waiting.addresses)))
    here: Dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", waiting.port))
        except OSError as error:
            raise ConnectionError(
                f"worker 0 cannot listen at its port {waiting.port}: {error.strerror}"
            ) from error
        server.listen(len(waiting.addresses))
        while True:
            pause = 0.0 if set(here) == expected else _POLL  # a last look at whether they are there
            ready, _, _ = select.select([server, *here.values()], [], [], pause)
            for number, other in list(here.items()):
                if other in ready:  # which says nothing any more, so it has gone
                    here.pop(number).close()
            if server in ready:
                other = stack.enter_context(server.accept()[0])
                number = _greeted(other)
                if number in expected:
                    here[number] = other
                else:
                    other.close()
            elif set(here) == expected:
                break
            waiting.go_on(sorted(expected - set(here)))
        for other in here.values():
            other.sendall(_GO)
        for other in here.values():  # so that it is they who close, and the port is free at once
            other.settimeout(_SAY)
            _read(other, 1)


def _greeted(other: socket.socket) -> int:
    """The number of a worker that has connected; -1 where it is none."""
    other.settimeout(_POLL)
    words = _read(other, 64)
    number = words[len(_GREETING) :]
    return int(number) if words.startswith(_GREETING) and number.isdigit() else -1


def _call(waiting: _Waiting) -> None:
    """The others' part: come to the first one, and wait for its word."""
    while True:
        waiting.go_on([0])
        with contextlib.ExitStack() as stack:
            try:
                first = socket.create_connection((waiting.host, waiting.port), _SAY)
                stack.enter_context(first)
                first.sendall(_GREETING + str(waiting.worker).encode())
            except OSError:  # not there yet, no such host, no route
                time.sleep(_POLL)
                continue
            while not select.select([first], [], [], _POLL)[0]:
                waiting.go_on([0])
            if _read(first, len(_GO)) == _GO:
                return
        time.sleep(_POLL)  # somebody else was there, or the first worker has ended


def _read(other: socket.socket, size: int) -> bytes:
    """What has been said; b"" where the other one has gone."""
    try:
        return other.recv(size)
    except OSError:
        return b""
