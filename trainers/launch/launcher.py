"""Starts one process for each device, on one machine or several, and ends them together."""

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from typing import Dict, List, Optional, Sequence, Tuple

from ..engines.environment import SECRET
from ..engines.environment import secret as check_secret
from .processes import Group
from .rank_table import devices, rank_table

DEFAULT_PORT = 29500
THIS_MACHINE = (("127.0.0.1", 0),)
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"


def launch(
    command: Sequence[str],
    nproc: int,
    *,
    hosts: Sequence[Tuple[str, int]] = THIS_MACHINE,
    host_index: Optional[int] = None,
    table: Optional[str] = None,
    restarts: int = 0,
) -> int:
    """Runs a command once for each device, and waits until all processes have ended.

    A command with --device npu gets what HCCL reads (RANK_ID, RANK_SIZE, RANK_TABLE_FILE,
    ASCEND_DEVICE_ID, JOB_ID). Any other command gets TF_CONFIG and, if GPUs are used, one GPU.

    Args:
        command: program and arguments.
        nproc: number of processes on each machine.
        hosts: address and port of each machine. Its first process listens at the port, the next
            ones at the following ports.
        host_index: number of this machine among `hosts`; None to find it by its address.
        table: path of HCCL's rank table; None to make it, which is possible on a single machine.
        restarts: how often all processes are started again after one has failed.

    Returns: the exit status of the process that failed first; 0 if none did.

    Raises: ValueError, OSError if the processes cannot be started as asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        first = _host_index(hosts, host_index) * nproc
        for attempt in range(restarts + 1):
            if attempt:
                print(f"launch: restart {attempt} of {restarts}", file=sys.stderr)
            environments = _environments(command, nproc, hosts, first, table, folder)
            status, again = Group(command, environments, first).run()
            if status == 0 or not again:
                break
    return status


def _environments(
    command: Sequence[str],
    nproc: int,
    hosts: Sequence[Tuple[str, int]],
    first: int,
    table: Optional[str],
    folder: str,
) -> List[Dict[str, str]]:
    """The variables to set for each process of this machine; `first` is the first one's number."""
    total = nproc * len(hosts)
    if _is_npu(command):
        shared = {"RANK_SIZE": str(total), "JOB_ID": os.environ.get("JOB_ID") or "10086"}
        numbers = {first + i: str(i) for i in range(nproc)}
        if total > 1:
            path = rank_table(table, nproc, total, folder)
            shared["RANK_TABLE_FILE"] = path
            numbers = devices(path, total)
        return [
            {
                **shared,
                "RANK_ID": str(rank),
                "DEVICE_ID": numbers[rank],
                "ASCEND_DEVICE_ID": numbers[rank],
                "TF_CONFIG": "{}",  # the plugin refuses a cluster
            }
            for rank in range(first, first + nproc)
        ]
    if len(hosts) > 1:
        check_secret()
        addresses = [f"{host}:{port + i}" for host, port in hosts for i in range(nproc)]
    else:
        addresses = [f"{hosts[0][0]}:{port}" for port in _free_ports(nproc)]
    # A new secret for each start. Workers on other machines cannot know it, so there the user sets
    # one.
    secret = {} if os.environ.get(SECRET) or total == 1 else {SECRET: secrets.token_hex(16)}
    environments = []
    for i in range(nproc):
        task = {"type": "worker", "index": first + i}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {"TF_CONFIG": json.dumps(config) if total > 1 else "{}", **secret}
        if nproc > 1:
            environment["CUDA_VISIBLE_DEVICES"] = _gpu(i, nproc)
        environments.append(environment)
    return environments


def _gpu(number: int, nproc: int) -> str:
    """The GPU of a process, one of the visible ones. Raises: ValueError if there are too few."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    gpus = [gpu for gpu in visible.split(",") if gpu]
    if gpus and len(gpus) < nproc:
        raise ValueError(f"--nproc {nproc}: CUDA_VISIBLE_DEVICES has {len(gpus)} GPUs, {visible}")
    return gpus[number] if gpus else ""


def _is_npu(command: Sequence[str]) -> bool:
    pairs = zip(command, command[1:])
    return "--device=npu" in command or ("--device", "npu") in pairs


def _host_index(hosts: Sequence[Tuple[str, int]], given: Optional[int]) -> int:
    """Which of the hosts this machine is. Raises: ValueError if that is not clear."""
    if given is not None:
        if given >= len(hosts):
            raise ValueError(f"--host-index {given}: there are {len(hosts)} hosts")
        return given
    if len(hosts) == 1:
        return 0
    own = [i for i, (host, _) in enumerate(hosts) if _is_here(host)]
    if len(own) != 1:
        found = "none" if not own else "more than one"
        names = ",".join(host for host, _ in hosts)
        raise ValueError(
            f"{found} of --hosts {names} is this machine: say which one it is by --host-index, "
            f"counted from 0"
        )
    return own[0]


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's, which then sends to it from that address."""
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise ValueError(f"--hosts: {host} has no address ({error})") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, DEFAULT_PORT))  # a datagram socket sends nothing here
        except OSError:
            return False
        return probe.getsockname()[0] == address


def _free_ports(number: int) -> List[int]:
    """Free ports outside the range that the system gives to connections at any moment.

    Raises: OSError if too few are free.
    """
    low, high = 32768, 60999
    with contextlib.suppress(OSError, ValueError), open(_EPHEMERAL, encoding="ascii") as file:
        low, high = map(int, file.read().split())
    ports = [port for port in range(10000, 65536) if not low <= port <= high] or range(10000, 65536)
    found: List[int] = []
    for port in secrets.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == number:
            return found
    raise OSError(f"too few ports are free for --nproc {number}")
