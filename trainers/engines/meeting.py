"""Workers wait for one another before TensorFlow connects them.

TensorFlow itself waits silently for workers that never come, for an hour or forever, and cannot be
interrupted. So the workers meet first at the address of the first one, where TensorFlow's server
listens afterwards.

Both sides prove that they know the secret of the run without sending it. The first worker sends a
random challenge. Another worker answers with its number, a challenge of its own, and the
HMAC-SHA256 of the run, both challenges and its number. The first worker answers with an HMAC of
the same. A connection that cannot do that, or is silent for a few seconds, does not count. Each is
heard in a thread of its own, so it delays nobody.
"""

import contextlib
import hashlib
import hmac
import re
import secrets
import socket
import sys
import threading
import time
from typing import Dict, Iterator, List, Sequence, Tuple

import tensorflow as tf

from .environment import SECRET, secret

_PATIENCE = 600.0  # seconds
_SAY = 30.0  # seconds between two messages about who is missing
_POLL = 0.5
_SILENCE = 5.0  # seconds that a connection may be silent while an answer is expected
_STRANGERS = 500  # most connections at a time that have not proved anything yet
_LONGEST = 256  # bytes of a line
_LOOK = 0.1  # seconds between two looks at who has come and who has gone
_GO = b"go"
_NO = b"no"
_CHALLENGE = re.compile("[0-9a-f]{32}")
# Number, challenge and proof.
_ANSWER = re.compile(b"([0-9]{1,9}) ([0-9a-f]{32}) ([0-9a-f]{64})")


def meet(addresses: Sequence[str], worker: int, patience: float = _PATIENCE) -> None:
    """Returns once all workers have called it.

    Args:
        addresses: HOST:PORT of each worker.
        worker: number of this worker.
        patience: seconds to wait.

    Raises: ValueError if there is no secret in the environment; ConnectionError if others do not
        come in time, or the port is taken.
    """
    waiting = _Waiting(addresses, worker, patience)
    if worker == 0:
        _receive(waiting)
    else:
        _call(waiting)


@contextlib.contextmanager
def together(workers: int) -> Iterator[None]:
    """Around what several workers do together: if it fails, says that one may be gone.

    Raises: ConnectionError instead of TensorFlow's own errors, except for too little memory.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if workers == 1 or isinstance(error, tf.errors.ResourceExhaustedError):
            raise
        raise ConnectionError(
            f"another worker is gone, or this one failed; start them again to resume from the "
            f"last checkpoint ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of an error that does not only say where in the graph it was."""
    lines = [line for line in str(error).splitlines() if line and not line[0].isspace()]
    about = ("Graph execution error", "Detected at node", "{{function_node", "Traceback")
    own = [line for line in lines if not line.startswith(about)]
    return own[0].strip() if own else type(error).__name__


class _Waiting:
    """Whom a worker waits for, and for how long.

    Attributes:
        addresses, worker: see `meet`.
        host, port: address of the first worker.
    """

    def __init__(self, addresses: Sequence[str], worker: int, patience: float):
        self.addresses = addresses
        self.worker = worker
        host, _, port = addresses[0].rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)
        self._run = ",".join(addresses)
        self._secret = secret()
        self._began = self._said = time.monotonic()
        self._patience = patience

    def go_on(self, missing: Sequence[int], why: str = "") -> None:
        """Says now and then who is missing. Raises ConnectionError after too long a wait."""
        now = time.monotonic()
        names = ", ".join(f"{other} at {self.addresses[other]}" for other in missing) + why
        if now - self._began > self._patience:
            raise ConnectionError(
                f"worker {self.worker} has waited {self._patience:g} s for worker {names}: is it "
                f"running, and can it be reached?"
            )
        if now - self._said > _SAY:
            self._said = now
            print(f"worker {self.worker} waits for worker {names}", file=sys.stderr, flush=True)

    def proof(self, role: str, challenges: Tuple[str, str], worker: int) -> str:
        """A text that only someone who knows the secret can produce.

        Args:
            role: "first" or "other", so that neither side can reuse the other side's proof.
            challenges: the first worker's and the other worker's.
            worker: the other worker's number.
        """
        words = " ".join((role, *challenges, str(worker), self._run))
        return hmac.new(self._secret, words.encode(), hashlib.sha256).hexdigest()


class _Visitors:
    """Connections to the first worker; each of them introduces itself in a thread of its own.

    Args:
        waiting: the workers that are expected.

    Attributes:
        workers: the connections of those that have proved to be workers, by number.
    """

    def __init__(self, waiting: _Waiting):
        self.workers: Dict[int, socket.socket] = {}
        self._waiting = waiting
        self._lock = threading.Lock()  # for both collections of connections
        self._strangers: List[socket.socket] = []  # the oldest first

    def receive(self, server: socket.socket) -> None:
        """Waits a moment for another connection, and forgets workers that have gone."""
        try:
            connection = server.accept()[0]
            with self._lock:
                self._strangers.append(connection)
            threading.Thread(target=self._hear, args=(connection,), daemon=True).start()
            self._drop_strangers(_STRANGERS)
        except socket.timeout:
            pass
        except (OSError, RuntimeError):  # it is gone, or there are too many files or threads
            self._drop_strangers(len(self._strangers) - 1)
        with self._lock:
            for number, connection in list(self.workers.items()):
                if not _is_there(connection):
                    self.workers.pop(number).close()

    def close(self) -> None:
        """Ends all connections."""
        self._drop_strangers(0)
        for connection in self.workers.values():
            connection.close()

    def _drop_strangers(self, most: int) -> None:
        """Ends the oldest connections that have proved nothing yet, so that some are left."""
        with self._lock:
            while len(self._strangers) > max(0, most):
                with contextlib.suppress(OSError):
                    self._strangers.pop(0).shutdown(socket.SHUT_RDWR)  # its thread closes it

    def _hear(self, connection: socket.socket) -> None:
        """Lets a connection introduce itself; closes it unless it is a worker's."""
        number = 0
        with contextlib.suppress(OSError):
            number = _introduced(self._waiting, connection)
            connection.setblocking(False)
        over = [connection]
        with self._lock:
            if connection in self._strangers:  # it has not been dropped meanwhile
                self._strangers.remove(connection)
                if number:  # a worker that comes again replaces its old connection
                    over = [self.workers.pop(number)] if number in self.workers else []
                    self.workers[number] = connection
        for one in over:
            one.close()


