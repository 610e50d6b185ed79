"""By how much steps are off by chance: how far, for how long, and each replica by its own draws."""

from math import exp, inf, log, nan, pi, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.events import Events
from simulations.faults import Faults
from simulations.host import Host
from simulations.machine import Machine
from simulations.settings import Noise, Settings
from simulations.step_cost import StepCost
from simulations.step_noise import NUM_DRAWN, StepNoise
from tests.fakes import slo_policy
from tests.simulations.cluster_fakes import profile_with

NUM_STEPS = 100_000
STEP_S = 0.01


def step_noise(
    noise: Noise | None, *, of_fit: float = 0.0, seed: int = 0, number: int = 0, life: int = 0
) -> StepNoise:
    profile = profile_with(noise=of_fit)
    machine = Machine(
        events=Events(),
        slo_policy=slo_policy(),
        profile=profile,
        cost=StepCost(profile.step_time),
        settings=Settings(noise=noise),
        faults=Faults(()),
        host=Host(0.0),
        seed=seed,
    )
    return machine.step_noise(number, life)


def factors(
    noise: Noise | None, count: int = NUM_STEPS, step_s: float = STEP_S, **of: float
) -> list[float]:
    """How much longer than they should steps take, one after the other."""
    drawn = step_noise(noise, **of)  # type: ignore[arg-type]  (numbers of a replica)
    return [drawn.stretch(step_s) / step_s for _ in range(count)]


@pytest.mark.parametrize(
    ("sigma", "lasts_s"),
    [(-0.1, 0.0), (inf, 0.0), (nan, 0.0), (0.1, -0.1), (0.1, inf), (0.1, nan)],
)
def test_what_is_no_noise_is_refused(sigma: float, lasts_s: float) -> None:
    with pytest.raises(ValueError, match=f"sigma {sigma:g} that lasts {lasts_s:g} s"):
        Noise(sigma, lasts_s)


@pytest.mark.parametrize("lasts_s", [0.0, 0.1])
@pytest.mark.parametrize("step_s", [0.001, 0.3])
def test_without_a_spread_steps_take_what_they_cost(lasts_s: float, step_s: float) -> None:
    made = factors(Noise(0.0, lasts_s), 2 * NUM_DRAWN + 1, step_s)
    assert made == pytest.approx([1.0] * len(made), rel=1e-12)


# Bounds are of three standard errors.
@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_each_step_by_itself_is_as_far_off_as_asked_and_no_slower_in_the_mean(sigma: float) -> None:
    made = np.array(factors(Noise(sigma)))
    logs, error = np.log(made), 3 / sqrt(NUM_STEPS)
    assert made.mean() == pytest.approx(1.0, abs=error * made.std())
    assert logs.std() == pytest.approx(sigma, rel=error / sqrt(2))
    assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(0.0, abs=error)


@pytest.mark.parametrize("sigma", [0.1, 0.4])
@pytest.mark.parametrize("step_s", [0.001, 0.01, 0.05, 0.3])
def test_where_noise_lasts_much_work_takes_the_time_it_should_in_short_steps_and_in_long_ones(
    sigma: float, step_s: float
) -> None:
    """With a factor of mean 1 short steps, most of which run while it is low, took 0.85 of it."""
    made = np.array(factors(Noise(sigma, lasts_s=0.05), round(1000 / step_s), step_s))
    independent = 1000 / (2 * 0.05)  # so many moments of the whole time
    # That a slice goes at the speed of its beginning adds less than a tenth of sigma^2.
    spread = sqrt(exp(sigma**2) - 1)
    assert made.mean() == pytest.approx(1.0, abs=3 * spread / sqrt(independent) + 0.1 * sigma**2)


def test_of_short_steps_the_logarithm_is_as_far_off_as_asked() -> None:
    made = np.array(factors(Noise(0.4, lasts_s=0.05), 500_000, 0.001))
    weights = made / made.sum()  # by the time that each took
    logs = np.log(made)
    mean = float(weights @ logs)
    assert mean == pytest.approx(0.4**2 / 2, abs=0.02)
    assert sqrt(weights @ (logs - mean) ** 2) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("step_s", [0.001, 0.01, 0.05])
def test_likeness_fades_with_time_and_not_with_steps(step_s: float) -> None:
    logs = np.log(factors(Noise(0.2, lasts_s=0.1), step_s=step_s))
    lag, alone = round(0.05 / step_s), step_s / 0.1
    # What the means of an Ornstein-Uhlenbeck process over two steps have in common.
    kept = (1 - exp(-alone)) ** 2 / (2 * (alone - 1 + exp(-alone))) * exp(-(lag - 1) * alone)
    assert np.corrcoef(logs[:-lag], logs[lag:])[0, 1] == pytest.approx(kept, abs=0.05)


def test_the_first_steps_are_as_far_off_as_all_others() -> None:
    firsts = [log(factors(Noise(0.3, 0.2), 1, 0.001, seed=seed)[0]) for seed in range(2000)]
    assert np.mean(firsts) == pytest.approx(0.045, abs=3 * 0.3 / sqrt(2000))
    assert np.std(firsts) == pytest.approx(0.3, rel=3 / sqrt(2 * 2000))


def test_unless_given_it_is_as_far_off_as_the_profiles_fit_and_each_step_alone() -> None:
    assert factors(None, 100, of_fit=0.08) == factors(Noise(0.08 * sqrt(pi / 2)), 100)
    made = np.array(factors(None, of_fit=0.08))
    assert np.abs(made - 1).mean() == pytest.approx(0.08, rel=0.02)


def test_a_noise_that_is_given_takes_the_place_of_the_fits() -> None:
    assert set(factors(Noise(0.0), 10, of_fit=0.08)) == {1.0}


seeds = st.integers(0, 2**32)


@given(seeds, st.integers(0, 3), st.integers(0, 3))
def test_a_replica_has_draws_of_its_own_and_always_the_same(
    seed: int, number: int, life: int
) -> None:
    noise = Noise(0.1, 0.01)
    here = factors(noise, 3, seed=seed, number=number, life=life)
    assert here == factors(noise, 3, seed=seed, number=number, life=life)
    assert here != factors(noise, 3, seed=seed + 1, number=number, life=life)
    assert here != factors(noise, 3, seed=seed, number=number + 1, life=life)
    assert here != factors(noise, 3, seed=seed, number=number, life=life + 1)
