"""Workers wait for one another before TensorFlow connects them.

TensorFlow itself waits silently for workers that never come, for an hour or forever, and cannot be
interrupted. So the workers meet first at the address of the first one, where TensorFlow's server
listens afterwards.

Both sides prove that they know the secret of the run without sending it. The first worker sends a
random challenge. Another worker answers with its number, a challenge of its own, and the
HMAC-SHA256 of the run, both challenges and its number. The first worker answers with an HMAC of the
same. A connection that cannot do that, or is silent for a few seconds, does not count and delays
nobody.
"""

import contextlib
import hashlib
import hmac
import re
import secrets
import selectors
import socket
import sys
import time
from typing import Iterator, List, Optional, Sequence, Set, Tuple

import tensorflow as tf

from .environment import SECRET, secret

_PATIENCE = 600.0  # seconds
_SAY = 30.0  # seconds between two messages about who is missing
_POLL = 0.5
_SILENCE = 5.0  # seconds that a connection may be silent while an answer is expected
_STRANGERS = 500  # most connections at a time that have not proved anything yet
_LONGEST = 256  # bytes of a line
_GO = b"go"
_NO = "no"
_CHALLENGE = re.compile("[0-9a-f]{32}")
# Number, challenge and proof.
_ANSWER = re.compile(b"([0-9]{1,9}) ([0-9a-f]{32}) ([0-9a-f]{64})\n")


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


class _Connection:
    """A connection to the first worker, from another worker or from a stranger.

    Attributes:
        socket: the connection.
        worker: number of the worker; None until it has proved to be one.
        since: time at which the connection was made.
    """

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.worker: Optional[int] = None
        self.since = time.monotonic()
        self._challenge = secrets.token_hex(16)
        self._heard = b""
        connection.setblocking(False)
        self.say(self._challenge)

    def say(self, words: str) -> None:
        """Sends a line. Raises OSError."""
        self.socket.sendall(words.encode() + b"\n")

    def hear(self, waiting: _Waiting) -> bool:
        """Reads what has been said; returns False if the connection can be closed.

        Raises: OSError.
        """
        heard = self.socket.recv(_LONGEST)
        if not heard or self.worker is not None:  # a known worker says nothing more
            return False
        self._heard += heard
        if b"\n" not in self._heard:
            return len(self._heard) < _LONGEST
        match = _ANSWER.fullmatch(self._heard)
        if match is None:
            return False
        number, challenge, proof = (part.decode() for part in match.groups())
        worker, challenges = int(number), (self._challenge, challenge)
        expected = waiting.proof("other", challenges, worker)
        if not hmac.compare_digest(proof, expected) or not 0 < worker < len(waiting.addresses):
            self.say(_NO)
            return False
        self.say(waiting.proof("first", challenges, worker))
        self.worker = worker
        return True


def _receive(waiting: _Waiting) -> None:
    """The first worker's part: lets all continue once all are there."""
    expected = set(range(1, len(waiting.addresses)))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(waiting))
        visitors = _Visitors(waiting, server)
        stack.callback(visitors.close)
        while True:
            # If all are there, look once more whether they still are.
            busy = visitors.look(0.0 if visitors.workers == expected else _POLL)
            if not busy and visitors.workers == expected:
                break
            waiting.go_on(sorted(expected - visitors.workers))
        others = [visitor for visitor in visitors.all if visitor.worker is not None]
        # Workers that are let go connect to TensorFlow at this port. This socket would accept and
        # then reset these connections, so it closes first.
        server.close()
        for other in others:
            try:
                other.socket.settimeout(_SILENCE)
                other.socket.sendall(_GO)
            except OSError as error:
                assert other.worker is not None
                raise ConnectionError(
                    f"worker {other.worker} at {waiting.addresses[other.worker]} has gone"
                ) from error
        for other in others:  # they close the connections, so that the port is free at once
            other.socket.settimeout(_SAY)
            _read(other.socket, 1)


