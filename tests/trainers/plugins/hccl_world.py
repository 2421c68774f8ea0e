"""Collective operations between the ranks of a test, instead of HCCL.

Rank 0 listens at the loopback's port HCCL_IF_BASE_PORT. If a rank is gone, all others get an error.
"""

import os
import time
from multiprocessing.connection import Client, Listener

import numpy as np

_connections = []


def size():
    return int(os.environ.get("RANK_SIZE") or 1)


def rank():
    return int(os.environ.get("RANK_ID") or 0)


def mean(arrays):
    """The means over all ranks, bit-identical on each, rounded as `npu_device` does."""
    share = np.float32(1.0 / size())
    return _exchange(
        arrays, lambda all_ranks: [np.sum(same, 0) * share for same in zip(*all_ranks)]
    )


def total(arrays):
    """The sums over all ranks, bit-identical on each."""
    return _exchange(arrays, lambda all_ranks: [np.sum(same, 0) for same in zip(*all_ranks)])


def first(arrays):
    """The arrays of rank 0."""
    return _exchange(arrays, lambda all_ranks: all_ranks[0])


def _exchange(arrays, combine):
    arrays = [np.asarray(array) for array in arrays]
    if not _connections:
        _connect()
    if rank() > 0:
        (root,) = _connections
        root.send(arrays)
        return root.recv()
    result = combine([arrays, *(connection.recv() for connection in _connections)])
    result = [np.asarray(new, old.dtype) for new, old in zip(result, arrays)]
    for connection in _connections:
        connection.send(result)
    return result


def _connect():
    address = ("127.0.0.1", int(os.environ["HCCL_IF_BASE_PORT"]))
    if rank() == 0:
        with Listener(address, backlog=size()) as listener:
            _connections.extend(listener.accept() for _ in range(size() - 1))
        return
    deadline = time.monotonic() + 60
    while True:
        try:
            _connections.append(Client(address))
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
