"""The price of a queued request: between its ends, by its equation, and what it is good for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.backlog_price import BacklogPrice, Pace

PACES = [Pace(6.0, 0.0), Pace(9.0, 0.01), Pace(12.0, 0.05), Pace(15.0, 0.2)]
losses = st.floats(0, 0.9)
rates = st.floats(0.1, 100)
many_paces = st.lists(st.builds(Pace, rates, losses), max_size=8).map(
    lambda paces: [Pace(1.0, 0.0), *paces]
)
markets = st.fixed_dictionaries(
    {
        "paces": many_paces,
        "arrival_rps": st.floats(0, 200),
        "variance": st.floats(0.01, 1000),
        "longest": st.floats(0.1, 100),
        "lost": st.sampled_from([1.0, 10.0]),
    }
)


@given(markets, st.floats(0, 1))
def test_it_lies_between_nothing_and_what_a_lost_request_costs(market: dict, share: float) -> None:
    price = BacklogPrice(**market)
    assert 0 <= price.at(share * market["longest"]) <= market["lost"]


@given(markets, st.floats(0, 1), st.floats(0, 1))
def test_it_never_falls_as_the_queue_grows(market: dict, one: float, other: float) -> None:
    price = BacklogPrice(**market)
    shorter, longer = sorted([one, other])
    longest = market["longest"]
    assert price.at(shorter * longest) <= price.at(longer * longest) + 1e-9


@given(markets)
def test_from_the_longest_queue_on_it_is_that_of_a_lost_request(market: dict) -> None:
    price = BacklogPrice(**market)
    assert price.at(market["longest"]) == pytest.approx(market["lost"], rel=1e-3)
    assert price.at(2 * market["longest"]) == market["lost"]


def test_with_one_pace_it_grows_exponentially() -> None:
    """v/2 p' = g + (m - a) p, solved by hand."""
    price = BacklogPrice([Pace(6.0, 0.0)], arrival_rps=5.0, variance=8.0, longest=10.0)
    rate = 2 * (6.0 - 5.0) / 8.0
    for queued in (0.0, 1.0, 5.0, 9.0):
        expected = math.expm1(rate * queued) / math.expm1(rate * 10.0)
        assert price.at(queued) == pytest.approx(expected, rel=1e-3)


def test_at_just_the_pace_of_arrivals_it_grows_evenly() -> None:
    price = BacklogPrice([Pace(5.0, 0.0)], arrival_rps=5.0, variance=8.0, longest=10.0)
    assert [price.at(queued) for queued in (2.5, 5.0)] == pytest.approx([0.25, 0.5], rel=1e-3)


@pytest.mark.parametrize("arrival_rps", [3.0, 7.0, 11.0, 14.0, 20.0])
def test_what_a_second_loses_is_the_same_at_every_length(arrival_rps: float) -> None:
    """g = v/2 p' + a p - h(p), with p' by differences, at an optimum for ever."""
    market = {"arrival_rps": arrival_rps, "variance": 20.0, "longest": 10.0}
    price, step = BacklogPrice(PACES, **market), 1e-4
    found = []
    for queued in np.linspace(0.5, 9.5, 10):
        slope = (price.at(queued + step) - price.at(queued - step)) / (2 * step)
        p = price.at(queued)
        gain = max(pace.rate_rps * (p - pace.loss) for pace in PACES)
        found.append(10.0 * slope + arrival_rps * p - gain)
    assert found == pytest.approx([found[0]] * 10, rel=1e-3)


def test_little_load_costs_next_to_nothing_until_shortly_before_the_longest_queue() -> None:
    market = {"variance": 4.0, "longest": 10.0}
    little = BacklogPrice(PACES, arrival_rps=2.0, **market)
    assert little.at(5.0) < 1e-4 < 0.1 < little.at(9.9)
    none = BacklogPrice(PACES, arrival_rps=0.0, variance=1e-9, longest=10.0)
    assert (none.at(9.9), none.at(10.0)) == (0.0, 1.0)


def test_more_than_any_pace_serves_costs_as_much_as_a_lost_request_from_the_first_few_on() -> None:
    much = BacklogPrice(PACES, arrival_rps=1e4, variance=1e4, longest=100.0)
    assert much.at(0.0) == 0.0
    assert much.at(10.0) == pytest.approx(1.0)


def test_a_pace_that_loses_more_and_serves_less_changes_nothing() -> None:
    market = {"arrival_rps": 8.0, "variance": 16.0, "longest": 10.0}
    more = [*PACES, Pace(8.0, 0.3), Pace(6.0, 0.1)]
    assert BacklogPrice(more, **market).at(4.0) == BacklogPrice(PACES, **market).at(4.0)


def mean_loss(choice: list[Pace], arrival_rps: float) -> float:
    """Of a request's quality, where queues of 1 to n have these paces: births and deaths."""
    weights = [1.0]
    for pace in choice:
        weights.append(weights[-1] * arrival_rps / pace.rate_rps)
    total = sum(weights)
    lost = arrival_rps * weights[-1]  # comes while the longest queue stands
    slow = sum(w * pace.rate_rps * pace.loss for w, pace in zip(weights[1:], choice, strict=True))
    return (lost + slow) / total / arrival_rps


def best_choice(arrival_rps: float, longest: int) -> list[Pace]:
    """By improving one length's pace after the other until none can be improved."""
    choice = [PACES[0]] * longest
    while True:
        before = choice.copy()
        for length in range(longest):
            options = [[*choice[:length], pace, *choice[length + 1 :]] for pace in PACES]
            choice = min(options, key=lambda each: mean_loss(each, arrival_rps))
        if choice == before:
            return choice


@pytest.mark.parametrize("arrival_rps", [5.0, 7.0, 9.0, 12.0])
def test_to_buy_speed_at_it_is_nearly_the_best_that_can_be_done(arrival_rps: float) -> None:
    """Of a queue of single requests at random, which is no Brownian motion."""
    longest = 12
    price = BacklogPrice(
        PACES, arrival_rps=arrival_rps, variance=2 * arrival_rps, longest=float(longest)
    )
    bought = [
        max(PACES, key=lambda pace, p=price.at(n): pace.rate_rps * (p - pace.loss))
        for n in range(1, longest + 1)
    ]
    least = mean_loss(best_choice(arrival_rps, longest), arrival_rps)
    constant = min(mean_loss([pace] * longest, arrival_rps) for pace in PACES)
    ours = mean_loss(bought, arrival_rps)
    assert ours <= least + 0.25 * (constant - least)


@given(markets)
def test_it_is_finite_whatever_comes(market: dict) -> None:
    price = BacklogPrice(**market)
    assert all(math.isfinite(price.at(market["longest"] * n / 7)) for n in range(9))
