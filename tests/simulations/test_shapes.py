"""Each shape has the rates, the duration and the mean that its name says."""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pytest

from simulations.arrivals import Phase
from simulations.rate_windows import RateWindows
from simulations.shapes import Phases, day, ramp, sine, spike, steady, step

HOURS = RateWindows("made-up", 600.0, np.array([100.0, 300.0, 200.0, 0.0]))


def span_s(phases: Phases) -> float:
    return sum(phase.duration_s for phase in phases)


def mean_rps(phases: Phases) -> float:
    return sum(phase.duration_s * phase.rate_rps for phase in phases) / span_s(phases)


def rate_at(phases: Phases, at_s: float) -> float:
    ends_s = list(accumulate(phase.duration_s for phase in phases))
    return next(phase.rate_rps for phase, end_s in zip(phases, ends_s, strict=True) if at_s < end_s)


def test_steady_is_one_phase() -> None:
    assert steady(3, 60) == (Phase(60, 3),)


def test_a_step_goes_there_and_back_at_once() -> None:
    assert step(4, 8, 40, 60, 30) == (Phase(40, 4), Phase(60, 8), Phase(30, 4))
    assert step(4, 8, 0, 60, 0) == (Phase(60, 8),)


def test_a_ramp_rises_evenly_and_stays() -> None:
    phases = ramp(2, 6, 10, 20, 10)
    assert span_s(phases) == pytest.approx(40)
    assert mean_rps(phases) == pytest.approx((2 * 10 + 4 * 20 + 6 * 10) / 40)
    rates = [rate_at(phases, at_s) for at_s in (5, 15, 20, 25, 35)]
    assert rates == pytest.approx([2, 3, 4, 5, 6], abs=0.03)


def test_a_spike_is_at_its_peak_in_its_middle() -> None:
    phases = spike(2, 6, 10, 20, 10)
    assert span_s(phases) == pytest.approx(40)
    assert mean_rps(phases) == pytest.approx(3)
    rates = [rate_at(phases, at_s) for at_s in (5, 15, 19.99, 25, 35)]
    assert rates == pytest.approx([2, 4, 6, 4, 2], abs=0.05)


def test_a_sine_swings_once_a_period() -> None:
    phases = sine(2, 6, 40, 100)
    assert span_s(phases) == pytest.approx(100)
    rates = [rate_at(phases, at_s) for at_s in (0, 10, 20, 30, 40, 60)]
    assert rates == pytest.approx([2, 4, 6, 4, 2, 6], abs=0.2)
    assert mean_rps(sine(2, 6, 40, 80)) == pytest.approx(4)


def test_a_day_keeps_its_shape_at_another_rate_and_speed() -> None:
    phases = day(HOURS, rate_rps=4, start_s=0, duration_s=20, speed=90)
    assert [phase.duration_s for phase in phases] == pytest.approx([600 / 90] * 3)
    assert [phase.rate_rps for phase in phases] == pytest.approx([2, 6, 4])
    assert mean_rps(phases) == pytest.approx(4)


def test_a_day_may_begin_and_end_inside_a_window() -> None:
    phases = day(HOURS, rate_rps=1, start_s=300, duration_s=600, speed=1)
    assert [phase.duration_s for phase in phases] == [300, 300]
    assert [phase.rate_rps for phase in phases] == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step(1, 2, -1, 5, 5), "duration above 0"),
        (lambda: step(-1, 2, 1, 5, 5), "a rate from 0"),
        (lambda: ramp(1, 2, 1, 0, 5), "duration above 0"),
        (lambda: sine(1, 2, 0, 5), "expected both above 0 and at most 10,000 periods"),
        (lambda: sine(1, 2, 1e-4, 5), "expected both above 0 and at most 10,000 periods"),
        (lambda: sine(1, 2, 1, 0), "expected both above 0"),
        (lambda: day(HOURS, 1, 0, 2401, 1), "end at 2401 s; the rates of made-up end at 2400 s"),
        (lambda: day(HOURS, 1, 1800, 600, 1), "made-up has no requests from 1800 s to 2400 s"),
        (lambda: day(HOURS, 1, -1, 600, 1), "expected a start from 0, the others above 0"),
        (lambda: day(HOURS, 1, 0, 0, 1), "expected a start from 0, the others above 0"),
        (lambda: day(HOURS, 1, 0, 600, 0), "expected a start from 0, the others above 0"),
    ],
)
def test_an_impossible_shape_is_refused(make: Callable[[], Phases], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
