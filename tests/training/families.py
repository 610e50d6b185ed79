"""Tiny random models of three families: one that renormalises by a flag, never, and always."""

from typing import Any

import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def qwen(**changes: Any) -> Qwen3MoeForCausalLM:  # noqa: ANN401  (any field of the config)
    torch.manual_seed(0)
    own = {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 8, "norm_topk_prob": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE | own | changes))


def olmoe(**changes: Any) -> OlmoeForCausalLM:  # noqa: ANN401
    torch.manual_seed(0)
    return OlmoeForCausalLM(OlmoeConfig(**SHAPE | {"num_experts": 8} | changes))


def mixtral(**changes: Any) -> MixtralForCausalLM:  # noqa: ANN401
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SHAPE | {"num_local_experts": 8} | changes))


FAMILIES = [qwen, olmoe, mixtral]
