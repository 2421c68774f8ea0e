"""Which GPUs a process uses, and which of how many processes it is, by TF_CONFIG."""

import os
import re
from typing import Any, List, NamedTuple, Tuple

import tensorflow as tf
from pretexture.loader.console.json_text import parse_object


def choose_gpus(name: str, count: int) -> List[Any]:
    """The first GPUs, and hides all others from TensorFlow; [] for the CPU.

    Args:
        name: "auto" takes GPUs if there are any; "cpu" or "gpu".
        count: number of GPUs.

    Raises: ValueError if there are too few GPUs.
    """
    config = tf.config.experimental
    gpus = config.list_physical_devices("GPU")
    if name == "gpu" and not gpus:
        raise ValueError(
            f"--device gpu: TensorFlow {tf.__version__} sees no GPU "
            f"(it is {'' if tf.test.is_built_with_cuda() else 'not '}built for CUDA)"
        )
    if name == "cpu":
        config.set_visible_devices([], "GPU")
    if name == "cpu" or not gpus:
        return []
    if len(gpus) < count:
        raise ValueError(f"--devices {count}: TensorFlow sees {len(gpus)} GPU(s)")
    for gpu in gpus:
        config.set_memory_growth(gpu, True)
    config.set_visible_devices(gpus[:count], "GPU")
    return gpus[:count]


class Cluster(NamedTuple):
    """The workers of a run.

    Attributes:
        worker: number of this process.
        addresses: HOST:PORT of each worker; () if there is only this one.
    """

    worker: int = 0
    addresses: Tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Number of workers."""
        return max(1, len(self.addresses))


def cluster() -> Cluster:
    """The workers that TF_CONFIG names.

    Raises: ValueError for a TF_CONFIG that says something else.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = parse_object(text or "{}", "it")
        tasks = config.get("cluster", {})
        if not tasks:
            return Cluster()
        other = set(tasks) - {"chief", "worker"}
        if other:
            raise ValueError(f"{', '.join(sorted(other))} cannot be used")
        kind, index = config["task"]["type"], int(config["task"]["index"])
        chiefs, workers = (list(tasks.get(name, ())) for name in ("chief", "worker"))
        if not 0 <= index < len({"chief": chiefs, "worker": workers}.get(kind, ())):
            raise ValueError(f"there is no task {kind} {index}")
        worker = index if kind == "chief" else len(chiefs) + index
        for address in (*chiefs, *workers):
            host, _, port = address.rpartition(":")
            if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
                raise ValueError(f"{address!r} is not HOST:PORT")
        return Cluster(worker, (*chiefs, *workers))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'TF_CONFIG must be as {{"cluster": {{"worker": ["HOST:PORT", …]}}, "task": {{"type": '
            f'"worker", "index": 0}}}}, not {_begin(text)!r}: {error}'
        ) from None


def _begin(text: str) -> str:
    """The beginning of a text, for an error message."""
    return text if len(text) <= 300 else text[:300] + "…"
