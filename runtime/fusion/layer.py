"""A decoder layer of the usual order in one call.

Shapes: T tokens, W width of the model, H heads, D head size, E experts.
"""

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.generation.continuous_batching import PagedAttentionCache

from runtime.experts import ElasticExperts
from runtime.fusion.attention import FusedAttention
from runtime.fusion.modules import FusedNorm, FusedRouter
from runtime.fusion.steps import Steps
from runtime.fusion.unusual import PROBE_TOKENS, Unusual, check_same
from runtime.moe_layers import MoeLayer
from runtime.native.library import kernels
from runtime.pages import in_sequence

INT, LONG, F32, PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class LayerStruct(ctypes.Structure):
    """As `runtime/native/layer.cpp` has it, field by field."""

    _fields_ = (
        ("bf16", INT),
        ("hidden", INT),
        ("input_norm", PTR),
        ("post_norm", PTR),
        ("input_epsilon", F32),
        ("post_epsilon", F32),
        ("qkv", PTR),
        ("qkv_bias", PTR),
        ("output", PTR),
        ("output_bias", PTR),
        ("heads", INT),
        ("kv_heads", INT),
        ("head_size", INT),
        ("head_norm", INT),
        ("query_norm", PTR),
        ("key_norm", PTR),
        ("head_epsilon", F32),
        ("scale", F32),
        ("num_experts", INT),
        ("router", PTR),
        ("router_renormalises", INT),
        ("rounds_weights", INT),
        ("gate_up", PTR),
        ("down", PTR),
        ("inner", INT),
        ("anchor_k", INT),
        ("rule_renormalises", INT),
        ("k", INT),
        ("cap", INT),
        ("experts_ns", LONG),
        ("budgets", PTR),
        ("load", PTR),
        ("keys", PTR),
        ("values", PTR),
    )


