"""Which machine this is, as a profile names it."""

import platform
from pathlib import Path

import psutil
import torch

from controller.profiles import Machine


def this_machine(dtype: torch.dtype, threads: int) -> Machine:
    return Machine(
        cpu=_cpu_name(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        cores=psutil.cpu_count() or 1,
        threads=threads,
        dtype=str(dtype).removeprefix("torch."),
    )


def same_machine(one: Machine, other: Machine) -> bool:
    """Whether steps take as long; how many threads a replica has is for its operator to keep."""
    return one.model_copy(update={"threads": other.threads}) == other


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
