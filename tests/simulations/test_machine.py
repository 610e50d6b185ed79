"""How long steps take beside what the profile says: by chance, and on another machine."""

from itertools import islice
from math import inf, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.signals import Correction
from simulations.events import Events
from simulations.faults import Faults, Slowdown
from simulations.machine import NUM_DRAWN, Machine
from simulations.settings import Noise, Settings, Way
from simulations.step_cost import StepCost
from tests.fakes import slo_policy
from tests.simulations.cluster_fakes import every, fixed, profile_with, run

NUM_STEPS = 100_000


def factors(
    noise: Noise | None,
    count: int = NUM_STEPS,
    *,
    of_fit: float = 0.0,
    seed: int = 0,
    number: int = 0,
    life: int = 0,
) -> list[float]:
    profile = profile_with(noise=of_fit)
    machine = Machine(
        events=Events(),
        slo_policy=slo_policy(),
        profile=profile,
        cost=StepCost(profile.step_time),
        settings=Settings(noise=noise),
        faults=Faults(()),
        seed=seed,
    )
    return list(islice(machine.factors(number, life), count))


@pytest.mark.parametrize(
    ("sigma", "correlation"),
    [
        (-0.1, 0.0),
        (float("inf"), 0.0),
        (float("nan"), 0.0),
        (0.1, -0.1),
        (0.1, 1.0),
        (0.1, float("nan")),
    ],
)
def test_what_is_no_noise_is_refused(sigma: float, correlation: float) -> None:
    with pytest.raises(ValueError, match=f"sigma {sigma:g} and correlation {correlation:g}"):
        Noise(sigma, correlation)


def test_noise_may_be_none_and_steps_independent() -> None:
    assert Noise(0.0).correlation == 0.0
    assert Noise(0.5, 0.999).sigma == 0.5


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_without_a_spread_steps_take_exactly_what_they_cost(correlation: float) -> None:
    assert set(factors(Noise(0.0, correlation), 2 * NUM_DRAWN + 1)) == {1.0}


# Bounds are of three standard errors: of n correlated draws as many count as of n (1 - c) / (1 + c)
# that are independent.
@pytest.mark.parametrize("sigma", [0.1, 0.4])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_steps_are_as_far_off_and_as_alike_as_asked_and_no_slower_in_the_mean(
    sigma: float, correlation: float
) -> None:
    made = np.array(factors(Noise(sigma, correlation)))
    independent = NUM_STEPS * (1 - correlation) / (1 + correlation)
    assert made.mean() == pytest.approx(1.0, abs=3 * made.std() / sqrt(independent))
    logs = np.log(made)
    assert logs.mean() == pytest.approx(-(sigma**2) / 2, abs=3 * sigma / sqrt(independent))
    assert logs.std() == pytest.approx(sigma, rel=3 / sqrt(2 * independent))
    lagged = np.corrcoef(logs[:-1], logs[1:])[0, 1]
    assert lagged == pytest.approx(correlation, abs=3 / sqrt(NUM_STEPS))


def test_the_likeness_fades_with_every_step() -> None:
    logs = np.log(factors(Noise(0.2, 0.9)))
    for lag in (2, 5, 20):
        assert np.corrcoef(logs[:-lag], logs[lag:])[0, 1] == pytest.approx(0.9**lag, abs=0.03)


def test_the_first_steps_are_as_far_off_as_all_others() -> None:
    firsts = [log(factors(Noise(0.3, 0.95), 1, seed=seed)[0]) for seed in range(2000)]
    assert np.mean(firsts) == pytest.approx(-0.045, abs=3 * 0.3 / sqrt(2000))
    assert np.std(firsts) == pytest.approx(0.3, rel=3 / sqrt(2 * 2000))


def test_unless_given_it_is_as_far_off_as_the_profiles_fit_and_independent() -> None:
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
    noise = Noise(0.1, 0.5)
    here = factors(noise, 3, seed=seed, number=number, life=life)
    assert here == factors(noise, 3, seed=seed, number=number, life=life)
    assert here != factors(noise, 3, seed=seed + 1, number=number, life=life)
    assert here != factors(noise, 3, seed=seed, number=number + 1, life=life)
    assert here != factors(noise, 3, seed=seed, number=number, life=life + 1)


def test_a_machine_that_is_slower_throughout_takes_as_long_as_slow_steps() -> None:
    requests, noisy = every(0.3, 40, prompt=150, output=20), profile_with(noise=0.1)
    slower = run(requests, fixed(), noisy, replicas=2, actual=Correction(2.0, 2.0, 2.0))
    assert slower == run(requests, fixed(), noisy, replicas=2, faults=(Slowdown(2.0),))
    assert slower != run(requests, fixed(), noisy, replicas=2)


def test_only_the_part_that_differs_takes_another_time() -> None:
    # A prompt of 100 tokens at k' 8: 10 ms, and 80 ms of the experts.
    ((base,), (experts,), (rest,)) = (
        run(every(1.0, 1), actual=actual).records
        for actual in (Correction(base=3.0), Correction(experts=0.5), Correction(rest=9.0))
    )
    assert [base.ttft_s, experts.ttft_s, rest.ttft_s] == pytest.approx([0.11, 0.05, 0.09])


def test_the_controller_goes_by_the_profile_and_gives_way_once_steps_are_slower() -> None:
    # Six a second of 100 tokens take 54 % of an engine at k' 8, 108 % of one that is half as fast.
    requests = every(1 / 6, 180)
    outcome = run(requests, slo_policy(), actual=Correction(2.0, 2.0, 2.0))
    assert outcome.ticks[0].mean_k == 8
    assert min(tick.mean_k for tick in outcome.ticks) < 8
    assert {tick.mean_k for tick in run(requests, slo_policy()).ticks} == {8.0}


def test_the_way_comes_on_top_of_what_the_replica_does() -> None:
    """And nothing that the replica does depends on it."""
    requests = every(0.05, 50, output=3)
    at_once, far = run(requests), run(requests, way=Way(0.02, 0.0))
    for one, other in zip(at_once.records, far.records, strict=True):
        assert one.ttft_s is not None and one.e2e_s is not None
        assert other.ttft_s == pytest.approx(one.ttft_s + 0.02)
        assert other.e2e_s == pytest.approx(one.e2e_s + 0.02)
        assert other.tpot_s == pytest.approx(one.tpot_s)


def test_first_and_last_tokens_have_delays_of_their_own_and_keep_their_order() -> None:
    requests, way = every(0.5, 400, output=2), Way(0.05, 1.0)
    records = run(requests, way=way).records
    delays = [record.ttft_s - 0.09 for record in records if record.ttft_s]
    assert sum(delays) / 400 == pytest.approx(0.05, rel=0.15)
    assert all(record.e2e_s >= record.ttft_s for record in records)
    assert any(record.e2e_s == record.ttft_s for record in records)
    assert run(requests, way=way).records == records
    assert run(requests, way=way, seed=1).records != records


def test_an_answer_of_one_token_is_sent_once() -> None:
    records = run(every(0.2, 20), way=Way(0.05, 1.0)).records
    assert all(record.e2e_s == record.ttft_s for record in records)


@pytest.mark.parametrize(("mean_s", "sigma"), [(0.0, 0.5), (-0.1, 0.5), (0.1, -0.5), (0.1, inf)])
def test_what_is_no_way_is_refused(mean_s: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="expected a time above 0, and 0 or more"):
        Way(mean_s, sigma)
