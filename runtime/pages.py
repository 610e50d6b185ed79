"""Which pages of the key-value cache hold the requests of a step.

transformers lists every row of every request anew for each step: at a decode batch of 32 that took
a millisecond, an eighth of the step. Here attention gets the pages' beginnings instead.

Shapes: R requests, P pages of a request at most, N keys of one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import (
    CacheAllocator,
)
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

IN_SEQUENCE_TOKENS = 64  # what counts as a page where there are none


@dataclass(frozen=True)
class PageTable:
    first_row_RP: np.ndarray  # int64; what is beyond a request's last page means nothing
    page_tokens: int

    def of(self, chosen: np.ndarray) -> "PageTable":
        """For some of the requests."""
        return PageTable(self.first_row_RP[chosen], self.page_tokens)

    def rows(self, request: int, num_keys: int) -> torch.Tensor:
        """The rows of one request's keys in order, (N,), int64."""
        row_PT = self.first_row_RP[request, :, None] + np.arange(self.page_tokens)
        return torch.from_numpy(row_PT.reshape(-1)[:num_keys])


def in_sequence(key_ends: np.ndarray) -> PageTable:
    """Of keys that lie request after request; `key_ends` begins with 0."""
    num_pages = -(-int(np.diff(key_ends).max(initial=0)) // IN_SEQUENCE_TOKENS)
    starts = key_ends[:-1, None] + np.arange(num_pages) * IN_SEQUENCE_TOKENS
    return PageTable(starts.astype(np.int64), IN_SEQUENCE_TOKENS)


def read_by_page(processor: ContinuousBatchProcessor) -> None:
    """Pass `pages`, page tables by allocator, to the model instead of every row to be read."""
    paged = {
        allocator.index: allocator
        for allocator in processor.cache.cache_allocators.values()
        if allocator.supports_block_table
    }
    for allocator in paged.values():
        allocator.get_read_indices = lambda *_: []
    inputs = processor.inputs_and_outputs
    get_model_kwargs = inputs.get_model_kwargs

    def with_pages(use_padding: bool = False) -> dict[str, Any]:
        kwargs = get_model_kwargs(use_padding)
        kwargs["pages"] = {
            index: _table(allocator, inputs.requests_in_batch) for index, allocator in paged.items()
        }
        return kwargs

    inputs.get_model_kwargs = with_pages


def _table(allocator: CacheAllocator, batch: list[FutureRequestState]) -> PageTable:
    blocks = [allocator.block_table[scheduled.state.request_id] for scheduled in batch]
    block_RP = np.zeros((len(blocks), max(map(len, blocks))), dtype=np.int64)
    for row_P, numbers in zip(block_RP, blocks, strict=True):
        row_P[: len(numbers)] = numbers
    return PageTable(block_RP * allocator.block_physical_stride, allocator.tokens_per_page)
