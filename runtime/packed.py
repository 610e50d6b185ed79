"""Weights in the order in which the compiled kernels read them: experts and linear layers.

Shapes: T tokens, K slots of a token, E experts, D hidden features, F features inside an expert, R
output features of a linear layer.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.integrations.moe import _default_apply_gate

from runtime import huge_pages
from runtime.native.library import can_run, kernels

TILE = 64  # output features that the kernel computes together
LANES = 16
SILU = nn.SiLU | type(ACT2FN["silu"])


class PackedExperts:
    """Gated SiLU experts for inference, run by `runtime/native/experts.cpp`."""

    def __init__(self, gate_up_EFD: torch.Tensor, down_EDF: torch.Tensor) -> None:
        """Copies. `gate_up_EFD`: gate above up, (E, 2 F, D); `down_EDF`: (E, D, F)."""
        self.num_experts, _, self.hidden = gate_up_EFD.shape
        self.dtype = gate_up_EFD.dtype
        gate_EFD, up_EFD = gate_up_EFD.chunk(2, dim=1)
        half = TILE // 2
        # Features of zeros fill the last tile: they are 0 inside the expert and add nothing.
        missing = -down_EDF.shape[2] % half
        self.inner = down_EDF.shape[2] + missing
        interleaved = torch.stack(
            [
                functional.pad(part, (0, 0, 0, missing)).unflatten(1, (-1, half))
                for part in (gate_EFD, up_EFD)
            ],
            dim=2,
        )
        self._gate_up = _tiles(interleaved.flatten(1, 3))
        self._down = _tiles(functional.pad(down_EDF, (0, missing, 0, -self.hidden % TILE)))

    @classmethod
    def replacing(cls, experts: nn.Module) -> Self:
        """Pack the weights of `experts` and drop them: two copies would double the memory.

        From then on the module runs packed or, if asked otherwise, fails for want of weights.
        """
        packed = cls(experts.gate_up_proj.detach(), experts.down_proj.detach())
        del experts.gate_up_proj, experts.down_proj
        return packed

    @property
    def addresses(self) -> tuple[int, int]:
        return self._gate_up.data_ptr(), self._down.data_ptr()

    def __call__(
        self,
        hidden_TD: torch.Tensor,
        index_TK: torch.Tensor,
        weight_TK: torch.Tensor,
        load_E: torch.Tensor,
    ) -> torch.Tensor:
        """The experts' sum for every token. Adds to `load_E` (int32) the slots that each ran."""
        hidden_TD, index_TK = hidden_TD.contiguous(), index_TK.contiguous()
        weight_TK = weight_TK.float().contiguous()
        output_TD = torch.empty_like(hidden_TD)
        kernels().kprime_experts(
            self.dtype is torch.bfloat16,
            *self.addresses,
            self.num_experts,
            self.hidden,
            self.inner,
            hidden_TD.data_ptr(),
            index_TK.data_ptr(),
            weight_TK.data_ptr(),
            output_TD.data_ptr(),
            *index_TK.shape,
            torch.get_num_threads(),
            load_E.data_ptr(),
        )
        return output_TD


class PackedLinear:
    """Linear layers of one input, side by side as one, run by `runtime/native/dense.cpp`."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Copies. Input features are even in number."""
        self._pack(torch.cat([layer.weight.detach() for layer in layers]))
        if any(layer.bias is not None for layer in layers):
            self._bias_R = torch.cat(
                [
                    torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
                    for layer in layers
                ]
            ).float()

    @classmethod
    def of(cls, weight_RD: torch.Tensor) -> Self:
        """A layer without bias."""
        packed = cls.__new__(cls)
        packed._pack(weight_RD.detach())
        return packed

    def _pack(self, weight_RD: torch.Tensor) -> None:
        self.num_outputs, self.num_inputs = weight_RD.shape
        self.dtype = weight_RD.dtype
        missing = -self.num_outputs % TILE
        self._weight = _tiles(functional.pad(weight_RD, (0, 0, 0, missing))[None])
        self._bias_R: torch.Tensor | None = None

    @property
    def address(self) -> int:
        return self._weight.data_ptr()

    @property
    def bias_address(self) -> int | None:
        return None if self._bias_R is None else self._bias_R.data_ptr()

    def __call__(self, input_TD: torch.Tensor) -> torch.Tensor:
        input_TD = input_TD.contiguous()
        output_TR = input_TD.new_empty(len(input_TD), self.num_outputs)
        kernels().kprime_linear(
            self.dtype is torch.bfloat16,
            self.address,
            self.bias_address,
            input_TD.data_ptr(),
            len(input_TD),
            self.num_inputs,
            self.num_outputs,
            output_TR.data_ptr(),
            torch.get_num_threads(),
        )
        return output_TR


def can_pack(experts: nn.Module) -> bool:
    """Whether the kernel computes what this module computes, on this processor."""
    weight = getattr(experts, "gate_up_proj", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.device.type == "cpu"
        and weight.ndim == 3
        and weight.shape[2] % LANES == 0
        and can_run(weight.dtype)
        and experts.has_gate
        and experts.is_concatenated
        and not experts.has_bias
        and not experts.is_transposed
        and type(experts)._apply_gate is _default_apply_gate
        and isinstance(experts.act_fn, SILU)
    )


def _tiles(weight_ERC: torch.Tensor) -> torch.Tensor:
    """(E, rows, columns) -> (E, rows / 64, columns in units of 32 bits, 64)."""
    units_ERU = weight_ERC.contiguous().view(torch.int32)
    return huge_pages.copy(units_ERU.unflatten(1, (-1, TILE)).transpose(2, 3))
