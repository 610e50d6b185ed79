"""Norms, attention blocks and the output layer of a model, run by the compiled kernels.

In a decode step of a small model torch spends more on calling forty small operations a layer than
on computing them. Here a module's forward is replaced by one that does the same in a few calls: for
modules of the usual shape (RMSNorm; projections q, k, v, o with rotary positions, with or without
norms of queries and keys), and only after it has given the module's own output on random input.
All else stays as it is. Models are for inference from then on.

Shapes: T tokens, H heads, K key-value heads, D head size, W width of the model, S rows of a cache.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache

from runtime.attention import PagedStep, attend, kernel_takes, lay_out
from runtime.native.library import can_run, kernels
from runtime.packed import LANES, PackedLinear

PROBE = "kprime_probe"
PROBE_TOKENS = 5
RELATIVE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest value
EXPECTED_ARGUMENTS = {"dropout", "scaling", "sliding_window", "is_causal"}


class Unusual(ValueError):
    """The module computes something else than the kernels would."""


def fuse(model: nn.Module) -> list[str]:
    """Replace what can be replaced; the names of those modules."""
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or not can_run(parameter.dtype):
        return []
    steps, fused = _LastStep(), []
    makers: list[Callable[[nn.Module], Any]] = [
        FusedNorm,
        FusedRouter,
        lambda m: FusedAttention(m, steps),
    ]
    if type(model.get_output_embeddings()) is nn.Linear:
        makers.append(lambda m: FusedOutput(m, model.get_output_embeddings()))
    for name, module in model.named_modules():
        for make in makers:
            try:
                module.forward = make(module)
            except Unusual:
                continue
            fused.append(name)
            break
    return fused


class FusedNorm:
    """RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight."""

    def __init__(self, module: nn.Module) -> None:
        self._original = module.forward
        self._weight_W = getattr(module, "weight", None)
        self._epsilon = _epsilon(module)
        named_so = "RMSNorm" in type(module).__name__
        if not named_so or self._epsilon is None or not _is_vector(self._weight_W):
            raise Unusual
        probe_TW = torch.randn(PROBE_TOKENS, len(self._weight_W)).to(self._weight_W.dtype)
        _same(module.forward(probe_TW), self(probe_TW))

    @torch.inference_mode()
    def __call__(
        self,
        hidden: torch.Tensor,
        *more: Any,  # noqa: ANN401  (a gate, in some families)
    ) -> torch.Tensor:
        if more or not hidden.is_contiguous() or hidden.dtype is not self._weight_W.dtype:
            return self._original(hidden, *more)
        output, width = torch.empty_like(hidden), hidden.shape[-1]
        kernels().kprime_rms_norm(
            hidden.dtype is torch.bfloat16,
            hidden.data_ptr(),
            self._weight_W.data_ptr(),
            self._epsilon,
            hidden.numel() // width,
            width,
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output


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
        self._packed = PackedLinear.of(weight_EW)
        self._renormalises, self._dtype = False, weight_EW.dtype
        for self._renormalises in (False, True):
            if self._agrees(weight_EW):
                return
        raise Unusual

    @torch.inference_mode()
    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (T, E), weights and experts (T, k), the best first."""
        if hidden.dtype is not self._packed.dtype:
            return self._original(hidden)
        hidden_TW = hidden.reshape(-1, self._packed.num_inputs).contiguous()
        num_tokens, k = len(hidden_TW), self._module.top_k
        logits_TE = hidden_TW.new_empty(num_tokens, self._packed.num_outputs)
        weight_TK = torch.empty(num_tokens, k)
        index_TK = torch.empty(num_tokens, k, dtype=torch.long)
        kernels().kprime_route(
            hidden_TW.dtype is torch.bfloat16,
            self._packed.address,
            hidden_TW.data_ptr(),
            num_tokens,
            self._packed.num_inputs,
            self._packed.num_outputs,
            k,
            self._renormalises,
            logits_TE.data_ptr(),
            weight_TK.data_ptr(),
            index_TK.data_ptr(),
            torch.get_num_threads(),
        )
        return logits_TE, weight_TK.to(self._dtype), index_TK

    @torch.inference_mode()
    def _agrees(self, weight_EW: torch.Tensor) -> bool:
        """With the router itself, at every k'. Equal logits may be selected in either order."""
        hidden_TW = torch.randn(PROBE_TOKENS, weight_EW.shape[1]).to(weight_EW.dtype)
        trained, agrees = self._module.top_k, True
        for self._module.top_k in {1, trained, len(weight_EW)}:
            try:
                theirs = self._original(hidden_TW)
                self._dtype = theirs[1].dtype
                ours = self(hidden_TW)
                pairs = zip(theirs, ours, strict=True)
                agrees &= all(one.dtype is other.dtype for one, other in pairs)
                _same(theirs[0], ours[0])
                _same(theirs[1], ours[1])
                _same(theirs[0].gather(1, theirs[2]), ours[0].gather(1, ours[2]))
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
                agrees = False
        self._module.top_k = trained
        return agrees


