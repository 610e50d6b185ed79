"""What Ray processes run on this machine, and a port nobody listens on."""

import socket
from pathlib import Path
from typing import Any

import psutil
import ray

# Its binaries, its workers by their titles, its Python helpers by their files.
RAY = ("raylet", "gcs_server", "ray::", str(Path(ray.__file__).parent))


def ray_processes() -> set[int]:
    """Ids of living Ray processes; zombies have ended."""
    found = set()
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = [process.info["name"] or "", *(process.info["cmdline"] or [])[:4]]
        runs = process.info["status"] != psutil.STATUS_ZOMBIE
        if runs and any(name in word for word in words for name in RAY):
            found.add(process.pid)
    return found


def replica_pids(details: dict[str, Any]) -> set[int]:
    """Of kprime's replicas that have a process, those that drain included, by Serve's own details.

    Not by the titles of processes: a Ray worker may bear a replica's without being Serve's.
    """
    deployments = details["applications"]["kprime"]["deployments"].values()
    replicas = [replica for each in deployments for replica in each["replicas"]]
    return {replica["pid"] for replica in replicas if replica.get("pid")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
