"""What all layers of a step share: where its tokens stand, worked out by the first that asks.

Shapes: T tokens, D head size.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.continuous_batching import PagedAttentionCache

from runtime.attention import PagedStep, lay_out

INT, PTR = ctypes.c_int32, ctypes.c_void_p


class StepStruct(ctypes.Structure):
    """As `runtime/native/layer.cpp` has it, field by field."""

    _fields_ = (
        ("num_tokens", INT),
        ("num_threads", INT),
        ("cos", PTR),
        ("sin", PTR),
        ("rows", PTR),
    )


@dataclass(frozen=True)
class RunningStep:
    write_T: torch.Tensor  # rows of the cache where the step's keys and values go
    cos_TD: torch.Tensor
    sin_TD: torch.Tensor
    paged: PagedStep
    struct: StepStruct


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
            self._step = _prepare(cache, layer, positions, kwargs)
        return self._step


def _prepare(
    cache: PagedAttentionCache,
    layer: int,
    positions: tuple[torch.Tensor, torch.Tensor],
    kwargs: dict[str, Any],
) -> RunningStep:
    write_T = kwargs["write_index"][cache.layer_to_allocator[layer].index]
    cos_TD, sin_TD = (x[0].contiguous() for x in positions)
    return RunningStep(
        write_T,
        cos_TD,
        sin_TD,
        lay_out(cache, layer, kwargs, by_kernel=True),
        StepStruct(
            len(write_T),
            torch.get_num_threads(),
            cos_TD.data_ptr(),
            sin_TD.data_ptr(),
            write_T.data_ptr(),
        ),
    )