class HeadNorm(IntEnum):
    """What the norms of queries and keys take the mean over; the numbers are the kernel's."""

    NONE = 0
    BY_HEAD = 1
    BY_TOKEN = 2


class FusedAttention:
    """An attention block over the paged cache. Without one, the module's own forward."""

    def __init__(self, module: nn.Module, steps: "_LastStep") -> None:
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        linears = [getattr(module, name, None) for name in names]
        if not all(type(linear) is nn.Linear for linear in linears):
            raise Unusual
        if not all(
            isinstance(getattr(module, name, None), int) for name in ("layer_idx", "head_dim")
        ):
            raise Unusual
        self._original, self._steps, self._layer = module.forward, steps, module.layer_idx
        self._size = module.head_dim
        *qkv, output = linears
        self._num_heads, self._num_kv_heads = (x.out_features // self._size for x in qkv[:2])
        if output.in_features % 2 or qkv[0].in_features % 2:
            raise Unusual
        self._norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        self._norm = self._kind_of_norm()
        self._epsilon = 0.0 if self._norms[0] is None else float(_epsilon(self._norms[0]) or 0.0)
        self._qkv, self._output = PackedLinear(qkv), PackedLinear([output])
        if not kernel_takes(torch.empty(1, 1, self._size, dtype=output.weight.dtype)):
            raise Unusual
        self._scaling = self._compare(module)

    @torch.inference_mode()
    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: object = None,
        cache: PagedAttentionCache | None = None,
        **kwargs: Any,  # noqa: ANN401  (what the batching manager passes on to attention)
    ) -> tuple[torch.Tensor, None]:
        dtypes = {x.dtype for x in (hidden_states, *position_embeddings)}
        if cache is None or dtypes != {self._qkv.dtype}:
            if cache is not None:
                kwargs["cache"] = cache
            return self._original(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        allocator = cache.layer_to_allocator[self._layer]
        keys_SKD, values_SKD = allocator._kv_token_views[self._layer]
        write_T = kwargs["write_index"][allocator.index]
        read_N = kwargs["read_index"][allocator.index]
        query_THD = self._place(
            hidden_states[0], position_embeddings, write_T, keys_SKD, values_SKD
        )
        row_N = read_N if len(read_N) else write_T
        step = self._steps.of(cache, self._layer, kwargs)
        output_THD = attend(query_THD, keys_SKD, values_SKD, row_N, step, self._scaling)
        return self._output(output_THD.flatten(1))[None], None

    def _place(
        self,
        hidden_TW: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        row_T: torch.Tensor,
        keys_SKD: torch.Tensor,
        values_SKD: torch.Tensor,
    ) -> torch.Tensor:
        """Put keys and values into their rows of the cache; give the queries, (T, H, D)."""
        qkv = self._qkv(hidden_TW)
        query_THD = qkv.new_empty(len(qkv), self._num_heads, self._size)
        cos_1TD, sin_1TD = (x.contiguous() for x in position_embeddings)
        weights = [None if norm is None else norm.weight.data_ptr() for norm in self._norms]
        kernels().kprime_heads(
            qkv.dtype is torch.bfloat16,
            qkv.data_ptr(),
            self._num_heads,
            self._num_kv_heads,
            self._size,
            self._norm,
            self._epsilon,
            *weights,
            cos_1TD.data_ptr(),
            sin_1TD.data_ptr(),
            row_T.data_ptr(),
            len(qkv),
            query_THD.data_ptr(),
            keys_SKD.data_ptr(),
            values_SKD.data_ptr(),
            torch.get_num_threads(),
        )
        return query_THD

    def _kind_of_norm(self) -> HeadNorm:
        if self._norms == [None, None]:
            return HeadNorm.NONE
        widths = [len(norm.weight) for norm in self._norms if norm is not None]
        if widths == [self._size] * 2:
            return HeadNorm.BY_HEAD
        if widths == [self._num_heads * self._size, self._num_kv_heads * self._size]:
            return HeadNorm.BY_TOKEN
        raise Unusual

    @torch.inference_mode()
    def _compare(self, module: nn.Module) -> float:
        """The scaling of the scores; raises Unusual if the block is not what it looks like."""
        dtype, width = module.o_proj.weight.dtype, module.q_proj.in_features
        hidden_TW = torch.randn(PROBE_TOKENS, width).to(dtype)
        angle_TD = torch.rand(PROBE_TOKENS, self._size // 2).repeat(1, 2)
        positions = angle_TD.cos()[None].to(dtype), angle_TD.sin()[None].to(dtype)
        attended_THD = torch.randn(PROBE_TOKENS, self._num_heads, self._size).to(dtype)
        seen: dict[str, Any] = {}

        def probe(_module, query, key, value, _mask, **given):  # noqa: ANN001, ANN003, ANN202
            seen.update(query=query, key=key, value=value, given=given)
            return attended_THD[None], None

        AttentionInterface.register(PROBE, probe)
        before, module.config._attn_implementation = module.config._attn_implementation, PROBE
        try:
            output = module.forward(hidden_TW[None], positions, attention_mask=None)[0]
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise Unusual from error
        finally:
            module.config._attn_implementation = before
        given = {name: value for name, value in seen["given"].items() if value is not None}
        if not set(given) <= EXPECTED_ARGUMENTS or given.get("sliding_window"):
            raise Unusual
        keys_TKD, values_TKD = torch.zeros(2, PROBE_TOKENS, self._num_kv_heads, self._size).to(
            dtype
        )
        row_T = torch.arange(PROBE_TOKENS)
        query_THD = self._place(hidden_TW, positions, row_T, keys_TKD, values_TKD)
        for ours_THD, name in ((query_THD, "query"), (keys_TKD, "key"), (values_TKD, "value")):
            _same(seen[name][0].transpose(0, 1), ours_THD)
        _same(output[0], self._output(attended_THD.flatten(1)))
        return float(given.get("scaling", self._size**-0.5))


class _LastStep:
    """The layout of the step that runs, worked out once for all layers."""

    def __init__(self) -> None:
        self._of: object = None  # kept, so that no other tensor can take its place in memory
        self._step: PagedStep | None = None

    def of(self, cache: PagedAttentionCache, layer: int, kwargs: dict[str, Any]) -> PagedStep:
        if self._step is None or kwargs["cu_seq_lens_q"] is not self._of:
            self._of = kwargs["cu_seq_lens_q"]
            self._step = lay_out(cache, layer, kwargs, by_kernel=True)
        return self._step


def _epsilon(norm: nn.Module) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _is_vector(weight: object) -> bool:
    return (
        isinstance(weight, torch.Tensor)
        and weight.ndim == 1
        and len(weight) % LANES == 0
        and can_run(weight.dtype)
    )


def _same(expected: torch.Tensor, ours: torch.Tensor) -> None:
    if expected.shape != ours.shape:
        raise Unusual
    error = (expected.float() - ours.float()).abs().max()
    if not error <= RELATIVE_ERROR[ours.dtype] * expected.float().abs().max():
        raise Unusual