def _listen(waiting: _Waiting) -> socket.socket:
    """Listens at the worker's address, and at no other address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            waiting.host, waiting.port, type=socket.SOCK_STREAM
        )[0]
        server = socket.socket(family, kind, protocol)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen(_STRANGERS)
            server.setblocking(False)
        except BaseException:
            server.close()
            raise
        return server
    except OSError as error:
        raise ConnectionError(
            f"worker 0 cannot listen at its address {waiting.addresses[0]}: {error.strerror}"
        ) from error


class _Visitors:
    """All connections to the first worker.

    Args:
        waiting: the workers that are expected.
        server: the socket that accepts connections.

    Attributes:
        all: the connections.
    """

    def __init__(self, waiting: _Waiting, server: socket.socket):
        self.all: Set[_Connection] = set()
        self._waiting = waiting
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)

    @property
    def workers(self) -> Set[int]:
        """The numbers of the workers that are here."""
        return {visitor.worker for visitor in self.all if visitor.worker is not None}

    @property
    def _strangers(self) -> List[_Connection]:
        """Connections that have proved nothing yet, the oldest first."""
        found = [visitor for visitor in self.all if visitor.worker is None]
        return sorted(found, key=lambda visitor: visitor.since)

    def look(self, seconds: float) -> bool:
        """Handles what happens within some seconds; returns whether a worker came or went.

        Strangers do not count, so they delay nobody.
        """
        ready = [key.data for key, _ in self._selector.select(seconds)]
        happened = False
        for visitor in ready:
            if visitor is None:
                self._accept()
            elif visitor in self.all:  # it may have been closed meanwhile
                known = visitor.worker is not None
                self._hear(visitor)
                happened = happened or known or visitor.worker is not None
        now = time.monotonic()
        strangers = self._strangers
        for number, stranger in enumerate(strangers, 1):
            if now - stranger.since > _SILENCE or len(strangers) - number >= _STRANGERS:
                self._leave(stranger)
        return happened

    def close(self) -> None:
        """Ends all connections."""
        for visitor in list(self.all):
            self._leave(visitor)
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection = self._server.accept()[0]
        except OSError:  # the connection is gone, or too many files are open
            if self._strangers:
                self._leave(self._strangers[0])
            return
        try:
            visitor = _Connection(connection)
        except OSError:
            connection.close()
            return
        self.all.add(visitor)
        self._selector.register(connection, selectors.EVENT_READ, visitor)

    def _hear(self, visitor: _Connection) -> None:
        try:
            stays = visitor.hear(self._waiting)
        except OSError:
            stays = False
        if not stays:
            self._leave(visitor)
            return
        for other in list(self.all):  # a worker that comes again replaces its old connection
            if other is not visitor and other.worker is not None and other.worker == visitor.worker:
                self._leave(other)

    def _leave(self, visitor: _Connection) -> None:
        self._selector.unregister(visitor.socket)
        self.all.remove(visitor)
        visitor.socket.close()


def _call(waiting: _Waiting) -> None:
    """The other workers' part: connect to the first one, and wait until it lets them go."""
    why = ""
    while True:
        waiting.go_on([0], why)
        with contextlib.ExitStack() as stack:
            try:
                first = socket.create_connection((waiting.host, waiting.port), _SAY)
                stack.enter_context(first)
                first.settimeout(_SILENCE)
                known, why = _introduce(waiting, first)
            except OSError:  # not there yet, no such host, no route
                known, why = False, ""
            if known and _is_let_go(waiting, first):
                return
        time.sleep(_POLL)  # something else listens there, or the first worker has ended


def _is_let_go(waiting: _Waiting, first: socket.socket) -> bool:
    """Waits until the first worker lets this one go; returns False if it has gone."""
    first.settimeout(_POLL)
    heard = b""
    while heard != _GO:
        try:
            part = first.recv(len(_GO) - len(heard))
        except socket.timeout:
            waiting.go_on([0])
            continue
        except OSError:
            return False
        if not part:
            return False
        heard += part
    return True


def _introduce(waiting: _Waiting, first: socket.socket) -> Tuple[bool, str]:
    """Proves to the first worker which one this is, and checks the first worker's proof.

    Returns: whether both succeeded, and if not, words for the error message.

    Raises: OSError.
    """

    challenges = (_line(first), secrets.token_hex(16))
    if not _CHALLENGE.fullmatch(challenges[0]):
        return False, ""
    proof = waiting.proof("other", challenges, waiting.worker)
    first.sendall(f"{waiting.worker} {challenges[1]} {proof}\n".encode())
    answer = _line(first)
    if answer == _NO:
        return False, f", which is of another run or has another {SECRET}"
    expected = waiting.proof("first", challenges, waiting.worker)
    return hmac.compare_digest(answer.encode(), expected.encode()), ""


def _line(first: socket.socket) -> str:
    """A line from the first worker, without reading anything behind it.

    Raises: OSError.
    """
    heard = b""
    until = time.monotonic() + _SILENCE
    while not heard.endswith(b"\n") and len(heard) < _LONGEST:
        byte = first.recv(1)
        if not byte or time.monotonic() > until:
            raise ConnectionError("the first worker said only a part of a line")
        heard += byte
    return heard[:-1].decode("ascii", "replace")


def _read(other: socket.socket, size: int) -> bytes:
    """What the other side has said; b"" if it has gone."""
    try:
        return other.recv(size)
    except OSError:
        return b""
