"""What Ray processes run on this machine, and a port nobody listens on."""

import socket
from pathlib import Path

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


def replica_pids() -> set[int]:
    return {
        pid
        for pid in ray_processes()
        if any("ServeReplica:kprime" in word for word in psutil.Process(pid).cmdline())
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
