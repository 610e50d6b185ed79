"""transformers' continuous batching with its steps laid open: announced, ordered, reported.

Knows no plan and no dial; `runtime.engine` joins them.
"""

import time
from collections.abc import Callable

import torch
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
)

from controller.signals import Step, Work
from runtime import huge_pages, pages, prefixes
from runtime.sampling import Nucleus, draw, processors
from runtime.scheduling import Rank


class SteppedManager(ContinuousBatchingManager):
    """Announces every step with its batch and reports it, from the engine's thread."""

    def __init__(
        self,
        *args: object,
        before_step: Callable[[list[FutureRequestState]], None],
        on_step: Callable[[Step, dict[str, int]], None],
    ) -> None:
        super().__init__(*args)
        self._before_step = before_step
        self._on_step = on_step
        self._nucleus: Nucleus | None = None
        self._rank_of: Callable[[str], Rank] | None = None
        self._salt_of: Callable[[str], int] | None = None
        self.read_by_page = False  # for attention that takes `pages`; before the start
        self.current_batch = 0
        self._ended_s: float | None = None  # the last round of the loop, if it ran a step

    def sample_with(self, nucleus: Nucleus) -> None:
        """Take the next tokens as `runtime.sampling` does; before the start."""
        self.logit_processor, self._nucleus = processors(nucleus), nucleus

    def rank_by(self, rank_of: Callable[[str], Rank]) -> None:
        """Order requests so, by their ids, if the ranked scheduler is chosen; before the start."""
        self._rank_of = rank_of

    def keep_classes_apart(self, salt_of: Callable[[str], int]) -> None:
        """Share cached prefixes only between requests of one salt; before the start."""
        self._salt_of = salt_of

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        processor = super()._create_batch_processor()
        if self._nucleus is not None:
            processor.model_runner._sample = self._sample
        if self._rank_of is not None:
            processor.scheduler.rank_of = self._rank_of
        for allocator in processor.cache.cache_allocators.values():
            huge_pages.advise(allocator.cache_tensor)
        if self.read_by_page:
            pages.read_by_page(processor)
        if self._salt_of is not None:
            vocab_size = self.model.config.get_text_config().vocab_size
            prefixes.keep_classes_apart(processor.cache, self._salt_of, vocab_size)
        return processor

    def _sample(self, scores_1BV: torch.Tensor, output_ids: torch.Tensor) -> None:
        tokens_B = draw(scores_1BV[0], self._nucleus.all_greedy)
        output_ids[0, : len(tokens_B)].copy_(tokens_B)

    def _generation_step(self) -> None:
        self._before_step(self.batch_processor.inputs_and_outputs.requests_in_batch)
        super()._generation_step()

    def _generation_loop_body(
        self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool
    ) -> bool:
        # What a step's report and the threads that its tokens wake take from this one delays the
        # step that follows at once: its time begins where the last one's ended.
        batches_before, started_s = self.current_batch, self._ended_s or time.perf_counter()
        goes_on = super()._generation_loop_body(batch_processor, bootstrapping)
        self._ended_s = None
        if self.current_batch > batches_before:
            self._ended_s = time.perf_counter()
            self._on_step(*_composition(batch_processor, self._ended_s - started_s))
        return goes_on


def _composition(
    batch_processor: ContinuousBatchProcessor, duration_s: float
) -> tuple[Step, dict[str, int]]:
    """The step that just ran, and its prompt tokens by request."""
    prefilled: dict[str, int] = {}
    decode_tokens = prefill_keys = decode_keys = 0
    for scheduled in batch_processor.inputs_and_outputs.requests_in_batch:
        tokens, keys = scheduled.query_length, scheduled.state.position_offset
        # After the update a decoding request has more than the one token its prefill ended with.
        if tokens == 1 and scheduled.state.generated_len() > 1:
            decode_tokens += 1
            decode_keys += keys
        else:
            prefilled[scheduled.state.request_id] = tokens
            prefill_keys += tokens * keys - tokens * (tokens - 1) // 2  # each one fewer
    work = Work(sum(prefilled.values()), decode_tokens, prefill_keys, decode_keys)
    return Step(work, duration_s), prefilled


class StampingRouter(OutputRouter):
    """Hands all outputs over in the engine's thread, one call a step."""

    def __init__(self, deliver: Callable[[list[GenerationOutput]], None]) -> None:
        super().__init__()
        self._deliver_all = deliver

    def deliver(self, output: GenerationOutput) -> None:
        self._deliver_all([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._deliver_all(outputs)
