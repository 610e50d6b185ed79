"""An attention block over the paged cache in four calls: projections, heads, attention, output.

Shapes: T tokens, H heads, K key-value heads, D head size, W width of the model, S rows of a cache.
"""

from enum import IntEnum
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache

from runtime.attention import attend, kernel_takes
from runtime.fusion.steps import Steps
from runtime.fusion.unusual import PROBE_TOKENS, Unusual, check_same, epsilon_of
from runtime.native.library import kernels
from runtime.packed import PackedLinear

PROBE = "kprime_probe"
EXPECTED_ARGUMENTS = {"dropout", "scaling", "sliding_window", "is_causal"}


class HeadNorm(IntEnum):
    """What the norms of queries and keys take the mean over; the numbers are the kernel's."""

    NONE = 0
    BY_HEAD = 1
    BY_TOKEN = 2


class FusedAttention:
    """An attention block over the paged cache. Without one, the module's own forward."""

    def __init__(self, module: nn.Module, steps: Steps) -> None:
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        linears = [getattr(module, name, None) for name in names]
        if not all(type(linear) is nn.Linear for linear in linears):
            raise Unusual
        if not all(
            isinstance(getattr(module, name, None), int) for name in ("layer_idx", "head_dim")
        ):
            raise Unusual
        self._original, self._steps, self.layer = module.forward, steps, module.layer_idx
        self.head_size = module.head_dim
        *qkv, output = linears
        self.num_heads, self.num_kv_heads = (x.out_features // self.head_size for x in qkv[:2])
        if output.in_features % 2 or qkv[0].in_features % 2:
            raise Unusual
        self._norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        self.norm = self._kind_of_norm()
        self.epsilon = 0.0 if self._norms[0] is None else float(epsilon_of(self._norms[0]) or 0.0)
        self.qkv, self.output = PackedLinear(qkv), PackedLinear([output])
        if not kernel_takes(torch.empty(1, 1, self.head_size, dtype=output.weight.dtype)):
            raise Unusual
        self.scaling = self._compare(module)

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
        if cache is None or dtypes != {self.qkv.dtype}:
            if cache is not None:
                kwargs["cache"] = cache
            return self._original(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        step = self._steps.running(cache, self.layer, position_embeddings, kwargs)
        keys_SKD, values_SKD = self.views(cache)
        query_THD = self._place(
            hidden_states[0], step.cos_TD, step.sin_TD, step.write_T, keys_SKD, values_SKD
        )
        output_THD = attend(query_THD, keys_SKD, values_SKD, step.paged, self.scaling)
        return self.output(output_THD.flatten(1))[None], None

    def views(self, cache: PagedAttentionCache) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and all values of this layer, (S, K, D) each."""
        return cache.layer_to_allocator[self.layer]._kv_token_views[self.layer]

    @property
    def norm_addresses(self) -> list[int | None]:
        return [None if norm is None else norm.weight.data_ptr() for norm in self._norms]

    def _place(
        self,
        hidden_TW: torch.Tensor,
        cos_TD: torch.Tensor,
        sin_TD: torch.Tensor,
        row_T: torch.Tensor,
        keys_SKD: torch.Tensor,
        values_SKD: torch.Tensor,
    ) -> torch.Tensor:
        """Put keys and values into their rows of the cache; give the queries, (T, H, D)."""
        qkv = self.qkv(hidden_TW)
        query_THD = qkv.new_empty(len(qkv), self.num_heads, self.head_size)
        kernels().kprime_heads(
            qkv.dtype is torch.bfloat16,
            qkv.data_ptr(),
            self.num_heads,
            self.num_kv_heads,
            self.head_size,
            self.norm,
            self.epsilon,
            *self.norm_addresses,
            cos_TD.data_ptr(),
            sin_TD.data_ptr(),
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
        if widths == [self.head_size] * 2:
            return HeadNorm.BY_HEAD
        if widths == [self.num_heads * self.head_size, self.num_kv_heads * self.head_size]:
            return HeadNorm.BY_TOKEN
        raise Unusual

    @torch.inference_mode()
    def _compare(self, module: nn.Module) -> float:
        """The scaling of the scores; raises Unusual if the block is not what it looks like."""
        dtype, width = module.o_proj.weight.dtype, module.q_proj.in_features
        hidden_TW = torch.randn(PROBE_TOKENS, width).to(dtype)
        angle_TD = torch.rand(PROBE_TOKENS, self.head_size // 2).repeat(1, 2)
        positions = angle_TD.cos()[None].to(dtype), angle_TD.sin()[None].to(dtype)
        attended_THD = torch.randn(PROBE_TOKENS, self.num_heads, self.head_size).to(dtype)
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
        keys_TKD, values_TKD = torch.zeros(2, PROBE_TOKENS, self.num_kv_heads, self.head_size).to(
            dtype
        )
        row_T = torch.arange(PROBE_TOKENS)
        query_THD = self._place(hidden_TW, *(x[0] for x in positions), row_T, keys_TKD, values_TKD)
        for ours_THD, name in ((query_THD, "query"), (keys_TKD, "key"), (values_TKD, "value")):
            check_same(seen[name][0].transpose(0, 1), ours_THD)
        check_same(output[0], self.output(attended_THD.flatten(1)))
        return float(given.get("scaling", self.head_size**-0.5))
