"""One replica whose requests are one full step each is a queue with one server: its mean waits are
those of the closed forms.
"""

from math import log, pi, sqrt

import numpy as np
import pytest

from simulations.traces import Request
from tests.simulations.cluster_fakes import poisson, profile_with, run, unheard

STEP_S = 0.09  # of 100 tokens at k' 8


def waits_s(requests: list[Request], noise: float = 0.0) -> list[float]:
    outcome = run(requests, unheard(), profile_with(noise))
    return [record.ttft_s - STEP_S for record in outcome.records if record.ttft_s is not None]


def test_every_wait_is_that_of_lindleys_recursion() -> None:
    requests, wait_s, expected = poisson(0.9 / STEP_S, 2000), 0.0, list[float]()
    for request, following in zip(requests, [*requests[1:], requests[-1]], strict=True):
        expected.append(wait_s)
        wait_s = max(0.0, wait_s + STEP_S - (following.arrival_s - request.arrival_s))
    assert waits_s(requests) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_the_mean_wait_of_steps_all_alike_is_that_of_m_d_1(rho: float) -> None:
    found = waits_s(poisson(rho / STEP_S, 15_000))
    assert np.mean(found) == pytest.approx(rho * STEP_S / (2 * (1 - rho)), rel=0.04)


def test_the_mean_wait_of_steps_as_scattered_as_exponential_ones_is_that_of_m_m_1() -> None:
    """By Pollaczek and Khinchine only mean and variance count: a lognormal of variation 1 will do.

    Its mean error is sqrt(ln 2) * sqrt(2 / pi).
    """
    rho = 0.5
    found = waits_s(poisson(rho / STEP_S, 20_000), noise=sqrt(log(2) * 2 / pi))
    assert np.mean(found) == pytest.approx(rho * STEP_S / (1 - rho), rel=0.06)


def test_prompts_of_exponential_length_wait_as_in_m_m_1() -> None:
    """Without a base a step's time is its tokens': chunks of 100 of a thousand tokens, 0.8 s."""
    lengths = np.ceil(np.random.default_rng(1).exponential(1000, 6000))
    rho, service_s = 0.5, 0.8
    arrivals = poisson(rho / service_s, 6000)
    requests = [
        Request(each.arrival_s, int(tokens), 1)
        for each, tokens in zip(arrivals, lengths, strict=True)
    ]
    outcome = run(requests, unheard(), profile_with(step_time={"base_s": 0.0}), cache_tokens=10**7)
    found = [
        record.ttft_s - 0.0008 * record.input_tokens
        for record in outcome.records
        if record.ttft_s is not None
    ]
    assert np.mean(found) == pytest.approx(rho * service_s / (1 - rho), rel=0.06)
