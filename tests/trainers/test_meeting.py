import socket
import threading

import pytest

pytest.importorskip("tensorflow")

import several
from pretexture.trainers.engines.meeting import meet


def _addresses(count):
    return [f"127.0.0.1:{several.port()}" for _ in range(count)]


def _start(addresses, worker, patience=60.0):
    """Meets in a thread; returns it, and a list that gets True, or what was raised."""
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
def test_workers_go_on_when_all_are_there_and_not_before(order, no_hang):
    addresses = _addresses(3)
    started = [_start(addresses, worker) for worker in order[:2]]
    started[0][0].join(1)
    assert not started[0][1] and not started[1][1]
    started.append(_start(addresses, order[2]))
    for thread, outcome in started:
        thread.join(30)
        assert outcome == [True]
    with socket.socket() as server:  # which TensorFlow does then
        server.bind(("127.0.0.1", int(addresses[0].rpartition(":")[2])))


def test_a_worker_that_does_not_come_is_named(no_hang):
    addresses = _addresses(3)
    _start(addresses, 2)
    first, outcome = _start(addresses, 0, 2.0)
    first.join(30)
    assert outcome == [
        f"worker 0 has waited 2 s for worker 1 at {addresses[1]}: is it running, and can it be "
        f"reached?"
    ]
    with pytest.raises(
        ConnectionError, match=f"worker 1 has waited 0.1 s for worker 0 at {addresses[0]}"
    ):
        meet(addresses, 1, 0.1)


def _come_and_go(address, worker):
    while True:
        try:
            with socket.create_connection(address) as connection:
                connection.sendall(b"pretexture worker %d" % worker)
                return
        except ConnectionRefusedError:
            pass


def test_a_worker_that_went_away_is_waited_for_again(no_hang):
    addresses = _addresses(3)
    started = [_start(addresses, 0)]
    _come_and_go(("127.0.0.1", int(addresses[0].rpartition(":")[2])), 1)
    started.append(_start(addresses, 2))
    started[1][0].join(1)
    assert not started[0][1] and not started[1][1]
    started.append(_start(addresses, 1))
    for thread, outcome in started:
        thread.join(30)
        assert outcome == [True]


def test_strangers_at_the_port_do_not_count(no_hang):
    addresses = _addresses(2)
    thread, outcome = _start(addresses, 0, 2.0)
    for words in (b"GET / HTTP/1.0", b"pretexture worker 7", b"pretexture worker x"):
        try:
            with socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1]))) as other:
                other.sendall(words)
                assert other.recv(10) == b""
        except ConnectionError:  # not listening yet, or closed with words unread
            pass
    thread.join(30)
    assert outcome[0].startswith("worker 0 has waited 2 s for worker 1")


def test_a_port_that_is_taken_is_an_error(no_hang):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"cannot listen at its port {port}: Address"):
            meet([f"127.0.0.1:{port}", "127.0.0.1:1"], 0)
