"""Poisson arrivals follow their phases, and keep their draws when a rate changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.arrivals import Phase, poisson, sent_at
from simulations.traces import Request

STEP = (Phase(1000, 2), Phase(1000, 4), Phase(1000, 0))


def test_each_phase_has_its_rate() -> None:
    arrivals_s = poisson(STEP, seed=1)
    counts, _ = np.histogram(arrivals_s, [0, 1000, 2000, 3000])
    # 2000 and 4000 expected: five standard deviations are 224 and 316.
    assert abs(counts[0] - 2000) < 224
    assert abs(counts[1] - 4000) < 316
    assert counts[2] == 0


def test_gaps_are_exponential() -> None:
    gaps_s = np.diff(poisson([Phase(10_000, 1)], seed=2))
    # As spread out as they are long, which equal or clustered gaps are not.
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, abs=0.05)


def test_twice_the_rate_is_the_same_arrivals_in_half_the_time() -> None:
    slow, fast = poisson([Phase(100, 1)], seed=3), poisson([Phase(50, 2)], seed=3)
    assert fast == pytest.approx(slow / 2)


def test_another_seed_is_another_draw() -> None:
    assert poisson(STEP, seed=1)[0] != poisson(STEP, seed=2)[0]


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 5)), min_size=1, max_size=5))
def test_arrivals_are_in_order_and_in_time(steps: list[tuple[float, float]]) -> None:
    phases = [Phase(duration_s, rate_rps) for duration_s, rate_rps in steps]
    arrivals_s = poisson(phases, seed=0)
    assert (np.diff(arrivals_s) >= 0).all()
    if len(arrivals_s):
        assert arrivals_s[0] >= 0
        assert arrivals_s[-1] <= sum(phase.duration_s for phase in phases) + 1e-9


def test_lengths_keep_their_order_and_begin_again() -> None:
    requests = (Request(7.0, 10, 1, "gold"), Request(9.0, 20, 2))
    assert sent_at(requests, np.array([0.5, 1.5, 2.5])) == (
        Request(0.5, 10, 1, "gold"),
        Request(1.5, 20, 2),
        Request(2.5, 10, 1, "gold"),
    )


@pytest.mark.parametrize(("duration_s", "rate_rps"), [(0, 1), (-1, 1), (1, -1), (1, float("nan"))])
def test_an_impossible_phase_is_refused(duration_s: float, rate_rps: float) -> None:
    with pytest.raises(ValueError, match="expected a rate from 0 and a duration above 0"):
        Phase(duration_s, rate_rps)
