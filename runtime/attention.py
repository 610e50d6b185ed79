"""Paged attention for CPUs: one scaled dot product a request, no mask across requests.

Continuous batching packs the tokens of many requests into one row. transformers' SDPA path then
multiplies every query with every key of the whole batch and masks nearly all of it away; here each
request's queries meet only its own keys. Set after the manager is built (which only accepts names
it knows) and before it starts (when it decides whether to build masks).

Shapes: T tokens of the step, S keys of all its requests, H heads, K key-value heads, D head size.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "paged_by_request"


def register() -> None:
    """Make the implementation known to transformers under `NAME`."""
    AttentionInterface.register(NAME, attention_by_request)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


def attention_by_request(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: PagedAttentionCache | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention output, shape (1, T, H, D). Without a paged cache: plain SDPA."""
    if cache is None:
        return sdpa_attention_forward(
            module, query_1HTD, key_1KTD, value_1KTD, attention_mask, scaling=scaling, **kwargs
        )
    # The cache also replaces kwargs' lengths by those of this layer.
    key_1KSD, value_1KSD = cache.update(key_1KTD, value_1KTD, module.layer_idx, kwargs)
    query_ends, key_ends = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    output_HTD = torch.empty_like(query_1HTD[0])
    for request in range(len(query_ends) - 1):
        queries = slice(query_ends[request], query_ends[request + 1])
        keys = slice(key_ends[request], key_ends[request + 1])
        num_queries, num_keys = queries.stop - queries.start, keys.stop - keys.start
        output_HTD[:, queries] = scaled_dot_product_attention(
            query_1HTD[:, :, queries],
            key_1KSD[:, :, keys],
            value_1KSD[:, :, keys],
            attn_mask=_chunk_mask(num_queries, num_keys, query_1HTD.device),
            is_causal=num_queries == num_keys and num_queries > 1,
            scale=scaling,
            enable_gqa=key_1KSD.shape[1] != query_1HTD.shape[1],
        )[0]
    return output_HTD.transpose(0, 1)[None].contiguous(), None


def _chunk_mask(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor | None:
    """A later chunk of a prompt sees all earlier keys and, causally, its own."""
    if num_queries in (1, num_keys):
        return None
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(
        num_keys - num_queries
    )
