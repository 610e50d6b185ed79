"""A whole study of small loads: every arm runs, and the number of processes changes nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controller.signals import Correction
from simulations.arms import arm_names, simulated_arms
from simulations.faults import Slowdown
from simulations.runner import run
from simulations.settings import Settings
from simulations.study import ArmRun, Scenario, Study
from simulations.traces import Request
from tests.fakes import profile, slo_policy
from tests.simulations.cluster_fakes import profile_with


def burst(seed: int) -> tuple[Request, ...]:
    """12 s, of which 4 s ask for more than full k' has on one replica."""
    rng = np.random.default_rng(seed)
    arrivals_s = np.concatenate([rng.uniform(0, 12, 60), rng.uniform(4, 8, 60)])
    return tuple(Request(float(at_s), 100, 5) for at_s in np.sort(arrivals_s))


def scenario(**changes: object) -> Scenario:
    small = Scenario(
        name="burst",
        load=None,
        schedules={seed: burst(seed) for seed in (3, 4)},
        slo_policy=slo_policy(),
        profile=profile_with(noise=0.05),
        settings=Settings(replicas=1),
    )
    return replace(small, **changes)  # type: ignore[arg-type]


ALL = arm_names(simulated_arms(slo_policy(), profile()))


@pytest.fixture(scope="module")
def study() -> Study:
    return run(scenario(), ALL)


def worths(runs: list[ArmRun]) -> list[float]:
    return [each.figures["effective_quality"] for each in runs]


def mean_worth(study: Study, arm: str) -> float:
    return sum(worths(list(study.runs[arm]))) / 2


def test_every_arm_has_a_run_of_every_seed_in_the_order_asked_for(study: Study) -> None:
    assert list(study.runs) == ALL
    assert all([each.seed for each in runs] == [3, 4] for runs in study.runs.values())


def test_every_arm_was_offered_the_same_requests(study: Study) -> None:
    assert {each.figures["offered"] for runs in study.runs.values() for each in runs} == {120}


# Tests that stop a local Ray stop all children of this process: multiprocessing's tracker too.
@pytest.mark.filterwarnings("ignore:resource_tracker. process died unexpectedly")
def test_two_processes_come_to_the_same(study: Study) -> None:
    arms = ["static-full", "best-static", "predictive", "oracle"]
    assert dict(run(scenario(), arms, processes=2).runs) == {arm: study.runs[arm] for arm in arms}


def test_a_constant_never_leaves_its_rung(study: Study) -> None:
    for each in study.runs["static-8"]:
        assert each.figures["mean_k"] == pytest.approx(8)
        assert each.figures["switches_per_min"] == 0


def test_the_best_constant_is_the_one_of_the_highest_effective_quality(study: Study) -> None:
    constants = [f"static-{k}" for k in (1, 2, 4, 8)]
    best = max(constants, key=lambda arm: mean_worth(study, arm))
    assert study.best_static == best
    assert study.runs["best-static"] == study.runs[best]


def test_the_best_constant_does_not_depend_on_which_others_are_shown(study: Study) -> None:
    alone = run(scenario(), ["best-static"])
    assert list(alone.runs) == ["best-static"]
    assert (alone.best_static, alone.runs["best-static"]) == (
        study.best_static,
        study.runs["best-static"],
    )


def test_no_arm_is_above_the_oracle_in_any_seed(study: Study) -> None:
    most = worths(list(study.runs["oracle"]))
    for arm, runs in study.runs.items():
        for each, bound in zip(worths(list(runs)), most, strict=True):
            assert each <= bound + 1e-9, arm


def test_the_oracle_says_only_what_a_bound_knows(study: Study) -> None:
    figures, others = study.runs["oracle"][0].figures, study.runs["predictive"][0].figures
    assert figures.keys() >= others.keys()
    known = {name for name, value in figures.items() if value is not None}
    assert known == {
        "offered",
        "attainment",
        "served_quality",
        "effective_quality",
        "mean_k",
        "classes",
        "window_s",
    }


def test_full_k_is_never_over_degraded_and_the_lowest_is_where_full_k_would_do(
    study: Study,
) -> None:
    assert [each.figures["over_degradation"] for each in study.runs["static-full"]] == [0, 0]
    low = study.runs["static-1"][0].figures["over_degradation"]
    assert 0.1 < low < 0.9  # all of it but the burst, which full k' does not stand
    calm = {3: tuple(Request(0.5 * n, 100, 5) for n in range(20))}
    quiet = run(scenario(schedules=calm), ["static-1", "predictive"])
    assert quiet.runs["static-1"][0].figures["over_degradation"] > 0.95  # the first are at 8
    assert quiet.runs["predictive"][0].figures["over_degradation"] == 0


def test_arms_that_are_the_same_are_run_once() -> None:
    steps: list[tuple[int, int]] = []
    run(
        scenario(),
        ["static-8", "static-full", "admission-only"],
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 2), (2, 2)]


def test_full_k_is_run_for_the_sake_of_over_degradation() -> None:
    steps: list[tuple[int, int]] = []
    alone = run(scenario(), ["lp"], on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (4, 4)
    assert list(alone.runs) == ["lp"]
    assert all(each.figures["over_degradation"] is not None for each in alone.runs["lp"])


def test_only_the_first_seed_keeps_its_outcome(study: Study) -> None:
    for arm, (first, second) in study.runs.items():
        assert (first.outcome is None) == (arm == "oracle")
        assert second.outcome is None


@pytest.mark.parametrize("every_outcome", [False, True])
def test_each_run_is_seen_before_its_outcome_goes(every_outcome: bool) -> None:
    seen = []
    run(
        scenario(),
        ["predictive", "best-static", "oracle"],
        on_done=lambda arm, each: seen.append((arm, each.seed, each.outcome is not None)),
        every_outcome=every_outcome,
    )
    assert sorted(seen) == [
        ("best-static", 3, True),
        ("best-static", 4, every_outcome),
        ("oracle", 3, False),
        ("oracle", 4, False),
        ("predictive", 3, True),
        ("predictive", 4, every_outcome),
    ]


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"faults": (Slowdown(0.5),)}, True),
        ({"faults": (Slowdown(2.0),)}, False),  # as a lost replica: it may be over soon
        ({"actual": Correction(0.5, 0.5, 0.5)}, True),
        ({"min_replicas": 1, "max_replicas": 2}, True),
    ],
)
def test_the_oracle_has_what_the_machine_could_do_at_best(
    changes: dict[str, Any], matters: bool
) -> None:
    loaded = {3: tuple(sorted(burst(3) * 4, key=lambda each: each.arrival_s))}
    worth = []
    for each in (Settings(replicas=1), Settings(replicas=1, **changes)):
        (run_of,) = run(scenario(schedules=loaded, settings=each), ["oracle"]).runs["oracle"]
        worth.append(run_of.figures["effective_quality"])
    assert (worth[1] > worth[0]) == matters
    assert worth[1] >= worth[0]
