import contextlib
import hashlib
import hmac
import socket
import threading
import time

import pytest

pytest.importorskip("tensorflow")

import several
from pretexture.trainers.engines import meeting
from pretexture.trainers.engines.meeting import meet

SECRET = "a secret of a test"


@pytest.fixture(autouse=True)
def shared_secret(monkeypatch):
    monkeypatch.setenv("PRETEXTURE_SECRET", SECRET)


def _addresses(count):
    return [f"127.0.0.1:{several.port()}" for _ in range(count)]


def _start(addresses, worker, patience=60.0):
    """Starts `meet` in a thread; returns it, and a list that gets True or the exception."""
    outcome = []

    def run():
        try:
            meet(addresses, worker, patience)
            outcome.append(True)
        except ConnectionError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_workers_start_only_when_all_are_there(order, no_hang):
    addresses = _addresses(3)
    started = [_start(addresses, worker) for worker in order[:2]]
    started[0][0].join(1)
    assert not started[0][1] and not started[1][1]
    started.append(_start(addresses, order[2]))
    for thread, outcome in started:
        thread.join(30)
        assert outcome == [True]
    with socket.socket() as server:  # as TensorFlow does next
        server.bind(("127.0.0.1", int(addresses[0].rpartition(":")[2])))


def test_a_missing_worker_is_named(no_hang):
    addresses = _addresses(3)
    _start(addresses, 2)
    first, outcome = _start(addresses, 0, 1.0)
    first.join(30)
    assert outcome == [
        f"worker 0 has waited 1 s for worker 1 at {addresses[1]}: is it running, and can it be "
        f"reached?"
    ]
    with pytest.raises(
        ConnectionError, match=f"worker 1 has waited 0.1 s for worker 0 at {addresses[0]}"
    ):
        meet(addresses, 1, 0.1)


def _connect(addresses):
    """A connection to the first worker once it listens."""
    host, port = addresses[0].split(":")
    until = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, int(port)), 30)
        except ConnectionRefusedError:
            assert time.monotonic() < until


def _answer(addresses, worker, secret, challenge, own=b"0" * 32):
    """A worker's answer to a challenge, computed as `meeting` does."""
    words = b" ".join([b"other", challenge, own, b"%d" % worker, ",".join(addresses).encode()])
    proof = hmac.new(secret.encode(), words, hashlib.sha256).hexdigest()
    return b"%d %s %s\n" % (worker, own, proof.encode())


def _come(addresses, worker, secret=SECRET):
    """Introduces a worker; returns the connection and the first worker's answer."""
    connection = _connect(addresses)
    lines = connection.makefile("rb")
    connection.sendall(_answer(addresses, worker, secret, lines.readline().strip()))
    return connection, lines.readline().strip()


def test_a_worker_that_leaves_is_waited_for_again(no_hang):
    addresses = _addresses(3)
    started = [_start(addresses, 0)]
    connection, proof = _come(addresses, 1)
    assert len(proof) == 64
    connection.close()
    started.append(_start(addresses, 2))
    started[1][0].join(1)
    assert not started[0][1] and not started[1][1]
    started.append(_start(addresses, 1))
    for thread, outcome in started:
        thread.join(30)
        assert outcome == [True]


def test_strangers_at_the_port_do_not_count(no_hang):
    addresses = _addresses(2)
    thread, outcome = _start(addresses, 0)
    for words in (b"GET / HTTP/1.0\n", b"1 " + b"0" * 32 + b" " + b"0" * 64 + b"\n", b"x" * 1000):
        with _connect(addresses) as stranger, contextlib.suppress(ConnectionError):
            heard = stranger.recv(100)
            assert len(heard) == 33
            stranger.sendall(words)
            assert stranger.recv(100) in (b"", b"no\n")
    thread.join(0.5)
    assert not outcome
    second, second_outcome = _start(addresses, 1)
    for waiting in (thread, second):
        waiting.join(30)
    assert outcome == second_outcome == [True]


def test_a_worker_without_the_secret_is_not_admitted(no_hang):
    addresses = _addresses(2)
    thread, outcome = _start(addresses, 0, 1.0)
    with _connect(addresses) as listening:  # an answer that was overheard is of no use
        challenge = listening.recv(100).strip()
        for secret in ("another secret, as long", ""):
            connection, answer = _come(addresses, 1, secret)
            assert answer == b"no"
            connection.close()
        with _connect(addresses) as replaying:
            replaying.recv(100)
            replaying.sendall(_answer(addresses, 1, SECRET, challenge))
            assert replaying.recv(100) == b"no\n"
    thread.join(30)
    assert outcome[0].startswith("worker 0 has waited 1 s for worker 1")


