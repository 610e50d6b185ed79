"""What the corrected step-time model foresees of a replica under one plan."""

from collections.abc import Sequence

from controller.signals import Load, Work
from controller.step_time import StepTime


def drain_s(
    model: StepTime, plan: Sequence[float], load: Load, chunk_tokens: int, waiting_tokens: int
) -> float:
    """How long a backlog of so many tokens takes: each step has room for what is left beside a
    replica's running requests.
    """
    room = max(1.0, chunk_tokens - (load.running_requests or 0) / load.replicas)
    return waiting_tokens / room * step_s(model, plan, load, chunk_tokens, room)


def step_s(
    model: StepTime, plan: Sequence[float], load: Load, chunk_tokens: int, prefill_tokens: float
) -> float:
    """A step of so many prompt tokens beside a replica's running requests.

    A prefilled token reads half a prompt's keys, a decoding request its prompt's and half an
    answer's.
    """
    length, output = load.prompt_tokens or chunk_tokens, load.output_tokens or 0.0
    running = (load.running_requests or 0) / load.replicas
    keys = prefill_tokens * length / 2, running * (length + output / 2)
    return model.step_s(plan, Work(prefill_tokens, running, *keys))
