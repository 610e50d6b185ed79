"""What the corrected step-time model foresees of a replica under one plan."""

from collections.abc import Sequence

from controller.signals import Load, Work
from controller.step_time import StepTime


def drain_s(
    model: StepTime, plan: Sequence[float], load: Load, chunk_tokens: int, waiting_tokens: int
) -> float:
    """How long a backlog of so many tokens takes, at the plan's prompt rate."""
    length = load.prompt_tokens or chunk_tokens  # of the prompts that wait
    return waiting_tokens / length * model.prompt_s(plan, length, chunk_tokens)


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
