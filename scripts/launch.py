"""Starts one process a device, on one machine or several, and ends them together.

    python scripts/launch.py --nproc 8 -- scripts/pretrain.py rotation --data DIR --workdir DIR

--batch-size stays that of all devices together. All processes must see the same --workdir. On
several machines the same command runs on each of them, with the same --hosts, and with the same
secret in PRETEXTURE_SECRET, such as what `openssl rand -hex 16` prints: by it workers know one
another. Use a network that you trust: TensorFlow's own connections are not encrypted.

A command with --device npu gets what HCCL reads (RANK_ID, RANK_SIZE, RANK_TABLE_FILE,
ASCEND_DEVICE_ID, JOB_ID), any other one TF_CONFIG and, where GPUs are used, one GPU each. The
output of each process is prefixed with its number. Where one fails, all are ended, and its error
comes last; the same command again goes on from the last checkpoint.
"""

import argparse
import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from typing import Dict, List, Optional, Tuple

from pretexture.loader.console.json_text import parse_object
from pretexture.scripts.flags import add_traceback_flag, count, place, short_errors, whole
from pretexture.scripts.processes import Group
from pretexture.trainers.engines.environment import SECRET
from pretexture.trainers.engines.environment import secret as check_secret

HCCN = "/etc/hccn.conf"
DEFAULT_PORT = 29500
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status: that of the process that failed first."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    command = flags.command[1:] if flags.command[:1] == ["--"] else flags.command
    if not command:
        parser.error("give a command after --")
    if command[0].endswith(".py"):
        command = [sys.executable, *command]
    with short_errors(flags.traceback), tempfile.TemporaryDirectory() as folder:
        first = _host_index(flags) * flags.nproc
        for attempt in range(flags.restarts + 1):
            if attempt:
                print(f"launch: restart {attempt} of {flags.restarts}", file=sys.stderr)
            environments = _environments(flags, command, first, folder)
            status, again = Group(command, environments, first).run()
            if status == 0 or not again:
                break
    return status


def _environments(
    flags: argparse.Namespace, command: List[str], first: int, folder: str
) -> List[Dict[str, str]]:
    """What is set for each process of this machine, of which `first` is the first one's number."""
    hosts, nproc = flags.hosts, flags.nproc
    total = nproc * len(hosts)
    if _is_npu(command):
        shared = {"RANK_SIZE": str(total), "JOB_ID": os.environ.get("JOB_ID") or "10086"}
        devices = {first + i: str(i) for i in range(nproc)}
        if total > 1:
            path = _rank_table(flags.rank_table, nproc, total, folder)
            shared["RANK_TABLE_FILE"] = path
            devices = _devices(path, total)
        return [
            {
                **shared,
                "RANK_ID": str(rank),
                "DEVICE_ID": devices[rank],
                "ASCEND_DEVICE_ID": devices[rank],
                "TF_CONFIG": "{}",  # no cluster, which the plugin would not bear
            }
            for rank in range(first, first + nproc)
        ]
    if len(hosts) > 1:
        check_secret()
        addresses = [f"{host}:{port + i}" for host, port in hosts for i in range(nproc)]
    else:
        addresses = [f"{hosts[0][0]}:{port}" for port in _free_ports(nproc)]
    # One for each start. Workers of other machines cannot know it, so users give theirs.
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
    """The GPU of a process, of those that are visible here. Raises ValueError for too few."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    gpus = [gpu for gpu in visible.split(",") if gpu]
    if gpus and len(gpus) < nproc:
        raise ValueError(f"--nproc {nproc}: CUDA_VISIBLE_DEVICES has {len(gpus)} GPUs, {visible}")
    return gpus[number] if gpus else ""


def _is_npu(command: List[str]) -> bool:
    pairs = zip(command, command[1:])
    return "--device=npu" in command or ("--device", "npu") in pairs


def _host_index(flags: argparse.Namespace) -> int:
    """Which of the hosts this machine is. Raises ValueError where that is not clear."""
    if flags.host_index is not None:
        if flags.host_index >= len(flags.hosts):
            raise ValueError(f"--host-index {flags.host_index}: there are {len(flags.hosts)} hosts")
        return flags.host_index
    if len(flags.hosts) == 1:
        return 0
    own = [i for i, (host, _) in enumerate(flags.hosts) if _is_here(host)]
    if len(own) != 1:
        found = "none" if not own else "more than one"
        names = ",".join(host for host, _ in flags.hosts)
        raise ValueError(
            f"{found} of --hosts {names} is this machine: say which one it is by --host-index, "
            f"counted from 0"
        )
    return own[0]


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's: it is then reached from itself."""
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise ValueError(f"--hosts: {host} has no address ({error})") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, DEFAULT_PORT))  # of a datagram's, which sends nothing
        except OSError:
            return False
        return probe.getsockname()[0] == address


