"""Rates are the profile's, or bent through two measured ends."""

import pytest

from simulations.rates import anchored, full_rate, rung_rates
from tests.fakes import phased_profile, profile

# 100 and 10 tokens fill 1.1 steps of 100, which take 20, 30, 50 and 90 ms at k' 1, 2, 4 and 8.
REQUEST_S = (0.022, 0.033, 0.055, 0.099)


def test_a_rung_completes_what_its_requests_leave_time_for() -> None:
    assert rung_rates(profile(), 100, 10, replicas=1) == pytest.approx([1 / s for s in REQUEST_S])


def test_replicas_multiply() -> None:
    assert rung_rates(profile(), 100, 10, replicas=3) == pytest.approx([3 / s for s in REQUEST_S])


def test_the_full_rung_is_the_last_of_this_profile() -> None:
    assert full_rate(profile(), 100, 10, replicas=2) == pytest.approx(2 / REQUEST_S[3])


def test_lower_prompts_leave_time_for_more() -> None:
    full_s = 1.1 * (0.010 + 100 * 0.0001 * (100 * 2 + 10 * 8) / 110)
    rates_C = rung_rates(phased_profile(), 100, 10, 1, prefill_ceiling=2)
    assert rates_C == pytest.approx([1 / REQUEST_S[0], 1 / REQUEST_S[1], rates_C[2], 1 / full_s])
    assert full_rate(phased_profile(), 100, 10, 1, prefill_ceiling=2) == rates_C[3]


def test_anchored_rates_have_what_was_measured_at_both_ends() -> None:
    rates_C = rung_rates(profile(), 100, 10, replicas=1)
    assert anchored(rates_C, 0, 3, (rates_C[0], rates_C[3])) == pytest.approx(rates_C)
    # 33 of 77 ms lie between k' 1 and 4: 33/77 of the way from 50 to 100 ms.
    low, _, between, high = anchored(rates_C, 0, 3, (20.0, 10.0))
    assert (low, high) == pytest.approx((20.0, 10.0))
    assert between == pytest.approx(1 / (0.05 + 0.05 * 33 / 77))


def test_measured_ends_the_wrong_way_round_are_refused() -> None:
    rates_C = rung_rates(profile(), 100, 10, replicas=1)
    with pytest.raises(ValueError, match="measured 10 and 20 requests/s where the profile has"):
        anchored(rates_C, 0, 3, (10.0, 20.0))