def _is_there(worker: socket.socket) -> bool:
    """Whether a worker still waits; it says nothing until it is let go."""
    try:
        worker.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _introduced(waiting: _Waiting, other: socket.socket) -> int:
    """The number of the worker at the other side, which proves who it is. Raises OSError."""
    own = secrets.token_hex(16)
    other.sendall(own.encode() + b"\n")
    match = _ANSWER.fullmatch(_line(other))
    if match is None:
        raise ConnectionError("this is not a worker")
    number, challenge, proof = (part.decode() for part in match.groups())
    worker, challenges = int(number), (own, challenge)
    expected = waiting.proof("other", challenges, worker)
    if not hmac.compare_digest(proof, expected) or not 0 < worker < len(waiting.addresses):
        other.sendall(_NO + b"\n")
        raise ConnectionError("this worker is of another run")
    other.sendall(waiting.proof("first", challenges, worker).encode() + b"\n")
    return worker


def _receive(waiting: _Waiting) -> None:
    """The first worker's part: lets all continue once all are there."""
    expected = set(range(1, len(waiting.addresses)))
    visitors = _Visitors(waiting)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(waiting))
        stack.callback(visitors.close)
        while set(visitors.workers) != expected:
            waiting.go_on(sorted(expected - set(visitors.workers)))
            visitors.receive(server)
        # Workers that are let go connect to TensorFlow at this port. This socket would accept and
        # then reset these connections, so it closes first.
        server.close()
        for number, other in visitors.workers.items():
            try:
                other.settimeout(_SILENCE)
                other.sendall(_GO)
            except OSError as error:
                raise ConnectionError(
                    f"worker {number} at {waiting.addresses[number]} has gone"
                ) from error
        for other in visitors.workers.values():  # they close first, so the port is free at once
            other.settimeout(_SAY)
            with contextlib.suppress(OSError):
                other.recv(1)


def _listen(waiting: _Waiting) -> socket.socket:
    """Listens at the worker's address, and at no other address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            waiting.host, waiting.port, type=socket.SOCK_STREAM
        )[0]
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.socket(family, kind, protocol))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen(_STRANGERS)
            server.settimeout(_LOOK)
            stack.pop_all()
        return server
    except OSError as error:
        raise ConnectionError(
            f"worker 0 cannot listen at its address {waiting.addresses[0]}: {error.strerror}"
        ) from error


def _call(waiting: _Waiting) -> None:
    """The other workers' part: connect to the first one, and wait until it lets them go."""
    why = ""
    while True:
        waiting.go_on([0], why)
        try:
            with socket.create_connection((waiting.host, waiting.port), _SAY) as first:
                known, why = _introduce(waiting, first)
                if known and _is_let_go(waiting, first):
                    return
        except OSError:  # not there yet, no such host, no route
            why = ""
        time.sleep(_POLL)  # something else listens there, or the first worker has ended


def _is_let_go(waiting: _Waiting, first: socket.socket) -> bool:
    """Waits until the first worker lets this one go; returns False if it has gone.

    Raises: OSError.
    """
    first.settimeout(_POLL)
    heard = b""
    while heard != _GO:
        try:
            part = first.recv(len(_GO) - len(heard))
        except socket.timeout:
            waiting.go_on([0])
            continue
        if not part:
            return False
        heard += part
    return True


def _introduce(waiting: _Waiting, first: socket.socket) -> Tuple[bool, str]:
    """Proves to the first worker which one this is, and checks the first worker's proof.

    Returns: whether both succeeded, and if not, words for the error message.

    Raises: OSError.
    """
    challenges = (_line(first).decode("ascii", "replace"), secrets.token_hex(16))
    if not _CHALLENGE.fullmatch(challenges[0]):
        return False, ""
    proof = waiting.proof("other", challenges, waiting.worker)
    first.sendall(f"{waiting.worker} {challenges[1]} {proof}\n".encode())
    answer = _line(first)
    if answer == _NO:
        return False, f", which is of another run or has another {SECRET}"
    expected = waiting.proof("first", challenges, waiting.worker)
    return hmac.compare_digest(answer, expected.encode()), ""


def _line(other: socket.socket) -> bytes:
    """A line from the other side, without reading anything behind it.

    Raises: OSError if it takes longer than `_SILENCE`, or is longer than `_LONGEST`.
    """
    heard = b""
    until = time.monotonic() + _SILENCE
    while not heard.endswith(b"\n"):
        other.settimeout(_SILENCE)
        byte = other.recv(1)
        if not byte or len(heard) == _LONGEST or time.monotonic() > until:
            raise ConnectionError("the other side said only a part of a line")
        heard += byte
    return heard[:-1]
