"""Which mix of rungs serves which demand.

At k' 1, 2, 4 and 8 a request of 100 prompt and 100 output tokens takes 40, 60, 100 and 180 ms of
the engine, with a quality of 0.6, 0.8, 0.9 and 1. Demand is planned for with 5 % more.
"""

import json

import pytest

from controller.profiles import Profile
from controller.signals import Budget, Correction, Load
from policies.goals import Goals
from policies.lp import Lp
from tests.fakes import load, profile, profile_data, slo_policy


def lp(*, floor: float = 1, ceiling: float = 8) -> Lp:
    return Lp(profile(), Goals(ttft_s=1.0, tpot_s=0.1, floor=floor, ceiling=ceiling))


def choice(**changes: object) -> float:
    return lp().decide(load(**changes)).mean_k


def planned(rps: float) -> float:
    """The demand that is planned for as so many requests a second."""
    return rps / 1.05


def test_a_demand_between_two_rungs_is_served_by_both() -> None:
    # 8 a second leave 125 ms each: w = (125 - 100) / (180 - 100) = 5/16 at k' 8, the rest at 4.
    assert lp().decide(load(arrival_rps=planned(8))) == Budget(
        pytest.approx(5.25), "31 % at k' 8, else 4: 7.62 requests/s and 5 %, quality 0.931"
    )
    # 15 a second leave 66.7 ms: w = (66.7 - 60) / (100 - 60) = 1/6 at k' 4, the rest at 2.
    assert choice(arrival_rps=planned(15)) == pytest.approx(2 + 2 / 6)
    # 20 a second leave 50 ms: half at k' 2 and half at 1.
    assert choice(arrival_rps=planned(20)) == pytest.approx(1.5)


def test_a_demand_below_the_best_rungs_capacity_is_served_by_it_alone() -> None:
    assert lp().decide(load(arrival_rps=5.0)) == Budget(
        8, "all at k' 8: 5.00 requests/s and 5 %, quality 1.000"
    )
    assert choice(arrival_rps=0.0) == 8


def test_a_demand_beyond_the_cheapest_rungs_capacity_is_overload() -> None:
    assert lp().decide(load(arrival_rps=40.0)) == Budget(
        1, "overload: 40.00 requests/s and 5 %, capacity 25.00/s at k' 1"
    )


def test_a_rung_below_the_hull_has_no_part_in_the_mix() -> None:
    data = profile_data()
    data["rungs"][2]["quality"] = 0.82  # k' 4; half-way from 2 to 8 quality is 0.9
    policy = Lp(
        Profile.model_validate_json(json.dumps(data)),
        Goals(ttft_s=1.0, tpot_s=0.1, floor=1, ceiling=8),
    )
    # w = (125 - 60) / (180 - 60) = 13/24 at k' 8, quality 0.8 + 0.2 * 13/24
    reason = policy.decide(load(arrival_rps=planned(8))).reason
    assert reason.startswith("54 % at k' 8, else 2:") and reason.endswith("quality 0.908")


def test_replicas_share_the_demand() -> None:
    assert choice(arrival_rps=planned(24), replicas=3) == pytest.approx(5.25)


def test_the_higher_of_the_fast_and_the_sustained_rate_is_the_demand() -> None:
    assert choice(arrival_rps=planned(8), arrival_rps_sustained=1.0) == pytest.approx(5.25)
    assert choice(arrival_rps=1.0, arrival_rps_sustained=planned(8)) == pytest.approx(5.25)
    assert choice(arrival_rps=planned(8), arrival_rps_sustained=None) == pytest.approx(5.25)


def test_it_goes_by_the_corrected_profile() -> None:
    twice = Correction(base=2.0, experts=2.0, rest=2.0)
    assert choice(arrival_rps=planned(4), correction=twice) == pytest.approx(5.25)


def test_the_queue_counts_for_nothing_as_in_the_original() -> None:
    assert choice(arrival_rps=1.0, worst_waiting_tokens=10**6, oldest_wait_s=60.0) == 8


@pytest.mark.parametrize(
    "unknown",
    [
        load(mean_k=2.0, replicas=0),
        load(mean_k=2.0, arrival_rps=None),
        load(mean_k=2.0, prompt_tokens=None),
        load(mean_k=2.0, output_tokens=None),
    ],
)
def test_an_unknown_load_holds(unknown: Load) -> None:
    assert lp().decide(unknown) == Budget(2.0, "load unknown: hold at 2")


def test_only_rungs_between_floor_and_ceiling_are_mixed() -> None:
    narrow = lp(floor=2, ceiling=5)
    assert narrow.decide(load()).mean_k == 4
    assert narrow.decide(load(arrival_rps=40.0)).mean_k == 2


def test_bounds_come_from_the_slo_policy() -> None:
    chosen = slo_policy(experts={"floor": 2, "ceiling": 4})
    policy = Lp(profile(), Goals.of(chosen))
    assert policy.decide(load()).mean_k == 4
    assert policy.decide(load(arrival_rps=40.0)).mean_k == 2
