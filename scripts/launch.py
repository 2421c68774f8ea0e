"""Starts one process for each device, on one machine or several, and ends them together.

    pretexture launch --nproc 8 -- pretrain rotation --data DIR --workdir DIR

The command after -- is one of pretexture's, a Python script or any program. --batch-size stays the
batch of all devices together. All processes must see the same --workdir. To use several machines,
run the same command on each of them, with the same --hosts, and with the same secret in
PRETEXTURE_SECRET, such as the output of `openssl rand -hex 16`; workers prove to one another that
they know it. Use a network that you trust: TensorFlow's own connections are not encrypted.

A command with --device npu gets what HCCL reads (RANK_ID, RANK_SIZE, RANK_TABLE_FILE,
ASCEND_DEVICE_ID, JOB_ID). Any other command gets TF_CONFIG and, if GPUs are used, one GPU. Each
line of output starts with the number of its process. If a process fails, all are ended, and its
error comes last; run the same command again to resume from the last checkpoint.
"""

import argparse
import sys
from typing import List, Optional, Tuple

from pretexture.scripts import flags
from pretexture.scripts.__main__ import COMMANDS
from pretexture.trainers.launch.launcher import DEFAULT_PORT, THIS_MACHINE, launch
from pretexture.trainers.launch.rank_table import HCCN


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status: that of the process that failed first."""
    parser = _parser()
    args = parser.parse_args(arguments)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("give a command after --")
    if command[0] in COMMANDS:
        command = [sys.executable, "-m", "pretexture", *command]
    elif command[0].endswith(".py"):
        command = [sys.executable, *command]
    with flags.short_errors(args.traceback):
        return launch(
            command,
            args.nproc,
            hosts=args.hosts,
            host_index=args.host_index,
            table=args.rank_table,
            restarts=args.restarts,
        )


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
    parser = flags.parser(
        __doc__, usage="%(prog)s --nproc N [--hosts HOST,HOST,…] [flags] -- COMMAND"
    )
    parser.add_argument(
        "--nproc",
        type=flags.whole,
        required=True,
        metavar="N",
        help="number of processes on each machine",
    )
    parser.add_argument(
        "--hosts",
        type=_hosts,
        default=THIS_MACHINE,
        metavar="HOST[:PORT],…",
        help="all machines, by names or addresses at which they reach one another; a machine's "
        f"first process listens at PORT, {DEFAULT_PORT} by default, the next ones at the following "
        "ports (default: this machine alone)",
    )
    parser.add_argument(
        "--host-index",
        type=flags.count,
        metavar="N",
        help="number of this machine among them, from 0 (default: found by its address)",
    )
    parser.add_argument(
        "--rank-table",
        type=flags.place,
        metavar="FILE",
        help=f"HCCL's table of NPUs (default, on one machine: made from {HCCN})",
    )
    parser.add_argument(
        "--restarts",
        type=flags.count,
        default=0,
        metavar="N",
        help="how often all are started again after a process has failed; wrong flags are not "
        "tried again (default: 0)",
    )
    flags.add_traceback_flag(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
