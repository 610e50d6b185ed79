"""A journal's decisions made again: exactly as they were, or as another policy would have.

Takes the entries of a journal and the profiles they were decided by; gives what differs, or shares
of time. The `Controller` that decides is the live one; only its loads come from the file.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import policies
from controller.config import SloPolicy
from controller.estimator import Estimator
from controller.journal import Adoption, Entry, Tick
from controller.loop import Controller
from controller.profiles import Profile
from controller.signals import Budget, Load, Plan

NUM_SHOWN = 5
# What a policy remembers from before a file began is not in the file; after this it has forgotten.
MEMORY_S = 60.0
LONGEST_GAP = 3.0  # ticks; a longer pause was no plan's time, the controller was gone

ProfileOf = Callable[[Adoption, str], Profile]  # for an adoption and where it stands


@dataclass(frozen=True, slots=True)
class Difference:
    place: str
    at_s: float
    budget: Budget  # as the journal has it
    plan: Plan
    budget_again: Budget
    plan_again: Plan


@dataclass(slots=True)
class Replayed:
    """What came out of a replay."""

    ticks: int = 0  # since the first adoption
    replayed: int = 0  # made again and compared
    without_memory: int = 0  # made again, but the policy remembered what no file tells
    adoptions: int = 0
    epoch_jumps: int = 0  # a replica served under a predecessor's plan
    differences: int = 0
    shown: list[Difference] = field(default_factory=list)  # the first few
    codes: dict[str, None] = field(default_factory=dict)  # an ordered set


class _NoJournal:
    def write(self, load: Load, budget: Budget, plan: Plan) -> None:
        pass


def controller_of(slo_policy: SloPolicy, profile: Profile, plan: Plan) -> Controller:
    """For loads that are given."""
    never_asked = Estimator(profile, stale_s=0.0, forget_s=0.0)
    return policies.controller_of(slo_policy, profile, never_asked, _NoJournal(), plan)


def replay_exactly(entries: Iterable[Entry], profile_of: ProfileOf) -> Replayed:
    """Makes every decision again and compares.

    Each tick starts from the plan that the journal says was served, so one difference does not make
    the next. The epoch may be ahead of ours: replicas told it, and samples are not in the journal.
    """
    result = Replayed()
    writers: dict[str, _Again] = {}
    for entry in entries:
        if isinstance(entry.what, Adoption):
            before, adopted = writers.get(entry.writer), entry.what
            result.adoptions += not adopted.continued
            result.codes[adopted.code] = None
            if before is None or not _goes_on(adopted, before.adopted):
                profile = profile_of(adopted, entry.place)
                controller = controller_of(adopted.slo_policy, profile, adopted.plan)
                writers[entry.writer] = _Again(adopted, controller)
        else:
            writers[entry.writer].compare(entry.place, entry.what, result)
    return result


def _goes_on(adopted: Adoption, before: Adoption) -> bool:
    """Whether a file only goes on where the one before it ended."""
    same = replace(adopted, continued=before.continued, plan=before.plan) == before
    return adopted.continued and same


class _Again:
    """One writer's controller, deciding again since its last adoption."""

    def __init__(self, adopted: Adoption, controller: Controller) -> None:
        self.adopted = adopted
        self._controller = controller
        self._since_s: float | None = None

    def compare(self, place: str, tick: Tick, result: Replayed) -> None:
        at_s = tick.load.at_s
        self._since_s = at_s if self._since_s is None else self._since_s
        plan, budget = self._controller.decide(tick.load), self._controller.budget
        assert budget is not None
        if tick.plan.epoch > plan.epoch:
            result.epoch_jumps += 1
            plan = replace(plan, epoch=tick.plan.epoch)
        result.ticks += 1
        if self.adopted.continued and at_s - self._since_s < MEMORY_S:
            result.without_memory += 1
        else:
            result.replayed += 1
            if (budget, plan) != (tick.budget, tick.plan):
                result.differences += 1
                if len(result.shown) < NUM_SHOWN:
                    again = Difference(place, at_s, tick.budget, tick.plan, budget, plan)
                    result.shown.append(again)
        self._controller.plan = tick.plan


@dataclass(slots=True)
class Course:
    """How long which plan was served, and how often it changed."""

    seconds: dict[float, float] = field(default_factory=dict)  # by mean k'
    quality_s: float = 0.0
    changes: int = 0

    def serve(self, plan: Plan, for_s: float, before: Plan | None) -> None:
        self.seconds[plan.mean_k] = self.seconds.get(plan.mean_k, 0.0) + for_s
        self.quality_s += plan.quality * for_s
        self.changes += before is not None and before.k != plan.k

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    def share(self, mean_k: float) -> float:
        return self.seconds.get(mean_k, 0.0) / self.total_s if self.total_s else 0.0

    @property
    def mean_k(self) -> float:
        return sum(mean_k * self.share(mean_k) for mean_k in self.seconds)

    @property
    def quality(self) -> float:
        return self.quality_s / self.total_s if self.total_s else 0.0


def replay_instead(
    entries: Iterable[Entry], slo_policy: SloPolicy, profile_of: ProfileOf
) -> tuple[Course, Course]:
    """The course as it was, and as `slo_policy` would have set it under the same loads.

    It sees its own k' run; everything else of the loads is what the journal's plans led to. It
    starts anew with each writer (a restart of the controller), and goes on where only the SLO
    policy changed.
    """
    was, would = Course(), Course()
    acting = slo_policy.model_copy(update={"mode": "act"})
    writers: dict[str, _Instead] = {}
    for entry in entries:
        if isinstance(entry.what, Tick):
            writers[entry.writer].decide(entry.what, was, would)
        elif entry.writer in writers:
            writers[entry.writer].tick_s = entry.what.slo_policy.cadence.tick_s
        else:
            profile = profile_of(entry.what, entry.place)
            controller = controller_of(acting, profile, entry.what.plan)
            tick_s = entry.what.slo_policy.cadence.tick_s
            writers[entry.writer] = _Instead(controller, tick_s)
    for writer in writers.values():
        writer.end(was, would)
    return was, would


class _Instead:
    """Another policy in the place of one writer's."""

    def __init__(self, controller: Controller, tick_s: float) -> None:
        self._controller = controller
        self.tick_s = tick_s
        self._last: tuple[Tick, Plan] | None = None
        self._served: tuple[Plan | None, Plan | None] = None, None

    def decide(self, tick: Tick, was: Course, would: Course) -> None:
        if self._last is not None:
            gap_s = tick.load.at_s - self._last[0].load.at_s
            self._serve(was, would, min(gap_s, LONGEST_GAP * self.tick_s))
        plan = self._controller.plan
        mean_k = plan.mean_k_over(tick.load.shares)
        load = replace(tick.load, mean_k=mean_k, epoch=plan.epoch)
        self._last = tick, self._controller.decide(load)

    def end(self, was: Course, would: Course) -> None:
        """The last plan is served for a tick, as far as anyone knows."""
        if self._last is not None:
            self._serve(was, would, self.tick_s)

    def _serve(self, was: Course, would: Course, for_s: float) -> None:
        assert self._last is not None
        tick, plan = self._last
        was.serve(tick.plan, for_s, self._served[0])
        would.serve(plan, for_s, self._served[1])
        self._served = tick.plan, plan
