"""Choosing GPUs, and which process of how many this one is, by TF_CONFIG."""

import json
import os
from typing import Any, List, Tuple

import tensorflow as tf


def choose_gpus(name: str, count: int) -> List[Any]:
    """The first GPUs, the only ones that are then visible; [] for the CPU.

    Args:
        name: "auto" takes GPUs where there are any; "cpu" or "gpu".
        count: how many; CPUs may be any number, since they are all the same one.

    Raises: ValueError where too few GPUs are there.
    """
    config = tf.config.experimental
    gpus = config.list_physical_devices("GPU")
    if name == "gpu" and not gpus:
        raise ValueError(
            f"--device gpu: TensorFlow {tf.__version__} sees no GPU "
            f"({'it is' if tf.test.is_built_with_cuda() else 'and it is not'} built for CUDA)"
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


def cluster() -> Tuple[int, int]:
    """Which worker this process is, and of how many, as TF_CONFIG says; (0, 1) without it.

    Raises: ValueError for a TF_CONFIG that says something else.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        tasks = config.get("cluster", {})
        chiefs, workers = (len(tasks.get(kind, ())) for kind in ("chief", "worker"))
        kind, index = "worker", 0
        if tasks:
            kind, index = config["task"]["type"], int(config["task"]["index"])
        worker = index if kind == "chief" else chiefs + index
        total = max(1, chiefs + workers)
        if kind not in ("chief", "worker") or not 0 <= worker < total:
            raise ValueError(f"there is no task {kind} {index}")
        other = set(tasks) - {"chief", "worker"}
        if other:
            raise ValueError(f"there is no use for {', '.join(sorted(other))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'TF_CONFIG must be as {{"cluster": {{"worker": ["HOST:PORT", …]}}, "task": {{"type": '
            f'"worker", "index": 0}}}}, not {text!r}: {error}'
        ) from None
    return worker, total