def _free_ports(number: int) -> List[int]:
    """Ports other than those that the system gives to connections, which come at any moment.

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


def _rank_table(path: Optional[str], nproc: int, total: int, folder: str) -> str:
    """The path of the table by which HCCL finds the devices; made from HCCN on one machine.

    Raises: ValueError where there is none.
    """
    if path is None:
        if nproc != total or not os.path.exists(HCCN):
            raise ValueError(
                f"--rank-table FILE is needed: it says where HCCL finds the {total} NPUs. "
                f"Huawei's hccl_tools.py makes one; on a single machine with a {HCCN} this script "
                f"does"
            )
        path = os.path.join(folder, "rank_table.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(_table(nproc), file, indent=2)
        return path
    return os.path.abspath(path)


def _devices(path: str, total: int) -> Dict[int, str]:
    """The device of each rank, as a rank table has them. Raises ValueError, OSError."""
    try:
        with open(path, "rb") as file:
            servers = parse_object(file.read(), "it")["server_list"]
        devices = {
            int(device["rank_id"]): str(device["device_id"])
            for server in servers
            for device in server["device"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no rank table: {error}") from None
    if sorted(devices) != list(range(total)):
        ranks = ", ".join(map(str, sorted(devices)))
        raise ValueError(f"{path} has ranks {ranks}; 0 to {total - 1} are needed")
    return devices


def _table(nproc: int) -> Dict[str, object]:
    """The rank table of the first NPUs of this machine."""
    found = {}
    with open(HCCN, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.strip().partition("=")
            if name.startswith("address_"):
                found[name[len("address_") :]] = value
    missing = [str(i) for i in range(nproc) if str(i) not in found]
    if missing:
        raise ValueError(f"{HCCN} has no address of NPU {', '.join(missing)}")
    devices = [
        {"device_id": str(i), "device_ip": found[str(i)], "rank_id": str(i)} for i in range(nproc)
    ]
    server = {"server_id": socket.gethostname(), "device": devices}
    return {
        "version": "1.0",
        "server_count": "1",
        "server_list": [server],
        "status": "completed",
    }


def _hosts(text: str) -> Tuple[Tuple[str, int], ...]:
    """Names or addresses, each with a port."""
    hosts = []
    for part in filter(None, map(str.strip, text.split(","))):
        host, colon, port = part.partition(":")
        if not host or (colon and not port.isdigit()):
            raise argparse.ArgumentTypeError(f"must be HOST or HOST:PORT, not {part!r}")
        hosts.append((host, int(port or DEFAULT_PORT)))
    if not hosts:
        raise argparse.ArgumentTypeError("must be names or addresses, such as a,b")
    return tuple(hosts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s --nproc N [--hosts HOST,HOST,…] [flags] -- COMMAND",
    )
    parser.add_argument(
        "--nproc", type=whole, required=True, metavar="N", help="processes on each machine"
    )
    parser.add_argument(
        "--hosts",
        type=_hosts,
        default=(("127.0.0.1", 0),),
        metavar="HOST[:PORT],…",
        help="all machines, as they reach one another; a machine's first process listens at PORT, "
        f"{DEFAULT_PORT} by default, and the next ones count on (default: just this one)",
    )
    parser.add_argument(
        "--host-index",
        type=count,
        metavar="N",
        help="which of them this machine is, from 0 (default: the one whose address it has)",
    )
    parser.add_argument(
        "--rank-table",
        type=place,
        metavar="FILE",
        help=f"where HCCL finds NPUs (default, on one machine: made from {HCCN})",
    )
    parser.add_argument(
        "--restarts",
        type=count,
        default=0,
        metavar="N",
        help="how often to start again where a process fails, but for wrong flags (default: 0)",
    )
    add_traceback_flag(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
