"""What all layers of a step share: where its tokens stand, worked out by the first that asks.

Shapes: T tokens, D head size.
"""

import ctypes
from typing import Any

import torch
from transformers.generation.continuous_batching import PagedAttentionCache

from runtime.attention import PagedStep, Requests, lay_out

INT, PTR = ctypes.c_int32, ctypes.c_void_p


class RequestsStruct(ctypes.Structure):
    """As `runtime/native/layer.cpp` has it, field by field; so is the next."""

    _fields_ = (
        ("count", INT),
        ("page_tokens", INT),
        ("max_pages", INT),
        ("tokens", PTR),
        ("num_tokens", PTR),
        ("num_keys", PTR),
        ("pages", PTR),
    )


class StepStruct(ctypes.Structure):
    _fields_ = (
        ("num_tokens", INT),
        ("num_threads", INT),
        ("cos", PTR),
        ("sin", PTR),
        ("rows", PTR),
        ("decodes", RequestsStruct),
        ("prompts", RequestsStruct),
    )


class RunningStep:
    """What the kernels need of a step, and keeps it in memory."""

    def __init__(
        self,
        write_T: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        paged: PagedStep,
    ) -> None:
        """`write_T`: rows of the cache where the step's keys and values go."""
        self.write_T, self.paged = write_T, paged
        self.cos_TD, self.sin_TD = (x[0].contiguous() for x in positions)
        self._struct = StepStruct(
            len(write_T),
            torch.get_num_threads(),
            self.cos_TD.data_ptr(),
            self.sin_TD.data_ptr(),
            write_T.data_ptr(),
            _describe(paged.decodes),
            _describe(paged.prompts),
        )
        self.address = ctypes.addressof(self._struct)


class Steps:
    """The step that runs."""

    def __init__(self) -> None:
        # Kept, so that no other tensor can take their place in memory and pass for them.
        self._of: tuple[Any, Any] = (None, None)
        self._step: RunningStep | None = None

    def running(
        self,
        cache: PagedAttentionCache,
        layer: int,
        positions: tuple[torch.Tensor, torch.Tensor],
        kwargs: dict[str, Any],
    ) -> RunningStep:
        """`kwargs`: what the batching manager passes on to attention."""
        lengths = kwargs["cu_seq_lens_q"]
        if self._step is None or self._of[0] is not lengths or self._of[1] is not positions[0]:
            self._of = lengths, positions[0]
            self._step = RunningStep(
                kwargs["write_index"][cache.layer_to_allocator[layer].index],
                positions,
                lay_out(cache, layer, kwargs, by_kernel=True),
            )
        return self._step


def _describe(requests: Requests) -> RequestsStruct:
    return RequestsStruct(
        len(requests),
        requests.pages.page_tokens,
        requests.pages.first_row_RP.shape[1],
        requests.token_R.ctypes.data,
        requests.num_tokens_R.ctypes.data,
        requests.num_keys_R.ctypes.data,
        requests.pages.first_row_RP.ctypes.data,
    )
