"""A schedule becomes work by window, and rungs get the rates that were measured."""

from pathlib import Path

import pytest

from benchmarks.fluids import Rungs, fluids_of
from commands.stage import Capacity, Material
from simulations.traces import Request
from tests.fakes import profile, slo_policy

REQUESTS = (Request(0.1, 100, 10), Request(0.2, 100, 10), Request(1.4, 100, 10))


def material(floor: int = 1, ceiling: int = 8) -> Material:
    experts = {"floor": floor, "ceiling": ceiling}
    return Material(slo_policy(experts=experts), Path("profile.json"), profile(), REQUESTS, 1.0)


def test_the_ends_are_as_measured_and_the_profile_says_what_lies_between() -> None:
    rungs = Rungs.measured(material(), Capacity(full_rps=10.0, floor_rps=20.0))
    # A request takes 22, 33, 55 and 99 ms by the profile, and 50 to 100 ms as measured.
    request_s = [0.05 + 0.05 * (each - 22) / 77 for each in (22, 33, 55, 99)]
    assert 1 / rungs.rates_C == pytest.approx(request_s)
    assert rungs.qualities_C.tolist() == [0.6, 0.8, 0.9, 1.0]


def test_rungs_beyond_the_bounds_are_left_out() -> None:
    rungs = Rungs.measured(material(floor=2, ceiling=4), Capacity(10.0, 20.0))
    assert [rung.mean_k for rung in rungs.rungs] == [2, 4]
    assert rungs.rates_C == pytest.approx([20.0, 10.0])


def test_work_is_requests_by_half_second_and_due_at_the_first_or_the_last_token() -> None:
    rungs = Rungs.measured(material(), Capacity(10.0, 20.0))
    fluids = fluids_of(REQUESTS, rungs, slo_policy().slo)
    assert fluids["first_token"].arrivals_T.tolist() == [2, 0, 1]
    assert fluids["first_token"].deadline_s == 1.0
    assert fluids["last_token"].deadline_s == pytest.approx(1.0 + 0.1 * 9)


def test_the_best_constant_is_a_k_that_a_policy_can_hold() -> None:
    rungs = Rungs.measured(material(), Capacity(full_rps=10.0, floor_rps=20.0))
    calm = tuple(Request(0.5 * number, 100, 10) for number in range(20))
    assert rungs.best_constant(fluids_of(calm, rungs, slo_policy().slo)) == 8
    # Fifteen a second for ten seconds: k' 2 has 17.5, k' 4 has 14, and falls 0.7 s behind.
    busy = tuple(Request(number / 15, 100, 10) for number in range(150))
    assert rungs.best_constant(fluids_of(busy, rungs, slo_policy().slo)) == 4
    fractional = Rungs(
        [rung.model_copy(update={"mean_k": rung.mean_k + 0.5}) for rung in rungs.rungs[:-1]]
        + [rungs.rungs[-1]],
        rungs.rates_C,
    )
    assert fractional.best_constant(fluids_of(busy, fractional, slo_policy().slo)) == 8


def test_a_floor_that_was_measured_slower_is_refused() -> None:
    with pytest.raises(ValueError, match="not the same order"):
        Rungs.measured(material(), Capacity(full_rps=20.0, floor_rps=10.0))
