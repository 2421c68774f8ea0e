"""Which of the workers of a job this process is, as the frameworks and launchers say it."""

import os
import sys
from typing import Any, Optional, Tuple

# Variables with the number of this process and the number of processes, by launcher. SLURM_NTASKS
# is not used: a batch script has it, too, although it runs only once.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, Accelerate, DeepSpeed, Lightning
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
)


def find() -> Tuple[int, int]:
    """The number of this process, counted from 0, and the number of processes; (0, 1) if alone.

    It asks torch.distributed and jax.distributed, if they are initialised, and then the environment
    variables of launchers: RANK and WORLD_SIZE, those of srun, those of Open MPI.

    Raises: ValueError for a variable that is not a number or does not fit the other one.
    """
    return _of_torch() or _of_jax() or _of_environment() or (0, 1)


def _of_torch() -> Optional[Tuple[int, int]]:
    # A program that uses it has imported it.
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _of_jax() -> Optional[Tuple[int, int]]:
    jax: Any = sys.modules.get("jax")
    is_initialized = getattr(getattr(jax, "distributed", None), "is_initialized", None)
    if is_initialized is None or not is_initialized():
        return None
    return jax.process_index(), jax.process_count()


def _of_environment() -> Optional[Tuple[int, int]]:
    for names in _LAUNCHERS:
        if not all(name in os.environ for name in names):
            continue
        values = [os.environ[name] for name in names]
        if not all(value.isdigit() for value in values) or not int(values[0]) < int(values[1]):
            said = " and ".join(f"{name}={value!r}" for name, value in zip(names, values))
            raise ValueError(
                f"shard='auto': {said} must be the number of a process, counted from 0, and the "
                "number of processes"
            )
        return int(values[0]), int(values[1])
    return None
