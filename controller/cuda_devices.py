"""Which GPU CUDA calls device 0, in words that NVML understands.

Takes the environment and, where known, CUDA's own UUID of the device. CUDA counts the devices that
CUDA_VISIBLE_DEVICES lists, the fastest first unless told otherwise; NVML counts all of them along
the PCI bus. So a UUID goes before an index. Knows no driver.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssignedGpu:
    """Names for one GPU, the UUIDs to be tried in order; without any, `missing` says why."""

    uuids: tuple[str, ...] = ()  # each whole, or the beginning of one
    index: int | None = None  # as CUDA counts
    in_pci_order: bool = False  # CUDA counts as NVML does
    missing: str = ""


def assigned_gpu(environment: Mapping[str, str], cuda_uuid: str | None) -> AssignedGpu:
    """`cuda_uuid` has no prefix, as torch gives it."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    entries = ["0"] if visible is None else [entry.strip() for entry in visible.split(",")]
    if entries[0].startswith("MIG-"):  # CUDA's UUID may be that of the whole GPU
        return AssignedGpu((entries[0],))
    if cuda_uuid is not None:
        return AssignedGpu((f"GPU-{cuda_uuid}", f"MIG-{cuda_uuid}"))
    if len(set(entries)) < len(entries):  # CUDA then shows none
        return AssignedGpu(missing=f"CUDA_VISIBLE_DEVICES={visible} names a GPU twice")
    if entries[0].startswith("GPU-"):
        return AssignedGpu((entries[0],))
    if entries[0].isdecimal():
        in_pci_order = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        return AssignedGpu(index=int(entries[0]), in_pci_order=in_pci_order)
    return AssignedGpu(missing=f"CUDA_VISIBLE_DEVICES={visible} names no GPU")
