"""Work spread over a Ray cluster, in worker processes that are replaced where they are killed."""

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
    """Connects to a Ray cluster, or starts one on this machine and ends it in the end.

    Args:
        address: of the cluster, HOST:PORT; "" for that in RAY_ADDRESS, and without it for a Ray of
            this machine alone.

    Raises: ImportError where Ray is not installed, OSError where no cluster answers.
    """
    # What Ray would say and tell besides.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"Ray cannot be imported ({error}): pip install 'pretexture[ray]'"
        ) from None
    gc.collect()  # a worker of an earlier connection would take one of this for itself when it goes
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    alone: Dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        try:
            ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, **alone)
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(
                f"Ray at {address}: {' '.join(str(error).split())} (where it wants a token, set "
                "RAY_AUTH_MODE=token)"
            ) from None
        yield Cluster(ray)
    finally:
        ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Witness:
    """A file by which another machine can tell whether it sees the same folder.

    Attributes:
        path: absolute.
        contents: as this machine has read them.
    """

    path: str
    contents: bytes

    @classmethod
    def of(cls, path: str) -> "Witness":
        """The file as it is now. Raises OSError."""
        with open(path, "rb") as file:
            return cls(os.path.abspath(path), file.read())

    def check(self) -> None:
        """Raises OSError where the file is not there, or another one is."""
        if Witness.of(self.path).contents != self.contents:
            raise OSError(f"{self.path} is another file")


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.split("://")[-1].rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise OSError(f"no Ray at {address}: {error}") from None


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        ray: the module `ray`.
    """

    def __init__(self, ray: Any):
        self._ray = ray

    def smallest(self, resource: str) -> int:
        """How much of "CPU" or "GPU" has the node that has least of it, those without left out."""
        return min((int(node["Resources"][resource]) for node in self._nodes(resource)), default=0)

    def on_each_node(self, function: Callable[[], None]) -> None:
        """Calls a function on each node that has processors.

        Raises: OSError, which names the node, where the function raises something.
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
        """Calls what `make` gives with each item, in several processes.

        What is killed, worker or node, is replaced and does its item anew. Closing the iterator
        kills the workers at once.

        Args:
            make: called once in each worker.
            items: one a call, in order.
            workers: how many at a time; None for as many as the cluster has room for.
            processors, gpus: that a worker occupies.

        Yields: items that have been done with their results, perhaps none, a few times a second.

        Raises: what a call raises, or OSError where workers are killed over the same item again
            and again, or there is no node that has room for one.
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
        # A call under way: its worker and item; or whether a worker has started, without an item.
        running: Dict[Any, Tuple[Any, Optional[int]]] = {}

        def hire() -> None:
            worker = self._worker(num_cpus=processors, num_gpus=gpus)
            running[worker.start.remote()] = (worker, None)

        for _ in range(min(workers or room, len(left))):
            hire()
        began, started = time.monotonic(), False
        try:
            # A worker that there is no room for any longer is not waited for.
            while left or any(item is not None for _, item in running.values()):
                ready, _ = self._ray.wait(list(running), timeout=_POLL)
                done = []
                for call in ready:
                    worker, item = running.pop(call)
                    try:
                        result = self._result(call)
                    except _KilledError:
                        self._ray.kill(worker)  # which may just be out of reach
                        killed[item] += 1
                        if killed[item] == _ATTEMPTS:
                            raise OSError(
                                f"{_ATTEMPTS} worker processes were killed, one after another, at "
                                "the same work, perhaps for want of memory"
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
    """A worker that is no more."""


class _Worker:
    """What a worker process does; a Ray actor."""

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
