"""Paged attention for CPUs: one scaled dot product a request, no mask across requests.

Continuous batching packs the tokens of many requests into one row. transformers' SDPA path then
multiplies every query with every key of the whole batch and masks nearly all of it away; here each
request's queries meet only its own keys. The compiled kernels read those where they lie; heads that
they do not know go to torch. Set after the manager is built (which only accepts names it knows) and
before it starts (when it decides whether to build masks).

Shapes: T tokens of the step, S rows of the cache, R requests, P pages of a request at most, H
heads, K key-value heads, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from runtime.native.library import can_run, kernels
from runtime.pages import PageTable, in_sequence

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
    **kwargs: Any,  # noqa: ANN401  (what the batching manager passes on)
) -> tuple[torch.Tensor, None]:
    """Attention output, shape (1, T, H, D). Without a paged cache: plain SDPA."""
    if cache is None:
        return sdpa_attention_forward(
            module, query_1HTD, key_1KTD, value_1KTD, attention_mask, scaling=scaling, **kwargs
        )
    query_THD = query_1HTD[0].transpose(0, 1).contiguous()
    step = lay_out(cache, module.layer_idx, kwargs, by_kernel=kernel_takes(query_THD))
    keys_SKD, values_SKD = _write(key_1KTD, value_1KTD, module.layer_idx, cache, kwargs)
    scaling = query_THD.shape[-1] ** -0.5 if scaling is None else scaling
    window = kwargs.get("sliding_window")
    return attend(query_THD, keys_SKD, values_SKD, step, scaling, window)[None], None


@dataclass(frozen=True)
class Requests:
    """Some requests of a step: their tokens, and where their keys lie."""

    token_R: np.ndarray  # the first of each, int32
    num_tokens_R: np.ndarray  # int32
    num_keys_R: np.ndarray  # int32; the last are those of the tokens
    pages: PageTable

    def of(self, chosen: np.ndarray) -> "Requests":
        arrays = (self.token_R, self.num_tokens_R, self.num_keys_R)
        return Requests(*(array[chosen] for array in arrays), self.pages.of(chosen))

    def __len__(self) -> int:
        return len(self.token_R)


@dataclass(frozen=True)
class PagedStep:
    """Which queries of a step meet which keys."""

    decodes: Requests  # one token each
    prompts: Requests
    by_kernel: bool  # or else by torch


def lay_out(
    cache: PagedAttentionCache, layer_idx: int, kwargs: dict[str, Any], by_kernel: bool
) -> PagedStep:
    """For all layers that share an allocator with this one."""
    allocator = cache.layer_to_allocator[layer_idx]
    query_ends = kwargs["cu_seq_lens_q"].numpy(force=True)
    key_ends = kwargs["cu_seq_lens_k"][allocator.layer_type].numpy(force=True)
    pages: PageTable | None = kwargs["pages"].get(allocator.index)
    if pages is None:  # a sliding window keeps its rows by itself and gives them in sequence
        pages = in_sequence(key_ends)
    step = Requests(
        query_ends[:-1].astype(np.int32),
        np.diff(query_ends).astype(np.int32),
        np.diff(key_ends).astype(np.int32),
        pages,
    )
    return PagedStep(
        step.of(np.flatnonzero(step.num_tokens_R == 1)),
        step.of(np.flatnonzero(step.num_tokens_R > 1)),
        by_kernel,
    )


def attend(
    query_THD: torch.Tensor,
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    step: PagedStep,
    scaling: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention output, shape (T, H, D), over keys and values where they lie in the cache.

    With a `window` a token sees no more keys than that; the cache holds none before for those that
    decode.
    """
    output_THD = torch.empty_like(query_THD)
    states = query_THD, keys_SKD, values_SKD
    if not step.by_kernel:
        for requests in (step.decodes, step.prompts):
            _run_sdpa(*states, requests, scaling, window, output_THD)
        return output_THD
    if len(step.decodes):
        _run_kernel(kernels().kprime_attention, *states, step.decodes, scaling, output_THD)
    if len(step.prompts):
        kernel = kernels().kprime_prompts
        _run_kernel(kernel, *states, step.prompts, scaling, output_THD, window or 0)
    return output_THD


def _run_kernel(
    kernel: Callable[..., None],
    query_THD: torch.Tensor,
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    requests: Requests,
    scaling: float,
    output_THD: torch.Tensor,
    *window: int,
) -> None:
    """`runtime/native/attention.cpp` for one token each; prompts.cpp, with a window, for more."""
    kernel(
        query_THD.dtype is torch.bfloat16,
        query_THD.data_ptr(),
        keys_SKD.data_ptr(),
        values_SKD.data_ptr(),
        requests.pages.first_row_RP.ctypes.data,
        requests.pages.page_tokens,
        requests.pages.first_row_RP.shape[1],
        requests.num_keys_R.ctypes.data,
        requests.token_R.ctypes.data,
        *([requests.num_tokens_R.ctypes.data] if window else []),
        len(requests),
        query_THD.shape[1],
        keys_SKD.shape[1],
        keys_SKD.shape[2],
        *window,
        scaling,
        output_THD.data_ptr(),
        torch.get_num_threads(),
    )


def _run_sdpa(
    query_THD: torch.Tensor,
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    requests: Requests,
    scaling: float,
    window: int | None,
    output_THD: torch.Tensor,
) -> None:
    for number, (first, num_queries, num_keys) in enumerate(
        zip(requests.token_R, requests.num_tokens_R, requests.num_keys_R, strict=True)
    ):
        queries = slice(int(first), int(first + num_queries))
        row_N = requests.pages.rows(number, int(num_keys)).to(query_THD.device)
        mask = _mask(int(num_queries), int(num_keys), window, query_THD.device)
        output_THD[queries] = scaled_dot_product_attention(
            query_THD[queries].transpose(0, 1)[None],
            keys_SKD[row_N].transpose(0, 1)[None],
            values_SKD[row_N].transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None and bool(num_queries > 1),
            scale=scaling,
            enable_gqa=keys_SKD.shape[1] != query_THD.shape[1],
        )[0].transpose(0, 1)


def _mask(
    num_queries: int, num_keys: int, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """What tokens see of keys that end with their own; None if all earlier ones and their own."""
    is_windowed = window is not None and num_keys > window
    if not is_windowed and num_queries in (1, num_keys):
        return None
    before = num_keys - num_queries
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(before)
    return seen.triu(before + 1 - window) if is_windowed else seen


def kernel_takes(query_THD: torch.Tensor) -> bool:
    head = query_THD.shape[-1]
    return query_THD.device.type == "cpu" and head % HEAD_MULTIPLE == 0 and can_run(query_THD.dtype)


def _write(
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    layer_idx: int,
    cache: PagedAttentionCache,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Store the step's keys and values. Where all keys and all values lie, (S, K, D).

    Not by `cache.update`, which copies every key of every request out of the cache; but a sliding
    window overwrites what its prompts still read.
    """
    allocator = cache.layer_to_allocator[layer_idx]
    if allocator.index not in kwargs["pages"]:
        key_1KND, value_1KND = cache.update(key_1KTD, value_1KTD, layer_idx, dict(kwargs))
        return tuple(x[0].transpose(0, 1).contiguous() for x in (key_1KND, value_1KND))
    keys_SKD, values_SKD = allocator._kv_token_views[layer_idx]
    write_T = kwargs["write_index"][allocator.index]
    keys_SKD.index_copy_(0, write_T, key_1KTD[0].transpose(0, 1))
    values_SKD.index_copy_(0, write_T, value_1KTD[0].transpose(0, 1))
    return keys_SKD, values_SKD
