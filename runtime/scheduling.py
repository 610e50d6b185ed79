"""Which requests a step takes: by priority first, then by deadline. Iteration-level preemption.

Orders transformers' continuous batching. Knows ranks, not SLO classes.
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import NamedTuple

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import (
    SCHEDULER_MAPPING,
    FIFOScheduler,
)

NAME = "kprime_ranked"


class Rank(NamedTuple):
    priority: int = 0  # a higher one goes first
    deadline_s: float = 0.0  # of the first token, on any clock; among one priority the earlier


FIRST_COME = Rank()  # first served


class RankedScheduler(FIFOScheduler):
    """A step's tokens go to the highest priority; within it to requests that decode, which need one
    each, then to prompts by their deadline. What is left goes to the next priority.

    So a lower priority's requests pause, between two steps and with their cache, while the higher
    ones fill the steps (preemption of single iterations, as QLLM's, arXiv 2503.09304, of whole
    requests and not of experts). If the cache is short while a higher priority waits to enter, the
    lowest of those that hold it, the latest deadline first, gives its blocks back and prefills
    again later with what it had generated: transformers' own soft reset, another victim.
    """

    rank_of: Callable[[str], Rank]  # by request; set before the first step

    def schedule_batch(self, token_budget: int, cache_budget: int):  # noqa: ANN201  (theirs)
        self._preempt(token_budget)
        if not self.active_requests:
            # Set when the cache ran out, until someone ends: nobody is left who could.
            self.block_new_requests = False
        return super().schedule_batch(token_budget, cache_budget)

    def _process_candidates(self, candidates: list[RequestState], *args: object):  # noqa: ANN202
        return super()._process_candidates(sorted(candidates, key=self._order), *args)

    def _order(self, state: RequestState) -> tuple[int, bool, float]:
        priority, deadline_s = self.rank_of(state.request_id)
        return -priority, state.status != RequestStatus.DECODING, deadline_s

    def _preempt(self, token_budget: int) -> None:
        everyone = [*self.active_requests.values(), *self.waiting_requests.values()]
        for priority, states in groupby(sorted(everyone, key=self._order), key=self._priority):
            victims = self._below(priority)
            if not victims:
                return  # nor is there anyone below the rest
            for state in states:
                while victims and not self._has_room(state, token_budget):
                    self._reset(victims.pop())

    def _priority(self, state: RequestState) -> int:
        return self.rank_of(state.request_id).priority

    def _below(self, priority: int) -> list[RequestState]:
        """Those of lower priority that hold some of the cache, the least worth keeping last."""
        lower = [
            each
            for name, each in self.active_requests.items()
            if self.rank_of(name).priority < priority
        ]
        return sorted(lower, key=self._worth, reverse=True)

    def _has_room(self, state: RequestState, token_budget: int) -> bool:
        """For its next tokens, and beside them the margin that a new request has to leave."""
        enters = state.status == RequestStatus.PENDING
        if enters and not self._try_to_meet_safety_margin():
            return False
        tokens = (
            1 if state.status == RequestStatus.DECODING else len(state.remaining_prefill_tokens)
        )
        fits = partial(self.cache.can_store_request_tokens, state, min(tokens, token_budget), True)
        if fits():
            return True
        evicted = self.cache.evict_cached_blocks()  # kept for prompts to come, before anyone
        self.cache.pool.try_to_free_sectors()
        return evicted and fits()

    def _worth(self, state: RequestState) -> tuple[int, float]:
        priority, deadline_s = self.rank_of(state.request_id)
        return priority, -deadline_s

    def _reset(self, state: RequestState) -> None:
        """As OffloadingManager does it with a starved request."""
        again = state.create_equivalent_initial_request()
        self.cache.free_blocks(state.request_id, no_cache=True)
        state._status = RequestStatus.FINISHED
        self.finish_request(state.request_id)
        self.add_waiting_request(again)


def register() -> None:
    SCHEDULER_MAPPING[NAME] = RankedScheduler
