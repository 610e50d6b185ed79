"""Continuous batching with a dial: requests in, tokens out, one plan per step.

Wraps transformers' ContinuousBatchingManager. Gives each token with the plan it was made under, and
a record of every step. A plan is swapped only between steps. Knows nothing of HTTP, Ray or SLOs.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
)

from controller.signals import ExpertUse, Plan, Step
from runtime import attention, scheduling
from runtime.elastic import ExpertDial
from runtime.expert_load import ExpertLoad
from runtime.sampling import Nucleus, Sampling
from runtime.scheduling import FIRST_COME, Rank
from runtime.stepped import StampingRouter, SteppedManager

PAGE_TOKENS = 64
SAMPLED = GenerationConfig(do_sample=True, max_new_tokens=16)  # each request brings its own values


@dataclass(frozen=True, slots=True)
class Emission:
    """What one step produced for one request, and under which plan."""

    request_id: str
    tokens: tuple[int, ...]
    plan: Plan
    at_s: float
    finished: bool
    error: str | None


class Engine:
    """One model, its batches and its plan. Thread-safe; torch runs in the manager's own thread."""

    def __init__(
        self,
        model: nn.Module,
        dial: ExpertDial,
        plan: Plan,
        *,
        max_batch_tokens: int,
        cache_tokens: int,
        share_prefixes: bool = False,
        on_step: Callable[[Step, dict[str, int]], None],
        on_emissions: Callable[[list[Emission]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._apply_lock = threading.Lock()
        self.plan = plan
        self._class_of: dict[str, str] = {}  # by request, of those that name one
        self._ranks: dict[str, Rank] = {}
        # Keep their class until no step runs them: what it computes must not pass for another's.
        self._cancelled: set[str] = set()
        self._salts: dict[str | None, int] = {None: 0}  # by class
        self._load = ExpertLoad(dial)
        # What the dial is set to: cap, and the k' of so many tokens each, in their order.
        self._set: tuple[Sequence[int] | None, list[tuple[tuple[int, ...], int]]] | None = None
        self._check(plan)
        dial.set(plan.k)
        self._model, self._attention_before = model, model.config._attn_implementation
        model.set_attn_implementation("sdpa")  # what the manager accepts; ours follows below
        scheduling.register()
        self._manager = SteppedManager(
            model,
            SAMPLED,
            ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=cache_tokens // PAGE_TOKENS,
                max_batch_tokens=max_batch_tokens,
                allow_block_sharing=share_prefixes,
                scheduler_type=scheduling.NAME,
                use_async_batching=False,
                use_cuda_graph=False,  # a captured graph would replay the k' it was captured with
                auto_switch_to_flash=False,
            ),
            before_step=self._set_k_by_row,
            on_step=lambda step, prefilled: on_step(self._with_experts(step), prefilled),
        )
        self._manager.sample_with(Nucleus())
        self._manager.rank_by(lambda request_id: self._ranks.get(request_id, FIRST_COME))
        self._manager.read_by_page = True
        if share_prefixes:
            self._manager.keep_classes_apart(self._salt_of)
        attention.register()
        model.set_attn_implementation(attention.NAME)
        self._manager.output_router = StampingRouter(
            lambda outputs: on_emissions([self._emission(output) for output in outputs])
        )

    def start(self) -> None:
        self._manager.start()

    def stop(self) -> None:
        """The model may be called by itself again."""
        self._manager.stop(block=True, timeout=30, hard_stop=True)
        self._model.set_attn_implementation(self._attention_before)

    @property
    def failure(self) -> str | None:
        """Why the engine cannot serve any more; None while it can."""
        if self._manager.background_thread_status.fatal_error is not None:
            return f"engine stopped: {self._manager.background_thread_status.fatal_error}"
        return None if self._manager.is_running() else "engine is not running"

    def submit(
        self,
        request_id: str,
        prompt: list[int],
        max_tokens: int,
        choice: Sampling,
        eos_token_id: int | None,
        slo_class: str | None = None,
        rank: Rank = FIRST_COME,
    ) -> None:
        """Queue a request; its emissions follow. RuntimeError once the engine has stopped.

        Its tokens run at the k' that the running plan has for `slo_class`, when its `rank` says.
        """
        self._ranks[request_id] = rank
        if slo_class is not None:
            self._class_of[request_id] = slo_class
            self._salts.setdefault(slo_class, len(self._salts))
        accepted = self._manager.add_request(
            prompt,
            request_id=request_id,
            max_new_tokens=max_tokens,
            streaming=True,
            eos_token_id=-1 if eos_token_id is None else eos_token_id,
            **choice.arguments(),
        )
        if accepted is None:
            self._forget(request_id)
            raise RuntimeError(self.failure or "engine refused the request")

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its cache. It emits at most what the running step makes."""
        self._manager.cancel_request(request_id)
        self._cancelled.add(request_id)

    def apply(self, plan: Plan) -> None:
        """Swap the plan between two steps. Blocks for at most the rest of the running step."""
        self._check(plan)
        with self._apply_lock, self._manager.pause():
            self._dial.set(plan.k)
            self.plan, self._set = plan, None

    async def apply_async(self, plan: Plan) -> None:
        """`apply` without blocking the event loop."""
        await asyncio.to_thread(self.apply, plan)

    def expert_use(self) -> ExpertUse | None:
        """Which experts ran since this was last asked."""
        return self._load.take()

    def _with_experts(self, step: Step) -> Step:
        slots, distinct = self._load.step()
        return replace(step, expert_slots=slots, distinct_experts=distinct)

    def _forget(self, request_id: str) -> None:
        self._class_of.pop(request_id, None)
        self._ranks.pop(request_id, None)

    def _salt_of(self, request_id: str) -> int:
        return self._salts[self._class_of.get(request_id)]

    def _check(self, plan: Plan) -> None:
        prompts = [] if plan.prefill_k is None else [plan.prefill_k]
        self._dial.check_by_token([plan.k, *plan.class_k.values(), *prompts], plan.expert_cap)

    def _set_k_by_row(self, batch: list[FutureRequestState]) -> None:
        """Called in the engine's thread before a step: every token runs at its request's k'."""
        for request_id in self._cancelled - {scheduled.state.request_id for scheduled in batch}:
            self._cancelled.discard(request_id)
            self._forget(request_id)
        plan = self.plan
        if not plan.class_k and plan.expert_cap is None and plan.prefill_k is None:
            return
        # A prompt needs about all experts, and its keys and values are kept: a cap is for decoding.
        cap = plan.expert_cap if all(map(_decodes, batch)) else None
        runs = [run for scheduled in batch for run in self._runs(scheduled)]
        if self._set == (cap, runs):
            return
        plans = list(dict.fromkeys(k for k, _ in runs))
        choices, lengths = zip(*((plans.index(k), length) for k, length in runs), strict=True)
        choice_T = torch.tensor(choices).repeat_interleave(torch.tensor(lengths))
        self._dial.set_by_token(plans, choice_T.to(self._dial.load_LE.device), cap)
        self._set = cap, runs

    def _runs(self, scheduled: FutureRequestState) -> list[tuple[tuple[int, ...], int]]:
        """k' of so many tokens each: of a prompt's, and of the one that makes a token."""
        slo_class = self._class_of.get(scheduled.state.request_id)
        made = int(scheduled.has_new_token)
        prompt = self.plan.prefill_k_of(slo_class), scheduled.query_length - made
        # Without those of no tokens: where all run at one k', routers rank no more experts.
        return [run for run in (prompt, (self.plan.k_of(slo_class), made)) if run[1]]

    def _emission(self, output: GenerationOutput) -> Emission:
        """Called in the engine's thread, inside the step that made the tokens."""
        tokens = () if output.error else (output.generated_tokens[-1],)  # a step adds one
        if output.is_finished():
            self._forget(output.request_id)
        return Emission(
            output.request_id, tokens, self.plan, self._clock(), output.is_finished(), output.error
        )


def _decodes(scheduled: FutureRequestState) -> bool:
    """Before the step: whether it continues an answer, and not a prompt."""
    return scheduled.query_length == 1 and scheduled.state.generated_len() > 0
