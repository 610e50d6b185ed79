"""Runs a scenario under its arms, each seed of each on its own, in several processes if wanted.

Takes a scenario and the names of arms; gives a study. What comes out does not depend on the number
of processes. Arms whose SLO policies are equal are run once.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import prod
from multiprocessing import get_context
from typing import Any

import numpy as np

from controller.config import SloPolicy
from controller.levels import ladder_of
from simulations.arms import BEST_STATIC, ORACLE, STATIC_FULL, simulated_arms, static_arms
from simulations.bound import bound
from simulations.degradation import Made, Met, made_by
from simulations.faults import Slowdown
from simulations.results import summarise
from simulations.simulate import Outcome, simulate
from simulations.study import ArmRun, Scenario, Study
from simulations.timeline import switches_per_min

OnDone = Callable[[str, ArmRun], None]
OnStep = Callable[[int, int], None]

# Of a worker process, for its whole life.
SCENARIO: ContextVar[Scenario] = ContextVar("scenario")


@dataclass(frozen=True, slots=True)
class Group:
    """Arms that are one and the same run."""

    slo_policy: SloPolicy | None  # None: the oracle
    constant: str | None = None  # the static arm that it is
    asked: list[str] = field(default_factory=list)  # none: it is run for the others' sake


@dataclass(frozen=True, slots=True)
class Task:
    slo_policy: SloPolicy | None
    seed: int
    keeps_outcome: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Of a task. The oracle's is figures alone."""

    figures: Mapping[str, Any]
    made: Made | None = None
    met: Met | None = None
    outcome: Outcome | None = None


def run(
    scenario: Scenario,
    arms: Sequence[str],
    processes: int = 1,
    *,
    on_done: OnDone | None = None,
    on_step: OnStep | None = None,
    every_outcome: bool = False,
) -> Study:
    """Every arm under every seed; full k' always, since over-degradation is held against it.

    `on_done` sees each run of the arms asked for before its outcome is dropped: that of the first
    seed is there, or of every one. `on_step` is told how many runs are over, and of how many. For
    `best-static` every rung is run; without it, the best is that of the constants that did run.
    """
    groups, seeds = _groups(scenario, arms), list(scenario.schedules)
    tasks = [
        Task(group.slo_policy, seed, every_outcome or seed == seeds[0])
        for group in groups
        for seed in seeds
    ]
    results = _counted(_results(scenario, tasks, processes), len(tasks), on_step)
    runs: dict[str, list[ArmRun]] = {}

    def close(arm: str, own: Sequence[ArmRun]) -> None:
        for each in own:
            if on_done:
                on_done(arm, each)
        runs[arm] = [own[0], *(replace(each, outcome=None) for each in own[1:])]

    met: list[Met | None] = []  # at full k', which is the first group
    best_rank, best_static, best_runs = (-1.0, 0.0), "", list[ArmRun]()
    for group in groups:
        own_results = list(islice(results, len(seeds)))
        met = met or [result.met for result in own_results]
        own = [_arm_run(*each) for each in zip(seeds, own_results, met, strict=True)]
        for arm in group.asked:
            close(arm, own)
        if group.constant and (rank := _rank(group, own)) >= best_rank:
            best_rank, best_static, best_runs = rank, group.constant, own
    if BEST_STATIC in arms:
        close(BEST_STATIC, best_runs)
    return Study(scenario, {arm: runs[arm] for arm in arms}, best_static)


def _groups(scenario: Scenario, arms: Sequence[str]) -> list[Group]:
    statics = static_arms(scenario.slo_policy, scenario.profile)
    simulated = simulated_arms(scenario.slo_policy, scenario.profile)
    groups: list[Group] = []
    for arm in (STATIC_FULL, *(statics if BEST_STATIC in arms else ()), *arms):
        if arm not in simulated:
            continue
        slo_policy = simulated[arm]
        group = next((each for each in groups if each.slo_policy == slo_policy), None)
        if group is None:
            constants = (name for name, each in statics.items() if each == slo_policy)
            group = Group(slo_policy, next(constants, None))
            groups.append(group)
        if arm in arms and arm not in group.asked:
            group.asked.append(arm)
    return [*groups, Group(None, asked=[ORACLE])] if ORACLE in arms else groups


def _rank(group: Group, runs: Sequence[ArmRun]) -> tuple[float, float]:
    """By effective quality; of equals the higher k'."""
    assert group.slo_policy and group.slo_policy.policy.k
    worth = float(np.mean([run.figures["effective_quality"] for run in runs]))
    return worth, group.slo_policy.policy.k


def _arm_run(seed: int, result: Result, met: Met | None) -> ArmRun:
    over = result.made.over_degraded(met) if result.made and met else None
    return ArmRun(seed, {**result.figures, "over_degradation": over}, result.outcome)


def _counted(results: Iterator[Result], num_tasks: int, on_step: OnStep | None) -> Iterator[Result]:
    for done, result in enumerate(results, 1):
        if on_step:
            on_step(done, num_tasks)
        yield result


def _results(scenario: Scenario, tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """In the order of the tasks."""
    processes = min(processes, len(tasks))
    if processes < 2:
        yield from (_result(scenario, task) for task in tasks)
        return
    # Spawned: a fork would take the threads of a progress bar for its own.
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (scenario,)) as pool:
        try:
            yield from pool.map(_result_here, tasks)
        finally:  # of an interrupted study no further run begins
            pool.shutdown(cancel_futures=True)


def _begin(scenario: Scenario) -> None:
    """Once for a worker: the profile and the schedules are not sent with every task."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback of its own
    SCENARIO.set(scenario)


def _result_here(task: Task) -> Result:
    return _result(SCENARIO.get(), task)


def _result(scenario: Scenario, task: Task) -> Result:
    slo_policy, profile = task.slo_policy, scenario.profile
    requests = scenario.schedules[task.seed]
    if slo_policy is None:
        return Result(_oracle(scenario, task.seed))
    outcome = simulate(requests, slo_policy, profile, scenario.settings, task.seed)
    slo_classes, experts = slo_policy.slo_classes, slo_policy.experts
    full_k = profile.within(experts.floor, experts.ceiling)[-1].mean_k  # of static-full
    figures = {
        **summarise(outcome.records, slo_classes, profile.full_k),
        "switches_per_min": switches_per_min(outcome.ticks),
    }
    return Result(
        figures,
        made_by(outcome.records, outcome.ticks, full_k),
        Met.of(outcome.records, slo_classes),
        outcome if task.keeps_outcome else None,
    )


def _oracle(scenario: Scenario, seed: int) -> dict[str, Any]:
    """What a bound can say of the fields of an arm; the others are None."""
    settings = scenario.settings
    requests, profile = scenario.schedules[seed], scenario.profile
    actual = profile.model_copy(update={"step_time": profile.step_time.corrected(settings.actual)})
    faults = [each for each in settings.faults if isinstance(each, Slowdown)]
    fastest = prod(min(1.0, each.factor) for each in faults)
    crowded = 1 + settings.contention * (settings.bounds[1] - 1)
    found = bound(
        requests,
        scenario.slo_policy.slo_classes,
        actual,
        ladder_of(scenario.slo_policy, profile),
        settings.bounds[1] / fastest,
        settings.cache_tokens,
        crowded * prod(max(1.0, each.factor) for each in faults),
    )
    unknown = dict.fromkeys([*summarise([], {}), "switches_per_min"])
    return {**unknown, **asdict(found), "offered": len(requests), "classes": {}}
