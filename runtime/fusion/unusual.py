"""How a module is found to be what it looks like: its own output against the kernels'."""

import torch
from torch import nn

PROBE_TOKENS = 5
RELATIVE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest value


class Unusual(ValueError):
    """The module computes something else than the kernels would."""


def check_same(expected: torch.Tensor, ours: torch.Tensor) -> None:
    if expected.shape != ours.shape:
        raise Unusual
    error = (expected.float() - ours.float()).abs().max()
    if not error <= RELATIVE_ERROR[ours.dtype] * expected.float().abs().max():
        raise Unusual


def epsilon_of(norm: nn.Module) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
