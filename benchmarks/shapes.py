"""Models of a given shape with random weights: as fast as trained ones, and as large as wanted."""

from pathlib import Path

import torch
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def random_checkpoint(shape: str, folder: Path) -> Path:
    """A Qwen3-MoE of hidden x layers x width with random weights, saved in `folder`."""
    hidden, layers, width = (int(part) for part in shape.split("x"))
    config = Qwen3MoeConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=8,
        moe_intermediate_size=width,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    torch.manual_seed(1)
    model = Qwen3MoeForCausalLM(config)
    for parameter in model.parameters():  # a router of zeros would pick the same experts
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