def test_a_worker_with_another_secret_gets_an_error(no_hang, monkeypatch):
    addresses = _addresses(2)
    first, _ = _start(addresses, 0, 2.0)
    _connect(addresses).close()  # it has read the secret by now
    monkeypatch.setenv("PRETEXTURE_SECRET", "another secret, as long")
    with pytest.raises(
        ConnectionError, match=r"for worker 0 at .*, which is of another run or has another PRETEX"
    ):
        meet(addresses, 1, 1.0)
    first.join(30)


def test_the_first_worker_must_prove_that_it_knows_the_secret(no_hang):
    addresses = _addresses(2)
    host, port = addresses[0].split(":")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port)))
        server.listen(5)
        thread, outcome = _start(addresses, 1, 1.0)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"0" * 32 + b"\n")
            answer = connection.makefile("rb").readline()
            # The pretender repeats what it was told, and then says that all are there.
            connection.sendall(answer.split()[2] + b"\ngo")
            thread.join(0.5)
            assert not outcome
    thread.join(30)
    assert outcome[0].startswith("worker 1 has waited 1 s for worker 0")


def test_silent_connections_delay_nobody(no_hang):
    addresses = _addresses(3)
    started = [_start(addresses, 0, 20.0)]
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connect(addresses)) for _ in range(60)]
        started += [_start(addresses, worker, 20.0) for worker in (1, 2)]
        for thread, outcome in started:
            thread.join(30)
            assert outcome == [True]
        assert all(len(connection.recv(100)) == 33 for connection in silent)


def test_if_too_many_connections_are_silent_the_oldest_are_closed(no_hang, monkeypatch):
    monkeypatch.setattr(meeting, "_STRANGERS", 3)
    monkeypatch.setattr(meeting, "_SILENCE", 60.0)
    addresses = _addresses(2)
    started = [_start(addresses, 0)]
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connect(addresses)) for _ in range(8)]
        for connection in silent[:5]:
            with contextlib.suppress(ConnectionError):
                assert len(connection.makefile("rb").read()) in (0, 33)
        silent[-1].settimeout(0.3)
        assert len(silent[-1].recv(100)) == 33
        with pytest.raises(socket.timeout):
            silent[-1].recv(100)
        started.append(_start(addresses, 1))
        for thread, outcome in started:
            thread.join(30)
            assert outcome == [True]


def test_a_reconnecting_worker_replaces_its_old_connection(no_hang):
    addresses = _addresses(3)
    first, _ = _start(addresses, 0, 3.0)
    old, _ = _come(addresses, 1)
    new, proof = _come(addresses, 1)
    assert len(proof) == 64 and old.recv(100) == b""
    new.settimeout(0.5)
    with pytest.raises(socket.timeout):
        new.recv(100)
    first.join(30)
    for connection in (old, new):
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_the_first_worker_listens_only_at_the_named_address(host, no_hang):
    port = several.port()
    addresses = [f"{host}:{port}", "127.0.0.1:1"]
    thread, _ = _start(addresses, 0, 1.0)
    _connect(addresses).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.3", port), 5)
    thread.join(30)


def test_an_address_of_another_machine_is_an_error(no_hang):
    with pytest.raises(ConnectionError, match=r"listen at its address 203\.0\.113\.1:29500: "):
        meet(["203.0.113.1:29500", "127.0.0.1:1"], 0)


@pytest.mark.parametrize(
    "secret,words",
    [("", "is not set"), ("short", "has 5 characters")],
)
def test_a_missing_or_short_secret_is_an_error(monkeypatch, secret, words):
    monkeypatch.setenv("PRETEXTURE_SECRET", secret)
    with pytest.raises(ValueError, match=f"^PRETEXTURE_SECRET {words}: several workers need a sec"):
        meet(_addresses(2), 0)


def test_a_taken_port_is_an_error(no_hang):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(
            ConnectionError, match=f"cannot listen at its address .*:{port}: Address"
        ):
            meet([f"127.0.0.1:{port}", "127.0.0.1:1"], 0)


def test_the_port_is_free_before_the_workers_start(no_hang):
    addresses = _addresses(2)
    host, port = addresses[0].split(":")
    first, outcome = _start(addresses, 0)
    with _connect(addresses) as connection:
        waiting = meeting._Waiting(addresses, 1, 60.0)
        assert meeting._introduce(waiting, connection) == (True, "")
        assert meeting._is_let_go(waiting, connection)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), 5)
    first.join(30)
    assert outcome == [True]
