"""Which tokens a step takes, and who holds the cache: continuous batching as replicas do it.

Mirrors runtime/scheduling.py on transformers' scheduler: a step's tokens go to the highest
priority, within it to requests that decode, one each, then to prompts by their deadline, in chunks.
Knows no time: who calls `complete` says that the step has run.
"""

from bisect import insort
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.signals import Plan
from simulations.batch import Batch, Made, Steady
from simulations.cohort import Cohort
from simulations.jobs import PAGE_TOKENS, Job, pages_of

SAFETY_MARGIN = 0.15  # of the cache, free before another request enters: transformers' default


@dataclass(slots=True)
class Lane:
    """The requests of one priority."""

    cohort: Cohort = field(default_factory=Cohort)
    prompts: list[Job] = field(default_factory=list)  # by rank


class Starved(NamedTuple):
    """It is inside, and lacks so many pages for its next tokens."""

    job: Job
    pages: int


class Batching:
    def __init__(self, *, max_batch_tokens: int, cache_tokens: int) -> None:
        self._max_tokens = max_batch_tokens
        self._num_pages = cache_tokens // PAGE_TOKENS
        self._margin_pages = SAFETY_MARGIN * self._num_pages
        # Where so many pages are free there is room for any one request.
        self._ample_pages = max(self._margin_pages, max_batch_tokens // PAGE_TOKENS + 2)
        self.free_pages = self._num_pages
        self._lanes: dict[int, Lane] = {}  # by priority, the highest first
        self._closed = False  # to newcomers, since the cache was too short for those inside

    def submit(self, job: Job) -> None:
        if job.priority not in self._lanes:
            lanes = {**self._lanes, job.priority: Lane()}
            self._lanes = dict(sorted(lanes.items(), reverse=True))
        insort(self._lanes[job.priority].prompts, job, key=_rank)

    def cancel(self, job: Job, plan: Plan) -> None:
        """Between two steps, one that is not done."""
        lane = self._lanes[job.priority]
        if job.to_prefill > 0:
            lane.prompts.remove(job)
        else:
            lane.cohort.leave(job, plan)
        self._free(job)

    def settle(self, plan: Plan) -> None:
        """Another plan follows: what was made until now was made under this one."""
        for lane in self._lanes.values():
            lane.cohort.settle(plan)

    def compose(self, plan: Plan) -> Batch | None:
        """The next step, with the cache that it needs taken; None: there is nothing to run.

        `plan` is what ran until now: it counts for those who are preempted.
        """
        if self.free_pages < self._ample_pages:
            self._preempt(plan)
        batch, starved = self._fill()
        while starved and self._make_room(starved, batch, plan) and not batch.tokens:
            batch, starved = self._fill()
        return batch if batch.tokens else None

    def steady(self) -> Steady | None:
        """While all of one priority decode and there is nobody else, the next steps are alike."""
        cohort: Cohort | None = None
        for lane in self._lanes.values():
            if lane.prompts or (lane.cohort.size and cohort):
                return None
            if lane.cohort.size:
                cohort = lane.cohort
        if cohort is None or cohort.size > self._max_tokens:
            return None
        if self.free_pages - cohort.size < self._ample_pages:
            return None
        # In as many steps as a page has tokens, the one after these included, each request needs
        # one more page at the most.
        return Steady(cohort, min(PAGE_TOKENS - 1, cohort.steps_before_an_end))

    def advance(self, steady: Steady, num_steps: int) -> Batch:
        """So many of the steps have run; gives the one that follows, as `compose` would."""
        self.free_pages -= steady.cohort.advance(num_steps)
        batch = Batch()
        self._add_cohort(batch, steady.cohort, self._max_tokens, [])
        return batch

    def complete(self, batch: Batch, plan: Plan) -> Made:
        """The step has run, under this plan."""
        made = Made([], [])
        for cohort, paused in batch.cohorts:
            made.done.extend(cohort.step(paused, plan))
        for job, tokens in batch.chunks:
            job.cached += tokens
            if not job.to_prefill:
                self._begin_to_decode(job, plan, made)
        for job in made.done:
            self._free(job)
        if made.done:
            self._closed = False
        return made

    def _begin_to_decode(self, job: Job, plan: Plan, made: Made) -> None:
        """The step that ends a prompt makes a token."""
        lane = self._lanes[job.priority]
        lane.prompts.remove(job)
        job.generate(1, plan)
        if job.generated == 1:
            made.first.append(job)
        if job.generated == job.output_tokens:
            made.done.append(job)
        else:
            lane.cohort.join(job)

    def _fill(self) -> tuple[Batch, list[Starved]]:
        """What runs, and who is inside and lacks the cache for it."""
        batch, starved = Batch(), list[Starved]()
        room, may_enter = self._max_tokens, self.free_pages >= self._margin_pages
        closed = self._closed and self.free_pages < self._num_pages  # there is someone inside
        for lane in self._lanes.values():
            if lane.cohort.size:
                room -= self._add_cohort(batch, lane.cohort, room, starved)
            for job in lane.prompts:
                if room == 0:
                    return batch, starved
                if closed and not job.pages:
                    continue
                if batch.tokens and not may_enter:
                    return batch, starved
                tokens = min(job.to_prefill, room)
                needed = pages_of(job.cached + tokens) - job.pages
                if needed <= self.free_pages:
                    self._add_chunk(batch, job, tokens, needed)
                    room -= tokens
                elif job.pages:
                    starved.append(Starved(job, needed))
            if room == 0:
                return batch, starved
        return batch, starved

    def _add_cohort(self, batch: Batch, cohort: Cohort, room: int, starved: list[Starved]) -> int:
        """Gives the tokens that it takes of a step with so much room."""
        needed, keys, paused = cohort.pages_needed, cohort.keys, list[Job]()
        if cohort.size <= room and needed <= self.free_pages:
            self.free_pages -= needed
        else:
            paused = self._pausing(cohort, room, starved)
            keys -= sum(map(cohort.cached, paused))
        if tokens := cohort.size - len(paused):
            batch.cohorts.append((cohort, paused))
            batch.decode_tokens += tokens
            batch.decode_keys += keys + tokens  # each reads itself as well
        return tokens

    def _pausing(self, cohort: Cohort, room: int, starved: list[Starved]) -> list[Job]:
        """Those of a cohort for whom there is no room, or no page; the others take theirs."""
        paused = []
        for job in sorted(cohort, key=_rank):
            turns = cohort.turns(job)
            if room == 0 or (turns and not self.free_pages):
                paused.append(job)
                if room:
                    starved.append(Starved(job, 1))
                continue
            room -= 1
            self.free_pages -= turns
        return paused

    def _add_chunk(self, batch: Batch, job: Job, tokens: int, pages: int) -> None:
        self.free_pages -= pages
        job.pages += pages
        batch.chunks.append((job, tokens))
        batch.prefill_tokens += tokens
        # A token reads those before it, and itself.
        batch.prefill_keys += tokens * job.cached + tokens * (tokens + 1) // 2

    def _preempt(self, plan: Plan) -> None:
        """Where a higher priority lacks the cache, lower ones give theirs back."""
        for priority, lane in self._lanes.items():
            for job in [*sorted(lane.cohort, key=_rank), *lane.prompts]:
                victims = self._below(priority)
                if not victims:
                    return
                while victims and not self._has_room(job):
                    self._reset(victims.pop(), plan)

    def _below(self, priority: int) -> list[Job]:
        """Those of lower priority that hold some of the cache, the least worth keeping last."""
        lower = [lane for each, lane in self._lanes.items() if each < priority]
        return [job for lane in lower for job in sorted(_inside(lane), key=_rank)]

    def _has_room(self, job: Job) -> bool:
        """For its next tokens, and beside them the margin that who enters has to leave."""
        if job.to_prefill <= 0:
            return self.free_pages >= self._lanes[job.priority].cohort.turns(job)
        if not job.pages and self.free_pages < self._margin_pages:
            return False
        tokens = min(job.to_prefill, self._max_tokens)
        return pages_of(job.cached + tokens) - job.pages <= self.free_pages

    def _make_room(self, starved: list[Starved], batch: Batch, plan: Plan) -> bool:
        """The last of the starved begin anew until the others have what they need, or one is left.

        Then nobody enters before somebody is done.
        """
        inside, gone = sum(len(_inside(lane)) for lane in self._lanes.values()), 0
        while starved and inside - gone > 1:
            if sum(each.pages for each in starved) <= self.free_pages:
                break
            job = starved.pop().job
            for _, paused in batch.cohorts:
                if job in paused:
                    paused.remove(job)
            self._reset(job, plan)
            gone += 1
        self._closed = self._closed or gone > 0
        return gone > 0

    def _reset(self, job: Job, plan: Plan) -> None:
        self.cancel(job, plan)
        job.begin_anew()
        self.submit(job)

    def _free(self, job: Job) -> None:
        self.free_pages += job.pages
        job.pages = 0


def _rank(job: Job) -> tuple[float, int]:
    return job.deadline_s, job.index


def _inside(lane: Lane) -> list[Job]:
    return [*lane.cohort, *(job for job in lane.prompts if job.pages)]
