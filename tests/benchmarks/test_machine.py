"""The simulated machine is one on which a controller finds what the live one has found."""

from dataclasses import astuple

import pytest

from benchmarks.machine import (
    LASTS_S,
    WARM_UP_S,
    Found,
    found_by,
    machine_of,
)
from controller.signals import Correction
from simulations.settings import Noise, Settings, Way
from simulations.simulate import simulate
from simulations.timeline import Tick
from tests.fakes import profile
from tests.simulations.cluster_fakes import fixed, poisson

CONTENTION = 0.4
FOUND = Found(Correction(2.5, 1.5, 2.0, 0.001), error=0.15, mean_k=8.0)


def tick(at_s: float, base: float, error: float | None) -> Tick:
    correction = Correction(base, 1.5, 2.0, 0.001)
    return Tick(at_s, 8.0, 1, 0, "calm", step_time_error=error, correction=correction)


def test_what_was_found_is_the_mean_over_decisions_once_the_controller_has_seen_steps() -> None:
    cold = tick(0.0, 1.0, 0.9)
    ticks = [tick(WARM_UP_S, 2.0, 0.1), tick(11.0, 3.0, 0.2), Tick(12.0, 8.0, 1, 0, "calm")]
    found = found_by([cold, *ticks])
    assert found is not None
    assert astuple(found.correction) == pytest.approx(astuple(FOUND.correction))
    assert (found.error, found.mean_k) == pytest.approx((0.15, 8.0))


def test_decisions_without_a_step_have_found_nothing() -> None:
    assert found_by([]) is None
    assert found_by([Tick(11.0, 8.0, 1, 0, "calm"), tick(12.0, 2.0, None)]) is None


def test_a_controller_that_found_nothing_leaves_the_profile() -> None:
    way = Way(0.02, 0.5)
    assert machine_of(None, way, poisson(5, 10), fixed(), profile(), 0.4) == Settings(way=way)


def test_a_schedule_too_short_to_find_anything_leaves_what_was_found_as_it_is() -> None:
    machine = machine_of(FOUND, None, poisson(5, 1), fixed(), profile(), CONTENTION)
    assert machine.actual == FOUND.correction
    assert machine.noise == Noise(FOUND.error, LASTS_S)


@pytest.mark.parametrize("rate_rps", [4.0, 8.0])
def test_a_machine_is_told_from_what_a_controller_finds_on_it(rate_rps: float) -> None:
    """However often the other replica was busy: it is by itself that a replica is that slow."""
    schedule, way = poisson(rate_rps, round(60 * rate_rps), 300, 20), Way(0.02, 0.5)
    true = Settings(
        actual=Correction(1.4, 1.4, 1.4, 0.0004),
        contention=CONTENTION,
        noise=Noise(0.3, LASTS_S),
        way=way,
    )
    found = found_by(simulate(schedule, fixed(), profile(), true, 99).ticks)
    assert found is not None and found.correction.base > true.actual.base
    machine = machine_of(found, way, schedule, fixed(), profile(), CONTENTION)
    step_s = Found(machine.actual, 0.0, 8.0).step_s(profile())
    assert step_s == pytest.approx(Found(true.actual, 0.0, 8.0).step_s(profile()), rel=0.1)
    assert machine.noise is not None and machine.noise.sigma == pytest.approx(0.3, rel=0.3)
    assert (machine.contention, machine.way) == (CONTENTION, way)
