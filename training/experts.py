"""Experts for training on a CPU: rows grouped by expert, plain matrix products, own backward.

Takes the place of transformers' experts forward for gated SiLU experts. Same mathematics as its
`eager` loop, 1.5-1.7 times as fast (docs/log.md): nothing is gathered or scattered twice, and
matrix sizes repeat.

Shapes: T tokens, K experts of a token, S = T x K slots, L of them live (with an expert; the id E
means none, as in transformers), R rows (live slots and padding), E experts, D hidden features, F
features inside an expert.
"""

import ctypes
import platform

import torch
from torch import nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "grouped_by_expert"
# oneDNN compiles a kernel for every new shape. Groups of a multiple of so many rows come in few.
ROWS_MULTIPLE = 64


def use_fast_experts(model: nn.Module) -> None:
    """Switch to this implementation where it applies; leave other experts as they are."""
    experts = [m for m in model.modules() if hasattr(m, "gate_up_proj") and hasattr(m, "down_proj")]
    if next(model.parameters()).device.type == "cpu" and experts and all(map(_applies, experts)):
        ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)
        model.set_experts_implementation(NAME)
    else:
        model.set_experts_implementation("eager")


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the system.

    A training step allocates the same hundreds of megabytes again and again; page faults on them
    cost more than a third of it.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_max, largest_int = -1, -4, 2**31 - 1
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, largest_int)


def _applies(experts: nn.Module) -> bool:
    return (
        getattr(experts, "has_gate", False)
        and not experts.has_bias
        and not experts.is_transposed
        and isinstance(experts.act_fn, nn.SiLU | type(_silu()))
        and experts.gate_up_proj.ndim == 3
    )


def _silu() -> nn.Module:
    from transformers.activations import ACT2FN

    return ACT2FN["silu"]


def _forward(
    self: nn.Module, hidden_TD: torch.Tensor, index_TK: torch.Tensor, weight_TK: torch.Tensor
) -> torch.Tensor:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_TD.dtype
    with torch.autocast("cpu", enabled=False):
        output_TD = _GroupedExperts.apply(
            hidden_TD.to(dtype),
            index_TK,
            weight_TK.to(dtype),
            self.gate_up_proj.to(dtype),
            self.down_proj.to(dtype),
        )
    return output_TD.to(hidden_TD.dtype)


class _GroupedExperts(torch.autograd.Function):
    """sum_k weight[t, k] * down[e] (silu(gate[e] x) * (up[e] x)), e = index[t, k]."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden_TD: torch.Tensor,
        index_TK: torch.Tensor,
        weight_TK: torch.Tensor,
        gate_up_EFD: torch.Tensor,  # gate above up: 2 F rows
        down_EDF: torch.Tensor,
    ) -> torch.Tensor:
        num_tokens, k = index_TK.shape
        width = down_EDF.shape[2]
        groups, row_L, slot_L = _group(index_TK, len(down_EDF))
        num_rows = groups[-1].stop + 1  # the last one is of no group: zeros, for slots not live
        token_R = torch.zeros(num_rows, dtype=torch.long).index_copy_(0, row_L, slot_L // k)
        # Rows of padding weigh nothing, so whatever they compute is lost forward and backward.
        weight_R = weight_TK.new_zeros(num_rows)
        weight_R[row_L] = weight_TK.flatten()[slot_L]
        place_S = torch.full((num_tokens * k,), num_rows - 1).index_copy_(0, slot_L, row_L)

        input_RD = hidden_TD[token_R]
        gate_up_RF = hidden_TD.new_empty(num_rows, 2 * width)
        inner_RF = hidden_TD.new_empty(num_rows, width)
        output_RD = torch.empty_like(input_RD)
        output_RD[-1] = 0
        for expert, group in enumerate(groups):
            torch.mm(input_RD[group], gate_up_EFD[expert].T, out=gate_up_RF[group])
            gate, up = gate_up_RF[group, :width], gate_up_RF[group, width:]
            torch.mul(functional.silu(gate), up, out=inner_RF[group])
            torch.mm(inner_RF[group], down_EDF[expert].T, out=output_RD[group])
        output_TKD = output_RD[place_S].view(num_tokens, k, -1)
        ctx.groups = groups
        ctx.save_for_backward(
            input_RD, gate_up_RF, inner_RF, output_TKD, token_R, place_S, weight_R, weight_TK,
            gate_up_EFD, down_EDF,
        )  # fmt: skip
        return torch.bmm(weight_TK[:, None], output_TKD)[:, 0]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, d_TD: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        (
            input_RD, gate_up_RF, inner_RF, output_TKD, token_R, place_S, weight_R, weight_TK,
            gate_up_EFD, down_EDF,
        ) = ctx.saved_tensors  # fmt: skip
        k, width = weight_TK.shape[1], down_EDF.shape[2]
        d_weight_TK = torch.bmm(output_TKD, d_TD[:, :, None])[:, :, 0]
        d_output_RD = d_TD[token_R] * weight_R[:, None]
        d_gate_up_EFD, d_down_EDF = torch.zeros_like(gate_up_EFD), torch.zeros_like(down_EDF)
        d_input_RD = torch.empty_like(input_RD)
        d_input_RD[-1] = 0
        for expert, group in enumerate(ctx.groups):
            d_inner = d_output_RD[group] @ down_EDF[expert]
            torch.mm(d_output_RD[group].T, inner_RF[group], out=d_down_EDF[expert])
            gate, up = gate_up_RF[group, :width], gate_up_RF[group, width:]
            sigmoid = gate.sigmoid()
            silu = gate * sigmoid
            d_gate_up = torch.empty_like(gate_up_RF[group])
            torch.mul(d_inner, silu, out=d_gate_up[:, width:])
            # silu' = sigmoid + silu (1 - sigmoid)
            slope = torch.addcmul(silu, silu, sigmoid, value=-1).add_(sigmoid)
            torch.mul(d_inner.mul_(up), slope, out=d_gate_up[:, :width])
            torch.mm(d_gate_up, gate_up_EFD[expert], out=d_input_RD[group])
            torch.mm(d_gate_up.T, input_RD[group], out=d_gate_up_EFD[expert])
        d_hidden_TD = d_input_RD[place_S].view(-1, k, d_input_RD.shape[1]).sum(1)
        return d_hidden_TD, None, d_weight_TK, d_gate_up_EFD, d_down_EDF


def _group(
    index_TK: torch.Tensor, num_experts: int
) -> tuple[list[slice], torch.Tensor, torch.Tensor]:
    """The rows of every expert; and for live slots in their experts' order, row and slot (L,)."""
    expert_S, slot_S = torch.sort(index_TK.flatten(), stable=True)
    num_live = int(torch.searchsorted(expert_S, num_experts))
    expert_L, slot_L = expert_S[:num_live], slot_S[:num_live]
    counts_E = torch.bincount(expert_L, minlength=num_experts)
    padded_E = (counts_E + ROWS_MULTIPLE - 1) // ROWS_MULTIPLE * ROWS_MULTIPLE
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (counts_E.cumsum(0) - counts_E)
    row_L = torch.arange(num_live) + shift_E[expert_L]
    ends = ends_E.tolist()
    groups = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return groups, row_L, slot_L
