"""Paged attention for CPUs: one scaled dot product a request, no mask across requests.

Continuous batching packs the tokens of many requests into one row. transformers' SDPA path then
multiplies every query with every key of the whole batch and masks nearly all of it away; here each
request's queries meet only its own keys. Requests that decode go to the compiled kernel, which
reads their keys where they lie. Set after the manager is built (which only accepts names it knows)
and before it starts (when it decides whether to build masks).

Shapes: T tokens of the step, S rows of the cache, N of them keys of its requests, R requests, H
heads, K key-value heads, D head size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from runtime.native.library import can_run, kernels

NAME = "paged_by_request"
HEAD_MULTIPLE = 32  # that the kernel can do


def register() -> None:
    """Make the implementation known to transformers under `NAME`."""
    # With no mask function beside it, transformers builds no mask. None is needed: a request meets
    # its own keys only, and batches of padded rows do not come here.
    AttentionInterface.register(NAME, attention_by_request)


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
    keys_SKD, values_SKD, row_N = _write(key_1KTD, value_1KTD, module.layer_idx, cache, kwargs)
    query_THD = query_1HTD[0].transpose(0, 1).contiguous()
    step = lay_out(cache, module.layer_idx, kwargs, by_kernel=kernel_takes(query_THD))
    return attend(query_THD, keys_SKD, values_SKD, row_N, step, scaling)[None], None


@dataclass(frozen=True)
class PagedStep:
    """Which queries of a step belong to which keys. R requests that decode."""

    token_R: np.ndarray  # of the only query of each, int32
    range_R2: np.ndarray  # of its keys, int32
    prompts: list[tuple[slice, slice]]  # queries and keys of the other requests


def lay_out(
    cache: PagedAttentionCache, layer_idx: int, kwargs: dict[str, object], by_kernel: bool
) -> PagedStep:
    layer_type = cache.layer_to_allocator[layer_idx].layer_type
    query_ends = kwargs["cu_seq_lens_q"].numpy(force=True)
    key_ends = kwargs["cu_seq_lens_k"][layer_type].numpy(force=True)
    num_queries = np.diff(query_ends)
    is_decode = (num_queries == 1) & by_kernel
    decodes, prompts = np.flatnonzero(is_decode), np.flatnonzero((num_queries > 0) & ~is_decode)
    return PagedStep(
        query_ends[decodes].astype(np.int32),
        np.stack([key_ends[decodes], key_ends[decodes + 1]], axis=1).astype(np.int32),
        [
            (
                slice(int(query_ends[r]), int(query_ends[r + 1])),
                slice(int(key_ends[r]), int(key_ends[r + 1])),
            )
            for r in prompts.tolist()
        ],
    )


def attend(
    query_THD: torch.Tensor,
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    row_N: torch.Tensor,
    step: PagedStep,
    scaling: float | None,
) -> torch.Tensor:
    """Attention output, shape (T, H, D), over keys and values where they lie in the cache."""
    output_THD = torch.empty_like(query_THD)
    if len(step.token_R):
        _decode(query_THD, keys_SKD, values_SKD, row_N, step, scaling, output_THD)
    for queries, keys in step.prompts:
        rows = row_N[keys]
        num_queries, num_keys = queries.stop - queries.start, len(rows)
        output_THD[queries] = scaled_dot_product_attention(
            query_THD[queries].transpose(0, 1)[None],
            keys_SKD[rows].transpose(0, 1)[None],
            values_SKD[rows].transpose(0, 1)[None],
            attn_mask=_chunk_mask(num_queries, num_keys, query_THD.device),
            is_causal=num_queries == num_keys and num_queries > 1,
            scale=scaling,
            enable_gqa=keys_SKD.shape[1] != query_THD.shape[1],
        )[0].transpose(0, 1)
    return output_THD


def _write(
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    layer_idx: int,
    cache: PagedAttentionCache,
    kwargs: dict[str, object],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Store the step's keys and values. Where all keys and values lie, and the requests' rows.

    Not by `cache.update`, which copies every key of every request out of the cache.
    """
    allocator = cache.layer_to_allocator[layer_idx]
    if not hasattr(allocator, "_kv_token_views"):  # a sliding window keeps its rows by itself
        key_1KND, value_1KND = cache.update(key_1KTD, value_1KTD, layer_idx, kwargs)
        rows_N = torch.arange(key_1KND.shape[2], device=key_1KND.device)
        return *(x[0].transpose(0, 1).contiguous() for x in (key_1KND, value_1KND)), rows_N
    keys_SKD, values_SKD = allocator._kv_token_views[layer_idx]
    write_T = kwargs["write_index"][allocator.index]
    keys_SKD.index_copy_(0, write_T, key_1KTD[0].transpose(0, 1))
    values_SKD.index_copy_(0, write_T, value_1KTD[0].transpose(0, 1))
    read_N = kwargs["read_index"][allocator.index]
    return keys_SKD, values_SKD, read_N if len(read_N) else write_T  # none read: all keys are new


def kernel_takes(query_THD: torch.Tensor) -> bool:
    head = query_THD.shape[-1]
    return query_THD.device.type == "cpu" and head % HEAD_MULTIPLE == 0 and can_run(query_THD.dtype)


def _decode(
    query_THD: torch.Tensor,
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    row_N: torch.Tensor,
    step: PagedStep,
    scaling: float | None,
    output_THD: torch.Tensor,
) -> None:
    """Fill in the output of the requests with one query (`runtime/native/attention.cpp`)."""
    _, num_heads, head_size = query_THD.shape
    kernels().kprime_attention(
        query_THD.dtype is torch.bfloat16,
        query_THD.data_ptr(),
        keys_SKD.data_ptr(),
        values_SKD.data_ptr(),
        row_N.data_ptr(),
        step.range_R2.ctypes.data,
        step.token_R.ctypes.data,
        len(step.token_R),
        num_heads,
        keys_SKD.shape[1],
        head_size,
        head_size**-0.5 if scaling is None else scaling,
        output_THD.data_ptr(),
        torch.get_num_threads(),
    )


def _chunk_mask(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor | None:
    """A later chunk of a prompt sees all earlier keys and, causally, its own."""
    if num_queries in (1, num_keys):
        return None
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(
        num_keys - num_queries
    )
