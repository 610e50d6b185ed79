"""Memory in pages of 2 MB, for what a step reads once, front to back: weights, keys and values.

In pages of 4 KB a step of a virtual machine waits for address translation: reading 256 MB went at
38 GB/s, in huge pages at 59 (docs/log.md). It is advice: a kernel without it leaves things as they
were.
"""

import ctypes
import mmap

import torch

PAGE_BYTES = 2 << 20
COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1: also what has been written already


def advise(tensor: torch.Tensor) -> torch.Tensor:
    """Ask for huge pages under `tensor`, as far as whole ones fit; gives it back."""
    first = -(-tensor.data_ptr() // PAGE_BYTES) * PAGE_BYTES
    num_bytes = (tensor.data_ptr() + tensor.nbytes - first) // PAGE_BYTES * PAGE_BYTES
    if tensor.device.type == "cpu" and num_bytes > 0 and hasattr(mmap, "MADV_HUGEPAGE"):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for advice in (mmap.MADV_HUGEPAGE, COLLAPSE):
            madvise(first, num_bytes, advice)
    return tensor


def copy(tensor: torch.Tensor) -> torch.Tensor:
    """The same on the CPU in memory of its own, huge pages throughout; small ones as they are."""
    if tensor.nbytes < PAGE_BYTES:
        return tensor.contiguous()
    rounded = -(-tensor.nbytes // PAGE_BYTES) * PAGE_BYTES
    memory = torch.empty(rounded + PAGE_BYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % PAGE_BYTES
    memory = advise(memory[start : start + rounded])
    ours = memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return ours.copy_(tensor)
