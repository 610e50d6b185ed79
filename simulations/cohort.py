"""Requests of one priority that decode together, moved on as one: a step costs the same however
many they are.

Knows no time. All decode in a step but those that pause; what each has done follows from the steps
since it joined.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from controller.signals import Plan
from simulations.jobs import PAGE_TOKENS, Job


class Cohort:
    def __init__(self) -> None:
        self.size = 0
        self.keys = 0  # cached tokens of all
        self.classes: Counter[str] = Counter()  # how many of each SLO class
        self._steps = 0
        self._ending: defaultdict[int, list[Job]] = defaultdict(list)  # by their last step
        # By the step, modulo a page: those that begin another page in it.
        self._turning = [0] * PAGE_TOKENS

    def __iter__(self) -> Iterator[Job]:
        for jobs in self._ending.values():
            yield from jobs

    @property
    def pages_needed(self) -> int:
        """For the next step of all."""
        return self._turning[self._steps % PAGE_TOKENS]

    def cached(self, job: Job) -> int:
        """Its tokens whose keys and values are kept, as of now."""
        return job.cached + self._steps - job.since

    def turns(self, job: Job) -> bool:
        """Whether it begins another page with its next token."""
        return self.cached(job) % PAGE_TOKENS == 0

    def join(self, job: Job) -> None:
        """It has its first token and takes part from the next step on."""
        job.since = self._steps
        job.end = self._steps + job.output_tokens - job.generated
        self._enter(job)
        self.size += 1
        self.keys += job.cached
        self.classes[job.slo_class] += 1

    def leave(self, job: Job, plan: Plan) -> None:
        """Preempted, between two steps."""
        self._remove(job)
        self._part(job, plan)

    def step(self, paused: Sequence[Job], plan: Plan) -> list[Job]:
        """All but those who pause have made a token; gives those who are done, and lets them go."""
        for job in paused:
            self._remove(job)
            job.since += 1
            job.end += 1
            self._enter(job)
        self._steps += 1
        self.keys += self.size - len(paused)
        done = self._ending.pop(self._steps, [])
        for job in done:
            self._turning[(job.since - job.cached) % PAGE_TOKENS] -= 1
            self._part(job, plan)
        return done

    @property
    def steps_before_an_end(self) -> int:
        return min(self._ending) - self._steps - 1

    def advance(self, num_steps: int) -> int:
        """So many steps of all in which nobody came to an end; gives the pages that they took."""
        first, self._steps = self._steps, self._steps + num_steps
        self.keys += num_steps * self.size
        return sum(self._turning[step % PAGE_TOKENS] for step in range(first, self._steps))

    def settle(self, plan: Plan) -> None:
        """All that was done until now was done under this plan."""
        for job in self:
            job.settle(self._steps, plan)

    def _part(self, job: Job, plan: Plan) -> None:
        job.settle(self._steps, plan)
        self.size -= 1
        self.keys -= job.cached
        self.classes[job.slo_class] -= 1

    def _enter(self, job: Job) -> None:
        self._ending[job.end].append(job)
        self._turning[(job.since - job.cached) % PAGE_TOKENS] += 1

    def _remove(self, job: Job) -> None:
        self._ending[job.end].remove(job)
        self._turning[(job.since - job.cached) % PAGE_TOKENS] -= 1
