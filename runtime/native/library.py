"""Finds and loads the compiled kernels: plain C functions, which know no torch and no ABI of it."""

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, or None where the install had no compiler or the processor is another."""
    # Imported first, torch has brought the OpenMP library whose threads the kernels share.
    for suffix in EXTENSION_SUFFIXES:
        if (path := FOLDER / f"_kernels{suffix}").is_file():
            return ctypes.CDLL(str(path))
    return None


def can_run(dtype: torch.dtype) -> bool:
    """Whether the kernels are there and this processor has their instructions for `dtype`."""
    needed = {
        torch.float32: ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"),
        torch.bfloat16: ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16"),
    }.get(dtype)
    if needed is None or kernels() is None:
        return False
    has = torch.cpu.get_capabilities()
    return all(has.get(name) for name in needed)
