"""What the corrected step-time model foresees of a replica under one plan."""

import math
from collections.abc import Sequence

from controller.signals import PROMPT_SHARES, KByLayer, Load, Work
from controller.step_time import StepTime


def drain_s(
    model: StepTime,
    plan: KByLayer,
    load: Load,
    chunk_tokens: int,
    waiting_tokens: int,
    running_requests: int,
) -> float:
    """How long a backlog of so many tokens takes: each step has room for what is left beside the
    running requests that go first, counted over all replicas. Lower classes wait for it.
    """
    if not waiting_tokens:
        return 0.0
    running = running_requests / load.replicas
    room = max(1.0, chunk_tokens - running)
    return waiting_tokens / room * _step_s(model, plan, load, chunk_tokens, room, running)


def request_s(model: StepTime, plan: KByLayer, load: Load, chunk_tokens: int) -> float:
    """Engine time that a request of the load's lengths takes of a saturated replica."""
    prompt_tokens, output_tokens = _lengths(load, chunk_tokens)
    return model.request_s(plan, prompt_tokens, output_tokens, chunk_tokens)


def step_s(
    model: StepTime, plan: KByLayer, load: Load, chunk_tokens: int, prefill_tokens: float
) -> float:
    """A step of so many prompt tokens beside a replica's running requests."""
    running = (load.running_requests or 0) / load.replicas
    return _step_s(model, plan, load, chunk_tokens, prefill_tokens, running)


def share_longer(
    model: StepTime,
    plan: KByLayer,
    prompt_quantiles: Sequence[float],
    chunk_tokens: int,
    within_s: float,
) -> float:
    """Of prompts with such quantiles, those that take longer by themselves: lengths between two
    quantiles are spread evenly.
    """
    longer, longer_s = 1.0, math.inf
    # From the longest: mostly even that one does not.
    for share, tokens in zip(PROMPT_SHARES[::-1], prompt_quantiles[::-1], strict=True):
        takes_s = model.prompt_s(plan, tokens, chunk_tokens)
        if takes_s <= within_s:
            return 1 - share - (longer - share) * (within_s - takes_s) / (longer_s - takes_s)
        longer, longer_s = share, takes_s
    return 1.0


def _step_s(
    model: StepTime,
    plan: KByLayer,
    load: Load,
    chunk_tokens: int,
    prefill_tokens: float,
    running: float,
) -> float:
    """A prefilled token reads half a prompt's keys, a decoding request its prompt's and half an
    answer's.
    """
    prompt, output = _lengths(load, chunk_tokens)
    keys = prefill_tokens * prompt / 2, running * (prompt + output / 2)
    return model.step_s(plan, Work(prefill_tokens, running, *keys))


def _lengths(load: Load, chunk_tokens: int) -> tuple[float, float]:
    """Mean prompt and answer; a prompt of unknown length is a step's."""
    return load.prompt_tokens or chunk_tokens, load.output_tokens or 0.0
