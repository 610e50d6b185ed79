"""The arms of `kprime simulate`: their names, and that they differ in who chooses k' alone."""

from typing import get_args

import pytest

from controller.config import PolicyName
from controller.levels import served_levels
from simulations.arms import arm_names, parse_arms, simulated_arms, static_arms
from tests.fakes import profile, rung_data, slo_policy
from tests.simulations.cluster_fakes import profile_with

LAYERS_DIFFER = rung_data(6, 0.98) | {"plan": [5, 6, 8, 8], "mean_k": 6.75}
UNEVEN = profile_with(
    rungs=[*(rung_data(k, k / 8) for k in (1, 2, 4)), LAYERS_DIFFER, rung_data(8, 1.0)]
)


def test_every_rung_has_a_constant_named_by_its_mean_k() -> None:
    statics = static_arms(slo_policy(), UNEVEN)
    assert list(statics) == ["static-1", "static-2", "static-4", "static-6.75", "static-8"]


def test_a_constant_serves_its_own_rung_also_where_layers_differ() -> None:
    statics = static_arms(slo_policy(), UNEVEN)
    plans = [served_levels(each, UNEVEN)[0].plan(1).k for each in statics.values()]
    assert plans == [rung.plan for rung in UNEVEN.rungs]
    assert [len(served_levels(each, UNEVEN)) for each in statics.values()] == [1] * 5


def test_only_rungs_within_the_bounds_are_arms_and_the_highest_of_them_is_full() -> None:
    bounded = slo_policy(experts={"floor": 2, "ceiling": 7})
    assert list(static_arms(bounded, UNEVEN)) == ["static-2", "static-4", "static-6.75"]
    arms = simulated_arms(bounded, UNEVEN)
    assert arms["static-full"] == arms["static-6.75"]


def test_bounds_without_a_rung_are_refused() -> None:
    with pytest.raises(ValueError, match="no rung between floor 5 and ceiling 7"):
        simulated_arms(slo_policy(experts={"floor": 5, "ceiling": 7}), profile())


def test_every_policy_that_moves_is_an_arm_of_its_name() -> None:
    arms = simulated_arms(slo_policy(), profile())
    movers = {name for name in get_args(PolicyName) if name != "fixed"}
    assert movers == {name for name, each in arms.items() if each.policy.name == name}


@pytest.mark.parametrize("mode", ["act", "dry-run"])
def test_arms_differ_in_who_chooses_k_alone_and_all_act(mode: str) -> None:
    given = slo_policy(mode=mode, admission={"max_waiting": 7}, guard={"dwell_s": 3.0})
    acting = given.model_dump(exclude={"policy"}) | {"mode": "act"}
    for each in simulated_arms(given, profile()).values():
        assert each.model_dump(exclude={"policy"}) == acting


def test_admission_alone_refuses_what_is_late_whatever_the_file_says() -> None:
    patient = {"ttft_s": 1.0, "tpot_s": 0.1, "late": "serve"}
    given = slo_policy(admission={"late": "serve"}, classes={"batch": patient})
    arms = simulated_arms(given, profile())
    assert arms["admission-only"].policy == arms["static-full"].policy
    assert arms["admission-only"].admission.late == "refuse"
    assert arms["admission-only"].classes["batch"].late == "refuse"
    assert arms["static-full"].admission.late == "serve"


ACCEPTED = arm_names(simulated_arms(slo_policy(), profile()))


def test_all_is_every_arm() -> None:
    assert parse_arms("all", ACCEPTED) == [
        "static-1",
        "static-2",
        "static-4",
        "static-8",
        "static-full",
        "best-static",
        "ladder",
        "aimd",
        "gradient",
        "pid",
        "slackfit",
        "lp",
        "predictive",
        "admission-only",
        "oracle",
    ]


def test_arms_are_taken_in_the_order_asked_for() -> None:
    assert parse_arms("oracle, lp,static-2", ACCEPTED) == ["oracle", "lp", "static-2"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("static-7", "'static-7' is no arm"),
        ("lp,", "'' is no arm"),
        ("lp,pid,lp", "'lp' is given twice"),
        ("all,lp", "'all' is no arm"),
    ],
)
def test_what_is_no_arm_or_twice_there_is_refused_with_what_is_accepted(
    text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=f"{why}: expected all, or, each once, some of static-1, "):
        parse_arms(text, ACCEPTED)
