"""Spreads work over a Ray cluster; a worker process that is killed is replaced."""

import collections
import contextlib
import dataclasses
import gc
import logging
import os
import socket
import sys
import time
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, Tuple

_ATTEMPTS = 4  # at an item whose worker is killed
# Seconds: between two looks at what is done; for a cluster to answer, and before it is said that
# none of its processors is free; for killed workers to go.
_POLL = 0.2
_PATIENCE = 30.0
_FAREWELL = 1.0


@contextlib.contextmanager
def connected(address: str = "") -> Iterator["Cluster"]:
    """A context with a connection to a Ray cluster, which may be started for it.

    Args:
        address: address of the cluster, HOST:PORT. If it is "", the address in RAY_ADDRESS is used;
            without one, a Ray is started on this machine and ended with the context.

    Raises: ImportError if Ray is not installed; OSError if no cluster answers.
    """
    # Ray reports no usage statistics and prints each line of a worker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"Ray cannot be imported ({error}): pip install 'pretexture[ray]'"
        ) from None
    # A worker of an earlier connection that is deleted later would release a worker of this one.
    gc.collect()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    alone: Dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        try:
            ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, **alone)
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(
                f"Ray at {address}: {' '.join(str(error).split())} (if the cluster wants a token, "
                "set RAY_AUTH_MODE=token)"
            ) from None
        yield Cluster(ray)
    finally:
        ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Witness:
    """A file that shows another machine whether it sees the same folder as this one.

    Attributes:
        path: absolute path of the file.
        contents: contents of the file on this machine.
    """

    path: str
    contents: bytes

    @classmethod
    def of(cls, path: str) -> "Witness":
        """A witness of the file as it is now. Raises: OSError."""
        with open(path, "rb") as file:
            return cls(os.path.abspath(path), file.read())

    def check(self) -> None:
        """Raises OSError if the file is missing here, or has other contents."""
        if Witness.of(self.path).contents != self.contents:
            raise OSError(f"{self.path} is another file")


def _knock(address: str) -> None:
    """Raises OSError if nothing listens at the address; Ray itself would try for minutes."""
    host, _, port = address.split("://")[-1].rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise OSError(f"no Ray at {address}: {error}") from None


class Cluster:
    """A Ray cluster to which this process is connected.

    Args:
        ray: the module `ray`.
    """

    def __init__(self, ray: Any):
        self._ray = ray

    def smallest(self, resource: str) -> int:
        """The smallest amount of "CPU" or "GPU" on any node that has some; 0 if none has."""
        return min((int(node["Resources"][resource]) for node in self._nodes(resource)), default=0)

    def on_each_node(self, function: Callable[[], None]) -> None:
        """Calls a function on each node that has processors.

        Raises: OSError that names the node, if the function raises an exception there.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []
        for node in self._nodes("CPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            worker = self._worker(num_cpus=0, scheduling_strategy=here)
            asked.append((node["NodeManagerAddress"], worker, worker.run.remote(function)))
        for name, worker, answer in asked:
            try:
                self._result(answer)
            except Exception as error:
                raise OSError(f"node {name} of the Ray cluster: {error}") from None
            self._ray.kill(worker)

    def each(
        self,
        make: Callable[[], Callable[[Any], Any]],
        items: Sequence[Any],
        workers: Optional[int] = None,
        processors: int = 1,
        gpus: int = 0,
    ) -> Generator[List[Tuple[Any, Any]], None, None]:
        """Calls a function with each item, in several worker processes.

        If a worker or its node is killed, a new worker does the item again. Closing the iterator
        kills the workers at once.

        Args:
            make: function that returns the function to call; called once in each worker.
            items: the items, one for each call, in order.
            workers: number of workers at a time; None for as many as the cluster has room for.
            processors, gpus: resources of one worker.

        Yields: a few times a second, the items done since the last time, with their results.

        Raises: what a call raises; OSError if several workers are killed at the same item, or if no
            node has room for a worker.
        """
        room = sum(
            min(
                int(node["Resources"]["CPU"]) // processors,
                int(node["Resources"].get("GPU", 0)) // gpus if gpus else sys.maxsize,
            )
            for node in self._nodes("CPU")
        )
        if not room:
            wanted = f"{processors} processors" + (f" and {gpus} GPU" if gpus else "")
            raise OSError(f"no node of the Ray cluster has the {wanted} that a worker needs")
        left = collections.deque(range(len(items)))
        killed: Dict[Optional[int], int] = collections.Counter()  # workers over an item
        # Each running call with its worker and item; a call without an item is a worker's start.
        running: Dict[Any, Tuple[Any, Optional[int]]] = {}

        def hire() -> None:
            worker = self._worker(num_cpus=processors, num_gpus=gpus)
            running[worker.start.remote()] = (worker, None)

        for _ in range(min(workers or room, len(left))):
            hire()
        began, started = time.monotonic(), False
        try:
            # Workers that have not started are not waited for once all items are done.
            while left or any(item is not None for _, item in running.values()):
                ready, _ = self._ray.wait(list(running), timeout=_POLL)
                done = []
                for call in ready:
                    worker, item = running.pop(call)
                    try:
                        result = self._result(call)
                    except _KilledError:
                        self._ray.kill(worker)  # it may be alive but unreachable
                        killed[item] += 1
                        if killed[item] == _ATTEMPTS:
                            raise OSError(
                                f"{_ATTEMPTS} worker processes were killed, one after another, at "
                                "the same work, perhaps because they were out of memory"
                            ) from None
                        if item is not None:
                            left.appendleft(item)
                        hire()
                        continue
                    started = True
                    if item is not None:
                        done.append((items[item], result))
                    if left:
                        item = left.popleft()
                        running[worker.call.remote(make, items[item])] = (worker, item)
                    else:
                        self._ray.kill(worker)
                if not started and time.monotonic() - began > _PATIENCE:
                    print("waiting for free processors of the Ray cluster", file=sys.stderr)
                    started = True
                yield done
        finally:
            for worker, _ in running.values():
                self._ray.kill(worker)
            self._ray.wait(list(running), num_returns=len(running), timeout=_FAREWELL)

    def _nodes(self, resource: str) -> List[Dict[str, Any]]:
        nodes = self._ray.nodes()
        return [node for node in nodes if node["Alive"] and node["Resources"].get(resource, 0) >= 1]

    def _worker(self, **how: Any) -> Any:
        return self._ray.remote(_Worker).options(**how).remote()

    def _result(self, call: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(call)
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.RayActorError:
            raise _KilledError("a worker process was killed") from None
        except exceptions.RayError as error:
            raise OSError(f"Ray: {' '.join(str(error).split())}") from None


class _KilledError(OSError):
    """A worker process that was killed."""


class _Worker:
    """A worker process; a Ray actor."""

    def __init__(self) -> None:
        self._call: Optional[Callable[[Any], Any]] = None

    def start(self) -> None:
        pass

    def run(self, function: Callable[[], None]) -> None:
        function()

    def call(self, make: Callable[[], Callable[[Any], Any]], item: Any) -> Any:
        if self._call is None:
            self._call = make()
        return self._call(item)
