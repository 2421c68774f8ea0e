"""Workers wait for one another before TensorFlow connects them, and miss those that are gone.

TensorFlow itself waits for workers that never come in silence, for an hour or for ever, and cannot
be interrupted meanwhile. So they meet first, at the address of the first one, where its own server
listens afterwards.
"""

import contextlib
import select
import socket
import sys
import time
import zlib
from typing import Dict, Iterator, Sequence

import tensorflow as tf

_PATIENCE = 600.0  # seconds
_SAY = 30.0  # seconds between two words about it
_POLL = 0.5
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


@contextlib.contextmanager
def together(workers: int) -> Iterator[None]:
    """Around what several workers do at once: says that one may be missing where it fails.

    Raises: ConnectionError instead of TensorFlow's own errors, but for a lack of memory.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if workers == 1 or isinstance(error, tf.errors.ResourceExhaustedError):
            raise
        raise ConnectionError(
            f"another worker is gone, or this one failed; started again, all of them go on from "
            f"the last checkpoint ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of an error that is not about where in the graph it was."""
    lines = [line for line in str(error).splitlines() if line and not line[0].isspace()]
    about = ("Graph execution error", "Detected at node", "{{function_node", "Traceback")
    own = [line for line in lines if not line.startswith(about)]
    return own[0].strip() if own else type(error).__name__


class _Waiting:
    """For whom, and for how long.

    Attributes:
        addresses, worker: see `meet`.
        host, port: of the first worker.
        greetings: what each worker says, so that those of another run do not count.
    """

    def __init__(self, addresses: Sequence[str], worker: int, patience: float):
        self.addresses = addresses
        self.worker = worker
        self.host, _, port = addresses[0].rpartition(":")
        self.port = int(port)
        run = zlib.crc32(",".join(addresses).encode())
        self.greetings = [b"pretexture %08x worker %d" % (run, n) for n in range(len(addresses))]
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
                other.settimeout(_POLL)
                words = _read(other, 64)
                if words in waiting.greetings[1:]:
                    here[waiting.greetings.index(words)] = other
                else:
                    other.close()
            elif set(here) == expected:
                break
            waiting.go_on(sorted(expected - set(here)))
        for number, other in here.items():
            try:
                other.sendall(_GO)
            except OSError as error:
                raise ConnectionError(
                    f"worker {number} at {waiting.addresses[number]} has gone"
                ) from error
        for other in here.values():  # so that it is they who close, and the port is free at once
            other.settimeout(_SAY)
            _read(other, 1)


def _call(waiting: _Waiting) -> None:
    """The others' part: come to the first one, and wait for its word."""
    while True:
        waiting.go_on([0])
        with contextlib.ExitStack() as stack:
            try:
                first = socket.create_connection((waiting.host, waiting.port), _SAY)
                stack.enter_context(first)
                first.sendall(waiting.greetings[waiting.worker])
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
