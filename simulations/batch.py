"""What one step of a simulated engine computes, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.signals import Work
from simulations.cohort import Cohort
from simulations.jobs import Job


@dataclass(slots=True)
class Batch:
    """What one step computes."""

    cohorts: list[tuple[Cohort, list[Job]]] = field(default_factory=list)  # and who pauses in them
    chunks: list[tuple[Job, int]] = field(default_factory=list)  # of prompts, in tokens
    prefill_tokens: int = 0
    decode_tokens: int = 0
    prefill_keys: int = 0
    decode_keys: int = 0

    @property
    def tokens(self) -> int:
        return self.prefill_tokens + self.decode_tokens

    @property
    def work(self) -> Work:
        return Work(self.prefill_tokens, self.decode_tokens, self.prefill_keys, self.decode_keys)

    @property
    def tokens_by_class(self) -> tuple[Counter[str], Counter[str]]:
        """Of prompts, and of answers: the last token of a prompt makes the first of its answer."""
        prompts, answers = Counter[str](), Counter[str]()
        for cohort, paused in self.cohorts:
            answers.update(cohort.classes)
            answers.subtract(job.slo_class for job in paused)
        for job, chunk in self.chunks:
            ends = chunk == job.to_prefill
            prompts[job.slo_class] += chunk - ends
            answers[job.slo_class] += ends
        return +prompts, +answers


class Steady(NamedTuple):
    """Steps of all of a cohort and of nobody else, in which nobody comes to an end."""

    cohort: Cohort
    num_steps: int


class Made(NamedTuple):
    """What came of a step."""

    first: list[Job]  # have their first token
    done: list[Job]  # have their last
