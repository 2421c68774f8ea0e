"""Rank tables: the files by which HCCL, Huawei's collective communication, finds the NPUs."""

import json
import os
import socket
from typing import Dict, Optional

from pretexture.loader.console.json_text import parse_object

# Written by Huawei's driver: the address of each NPU of this machine.
HCCN = "/etc/hccn.conf"


def rank_table(path: Optional[str], nproc: int, total: int, folder: str) -> str:
    """The absolute path of the rank table; without one it is made, on a single machine, from HCCN.

    Args:
        path: path that the user gave, or None.
        nproc: number of processes on this machine.
        total: number of processes on all machines.
        folder: folder for a table that is made.

    Raises: ValueError if there is no table and none can be made.
    """
    if path is None:
        if nproc != total or not os.path.exists(HCCN):
            raise ValueError(
                f"--rank-table FILE is needed: it says where HCCL finds the {total} NPUs. "
                f"Huawei's hccl_tools.py makes one; on a single machine that has {HCCN}, "
                f"pretexture launch makes it"
            )
        path = os.path.join(folder, "rank_table.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(_table(nproc), file, indent=2)
        return path
    return os.path.abspath(path)


def devices(path: str, total: int) -> Dict[int, str]:
    """The device of each rank in a rank table. Raises: ValueError, OSError."""
    try:
        with open(path, "rb") as file:
            servers = parse_object(file.read(), "it")["server_list"]
        found = {
            int(device["rank_id"]): str(device["device_id"])
            for server in servers
            for device in server["device"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a rank table: {error}") from None
    if sorted(found) != list(range(total)):
        ranks = ", ".join(map(str, sorted(found)))
        raise ValueError(f"{path} has ranks {ranks}; 0 to {total - 1} are needed")
    return found


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
