"""Arrivals follow their phases, are as bursty as asked, and keep their draws."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.arrivals import (
    LONGEST_S,
    Phase,
    constant,
    gamma,
    negative_binomial,
    poisson,
    sent_at,
)
from simulations.rates import FloatArray
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


PROCESSES: dict[str, Callable[[list[Phase], int], FloatArray]] = {
    "constant": lambda phases, _: constant(phases),
    "poisson": poisson,
    "gamma 0.5": lambda phases, seed: gamma(phases, 0.5, seed),
    "gamma 3": lambda phases, seed: gamma(phases, 3, seed),
    "negative binomial": lambda phases, seed: negative_binomial(phases, 4, seed),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@every_process
@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 5)), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_every_process_is_in_order_in_time_and_the_same_for_a_seed(
    process: Callable[[list[Phase], int], FloatArray], steps: list[tuple[float, float]], seed: int
) -> None:
    phases = [Phase(duration_s, rate_rps) for duration_s, rate_rps in steps]
    arrivals_s = process(phases, seed)
    assert (np.diff(arrivals_s) >= 0).all()
    assert (arrivals_s >= 0).all()
    assert (arrivals_s <= sum(phase.duration_s for phase in phases) + 1e-9).all()
    assert (arrivals_s == process(phases, seed)).all()


@every_process
def test_every_process_has_the_rate_of_each_phase(
    process: Callable[[list[Phase], int], FloatArray],
) -> None:
    # Even counts that vary nine times as much as Poisson's are 600 off at five deviations.
    phases = [Phase(1000, 8), Phase(500, 0), Phase(1000, 16)]
    counts, _ = np.histogram(process(phases, 1), [0, 1000, 1500, 2500])
    assert abs(counts[0] - 8000) < 15 * 8000**0.5
    assert counts[1] == 0
    assert abs(counts[2] - 16000) < 15 * 16000**0.5


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert constant([Phase(1, 4), Phase(2, 1)]).tolist() == [0, 0.25, 0.5, 0.75, 1, 2]
    assert len(constant([Phase(0.1, 3)] * 10)) == 3


@pytest.mark.parametrize("cv", [0.2, 1, 4])
def test_gamma_gaps_have_the_coefficient_of_variation(cv: float) -> None:
    gaps_s = np.diff(gamma([Phase(20_000, 5)], cv, seed=1))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.05)


def test_bursty_gamma_begins_at_its_rate() -> None:
    # Without a first gap of its own, each of these would have 12 requests too many of 40.
    counts = [len(gamma([Phase(10, 4)], 5, seed)) for seed in range(400)]
    # Deviations of about 32 each: five of the mean's are 8.
    assert abs(np.mean(counts) - 40) < 8


@pytest.mark.parametrize("dispersion", [1.5, 4, 20])
def test_counts_per_second_have_the_dispersion(dispersion: float) -> None:
    arrivals_s = negative_binomial([Phase(20_000, 5)], dispersion, seed=1)
    counts, _ = np.histogram(arrivals_s, np.arange(20_001))
    assert counts.mean() == pytest.approx(5, rel=0.05)
    assert counts.var() / counts.mean() == pytest.approx(dispersion, rel=0.1)


@pytest.mark.parametrize("cv", [0, -1, 1e-200, 101, float("nan")])
def test_an_impossible_cv_is_refused(cv: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number from 0\.001 to 100"):
        gamma([Phase(1, 1)], cv, seed=0)


@pytest.mark.parametrize("dispersion", [1, 0, 1001, float("inf"), float("nan")])
def test_an_impossible_dispersion_is_refused(dispersion: float) -> None:
    with pytest.raises(ValueError, match="above 1, which is Poisson, and at most 1000"):
        negative_binomial([Phase(1, 1)], dispersion, seed=0)


def test_more_than_fits_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1e\+09 requests: expected at most 10,000,000"):
        constant([Phase(1000, 1e6)])
    with pytest.raises(ValueError, match=r"2e\+07 s: expected at most 10,000,000 s"):
        negative_binomial([Phase(2 * LONGEST_S, 1e-9)], 2, seed=0)


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
