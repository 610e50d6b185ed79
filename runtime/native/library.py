"""Finds and loads the compiled kernels: plain C functions, which know no torch and no ABI of it."""

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
INT, F32, PTR = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
ARGUMENTS = {
    "kprime_experts": [INT, PTR, PTR, INT, INT, INT, PTR, PTR, PTR, PTR, INT, INT, INT, PTR],
    "kprime_heads": [INT, PTR, INT, INT, INT, INT, F32, *[PTR] * 5, INT, *[PTR] * 3, INT],
    "kprime_attention": [INT, *[PTR] * 4, INT, INT, PTR, PTR, INT, INT, INT, INT, F32, PTR, INT],
    "kprime_prompts": [INT, *[PTR] * 4, INT, INT, *[PTR] * 3, *[INT] * 5, F32, PTR, INT],
    "kprime_layer": [PTR, PTR, PTR, PTR],
    "kprime_linear": [INT, PTR, PTR, PTR, INT, INT, INT, PTR, INT],
    "kprime_narrow": [PTR, PTR, INT, INT, PTR, INT, INT, INT, INT],
    "kprime_route": [INT, PTR, PTR, INT, INT, INT, INT, INT, PTR, PTR, PTR, INT],
    "kprime_rms_norm": [INT, PTR, PTR, F32, INT, INT, PTR, INT],
}


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, or None where the install had no compiler."""
    # Imported first, torch has brought the OpenMP library whose threads the kernels share.
    for suffix in EXTENSION_SUFFIXES:
        if (path := FOLDER / f"_kernels{suffix}").is_file():
            library = ctypes.CDLL(str(path))
            for name, arguments in ARGUMENTS.items():
                function = getattr(library, name)
                function.argtypes, function.restype = arguments, None
            return library
    return None


@functools.cache
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