class FusedLayer:
    """x + attention(norm(x)), then y + experts(norm(y)), over the paged cache.

    For layers whose parts are all fused already and whose experts are packed: it runs the same
    kernels in the same order. Without a paged cache: the module's own forward.
    """

    def __init__(self, module: nn.Module, moe: MoeLayer, steps: Steps) -> None:
        """Raises Unusual if the layer is not what it looks like. After `ExpertDial.install`."""
        names = ("input_layernorm", "self_attn", "post_attention_layernorm")
        parts = [getattr(getattr(module, name, None), "forward", None) for name in names]
        before, attention, after, router = *parts, moe.router.forward
        elastic: ElasticExperts | None = getattr(moe.experts, "elastic", None)
        if not isinstance(attention, FusedAttention) or not isinstance(router, FusedRouter):
            raise Unusual
        if not isinstance(before, FusedNorm) or not isinstance(after, FusedNorm):
            raise Unusual
        if elastic is None or elastic.packed is None or not elastic.ranks_by_weight:
            raise Unusual
        packed = attention.qkv, attention.output, router.packed, elastic.packed
        if {part.dtype for part in packed} != {before.weight_W.dtype}:
            raise Unusual
        self._original, self._steps = module.forward, steps
        self._router, self._experts, self._elastic = moe.router, moe.experts, elastic
        self.attention, self._dtype = attention, before.weight_W.dtype
        self._cache: PagedAttentionCache | None = None
        self._struct = _describe(before, attention, after, router, elastic)
        self._address = ctypes.addressof(self._struct)
        self._compare(module, moe)

    @property
    def experts_s(self) -> float:
        """What the experts took of the last step."""
        return self._struct.experts_ns / 1e9

    @torch.inference_mode()
    def __call__(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: PagedAttentionCache | None = None,
        **kwargs: Any,  # noqa: ANN401  (what the batching manager passes on to attention)
    ) -> torch.Tensor:
        if cache is None or not self._can_run(hidden_states, position_embeddings):
            if cache is not None:
                kwargs["cache"] = cache
            return self._original(hidden_states, position_embeddings=position_embeddings, **kwargs)
        attention, struct = self.attention, self._struct
        step = self._steps.running(cache, attention.layer, position_embeddings, kwargs)
        hidden_1TW = hidden_states.contiguous()
        if cache is not self._cache:
            self._cache = cache
            struct.keys, struct.values = (view.data_ptr() for view in attention.views(cache))
        struct.k = self._router.top_k
        struct.cap = self._elastic.cap or 0
        budget_T = self._elastic.budget_T
        struct.budgets = None if budget_T is None else budget_T.data_ptr()
        output_1TW = torch.empty_like(hidden_1TW)
        kernels().kprime_layer(
            self._address, step.address, hidden_1TW.data_ptr(), output_1TW.data_ptr()
        )
        return output_1TW

    def _can_run(
        self,
        hidden_states: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> bool:
        if positions is None or {x.dtype for x in (hidden_states, *positions)} != {self._dtype}:
            return False
        # Who watches the experts gets to see them run.
        return not self._experts._forward_hooks and not self._experts._forward_pre_hooks

    @torch.inference_mode()
    def _compare(self, module: nn.Module, moe: MoeLayer) -> None:
        """With the layer's own order of things, as a step of requests of one new token each."""
        attention = self.attention
        hidden_1TW = torch.randn(1, PROBE_TOKENS, self._struct.hidden).to(self._dtype)
        angle_TD = torch.rand(PROBE_TOKENS, attention.head_size // 2).repeat(1, 2)
        positions = angle_TD.cos()[None].to(self._dtype), angle_TD.sin()[None].to(self._dtype)
        trained = moe.k
        try:
            for k in sorted({1, trained, moe.max_k}):
                moe.k = k
                outputs = [
                    forward(
                        hidden_1TW.clone(),
                        position_embeddings=positions,
                        attention_mask=None,
                        **probe_step([attention], self._dtype),
                    )
                    for forward in (module.forward, self)
                ]
                if not all(isinstance(output, torch.Tensor) for output in outputs):
                    raise Unusual
                check_same(*outputs)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise Unusual from error
        finally:
            moe.k = trained


def _describe(
    before: FusedNorm,
    attention: FusedAttention,
    after: FusedNorm,
    router: FusedRouter,
    elastic: ElasticExperts,
) -> LayerStruct:
    """All but what a step sets. The tensors stay where they are: the modules hold them."""
    query_norm, key_norm = attention.norm_addresses
    return LayerStruct(
        bf16=before.weight_W.dtype is torch.bfloat16,
        hidden=len(before.weight_W),
        input_norm=before.weight_W.data_ptr(),
        post_norm=after.weight_W.data_ptr(),
        input_epsilon=before.epsilon,
        post_epsilon=after.epsilon,
        qkv=attention.qkv.address,
        qkv_bias=attention.qkv.bias_address,
        output=attention.output.address,
        output_bias=attention.output.bias_address,
        heads=attention.num_heads,
        kv_heads=attention.num_kv_heads,
        head_size=attention.head_size,
        head_norm=attention.norm,
        query_norm=query_norm,
        key_norm=key_norm,
        head_epsilon=attention.epsilon,
        scale=attention.scaling,
        num_experts=router.packed.num_outputs,
        router=router.packed.address,
        router_renormalises=router.renormalises,
        rounds_weights=router.dtype is torch.bfloat16,
        gate_up=elastic.packed.addresses[0],
        down=elastic.packed.addresses[1],
        inner=elastic.packed.inner,
        anchor_k=elastic.rule.anchor_k or 0,
        rule_renormalises=elastic.rule.renormalises,
        load=elastic.load_E.data_ptr(),
    )


def probe_step(layers: Sequence[FusedAttention], dtype: torch.dtype) -> dict[str, Any]:
    """A paged cache of one row a request, and the arguments of a step that fills it."""
    shape = PROBE_TOKENS, layers[0].num_kv_heads, layers[0].head_size
    views = {x.layer: [torch.zeros(shape, dtype=dtype) for _ in range(2)] for x in layers}
    allocator = SimpleNamespace(index=0, layer_type="probe", _kv_token_views=views)
    each = torch.arange(PROBE_TOKENS + 1, dtype=torch.int32)
    return {
        "cache": SimpleNamespace(layer_to_allocator={x.layer: allocator for x in layers}),
        "write_index": [torch.arange(PROBE_TOKENS)],
        "pages": {0: in_sequence(each.numpy())},
        "cu_seq_lens_q": each,
        "cu_seq_lens_k": {"probe": each},
    }
