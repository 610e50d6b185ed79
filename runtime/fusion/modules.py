"""Norms, rotary positions, routers and the output layer, each in a call or two.

Shapes: T tokens, W width of the model, D head size, E experts, k of them selected, P positions.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding

from runtime.fusion.unusual import PROBE_TOKENS, Unusual, check_same, epsilon_of
from runtime.native.library import can_run, kernels
from runtime.packed import LANES, PackedLinear

TABLE_POSITIONS = 32_768  # at most
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")  # the others follow the longest request


class FusedNorm:
    """RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight."""

    def __init__(self, module: nn.Module) -> None:
        self._original = module.forward
        self.weight_W = getattr(module, "weight", None)
        self.epsilon = epsilon_of(module)
        named_so = "RMSNorm" in type(module).__name__
        if not named_so or self.epsilon is None or not _is_vector(self.weight_W):
            raise Unusual
        probe_TW = torch.randn(PROBE_TOKENS, len(self.weight_W)).to(self.weight_W.dtype)
        check_same(module.forward(probe_TW), self(probe_TW))

    @torch.inference_mode()
    def __call__(
        self,
        hidden: torch.Tensor,
        *more: Any,  # noqa: ANN401  (a gate, in some families)
    ) -> torch.Tensor:
        if more or not hidden.is_contiguous() or hidden.dtype is not self.weight_W.dtype:
            return self._original(hidden, *more)
        output, width = torch.empty_like(hidden), hidden.shape[-1]
        kernels().kprime_rms_norm(
            hidden.dtype is torch.bfloat16,
            hidden.data_ptr(),
            self.weight_W.data_ptr(),
            self.epsilon,
            hidden.numel() // width,
            width,
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output


class FusedRotary:
    """Cosines and sines of the positions, from a table that the module itself filled."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._original, self._dtype = module.forward, dtype
        frequencies = getattr(module, "inv_freq", None)
        if "RotaryEmbedding" not in type(module).__name__ or not isinstance(
            frequencies, torch.Tensor
        ):
            raise Unusual
        if getattr(module, "rope_type", None) not in FIXED_ROTATIONS:
            raise Unusual
        with torch.inference_mode():
            try:
                positions = min(module.config.max_position_embeddings, TABLE_POSITIONS)
                table = module.forward(torch.empty(0, dtype=dtype), torch.arange(positions)[None])
                self._cos_PD, self._sin_PD = (x[0].contiguous() for x in table)
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                raise Unusual from error
        if self._cos_PD.ndim != 2 or len(self._cos_PD) != positions:
            raise Unusual

    @torch.inference_mode()
    def __call__(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype is self._dtype and position_ids.ndim == 2:
            try:
                return embedding(position_ids, self._cos_PD), embedding(position_ids, self._sin_PD)
            except IndexError:  # beyond the table
                pass
        return self._original(x, position_ids)


class FusedOutput:
    """The layer that gives the logits."""

    def __init__(self, module: nn.Module, output_layer: nn.Linear) -> None:
        if module is not output_layer or module.in_features % 2:
            raise Unusual
        if not can_run(module.weight.dtype):
            raise Unusual
        self._original, self._dtype = module.forward, module.weight.dtype
        self._packed = PackedLinear([module])

    @torch.inference_mode()
    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.dtype is not self._dtype:
            return self._original(hidden)
        return self._packed(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])


class FusedRouter:
    """Softmax over all experts, then the k best, renormalised or not."""

    def __init__(self, module: nn.Module) -> None:
        weight_EW = getattr(module, "weight", None)
        if not isinstance(weight_EW, torch.Tensor) or weight_EW.ndim != 2 or weight_EW.shape[1] % 2:
            raise Unusual
        if not isinstance(getattr(module, "top_k", None), int) or not can_run(weight_EW.dtype):
            raise Unusual
        if getattr(module, "bias", None) is not None:
            raise Unusual
        self._original, self._module = module.forward, module
        self.packed = PackedLinear.of(weight_EW)
        self.renormalises, self.dtype = False, weight_EW.dtype
        for self.renormalises in (False, True):
            if self._agrees(weight_EW):
                return
        raise Unusual

    @torch.inference_mode()
    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (T, E), weights and experts (T, k), the best first."""
        if hidden.dtype is not self.packed.dtype:
            return self._original(hidden)
        hidden_TW = hidden.reshape(-1, self.packed.num_inputs).contiguous()
        num_tokens, k = len(hidden_TW), self._module.top_k
        logits_TE = hidden_TW.new_empty(num_tokens, self.packed.num_outputs)
        weight_TK = torch.empty(num_tokens, k)
        index_TK = torch.empty(num_tokens, k, dtype=torch.long)
        kernels().kprime_route(
            hidden_TW.dtype is torch.bfloat16,
            self.packed.address,
            hidden_TW.data_ptr(),
            num_tokens,
            self.packed.num_inputs,
            self.packed.num_outputs,
            k,
            self.renormalises,
            logits_TE.data_ptr(),
            weight_TK.data_ptr(),
            index_TK.data_ptr(),
            torch.get_num_threads(),
        )
        return logits_TE, weight_TK.to(self.dtype), index_TK

    @torch.inference_mode()
    def _agrees(self, weight_EW: torch.Tensor) -> bool:
        """With the router itself, at every k'. Equal logits may be selected in either order."""
        hidden_TW = torch.randn(PROBE_TOKENS, weight_EW.shape[1]).to(weight_EW.dtype)
        trained, agrees = self._module.top_k, True
        for self._module.top_k in {1, trained, len(weight_EW)}:
            try:
                theirs = self._original(hidden_TW)
                self.dtype = theirs[1].dtype
                ours = self(hidden_TW)
                pairs = zip(theirs, ours, strict=True)
                agrees &= all(one.dtype is other.dtype for one, other in pairs)
                check_same(theirs[0], ours[0])
                check_same(theirs[1], ours[1])
                check_same(theirs[0].gather(1, theirs[2]), ours[0].gather(1, ours[2]))
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
                agrees = False
        self._module.top_k = trained
        return agrees


def _is_vector(weight: object) -> bool:
    return (
        isinstance(weight, torch.Tensor)
        and weight.ndim == 1
        and len(weight) % LANES == 0
        and can_run(weight.dtype)
    )
