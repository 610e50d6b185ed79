"""One governor over many replicas: its limit, the load that all share, figures of a small run."""

from dataclasses import replace
from math import isfinite

import numpy as np
import pytest

from benchmarks.scale import (
    CHECKPOINT,
    CONSTANTS,
    PREDICTIVE,
    Row,
    bursts,
    conclusion,
    limit,
    measure,
    requests_of,
)
from controller.profiles import load_profile

SECONDS = 3.0


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [measure(number, 1, CONSTANTS, SECONDS) for number in (1, 2)]


def test_the_limit_lies_between_its_neighbours() -> None:
    assert limit({1: 0.01, 100: 0.5, 1000: 5.0}) == pytest.approx(200)


def test_the_limit_beyond_the_largest_follows_the_last_two() -> None:
    assert limit({1: 0.01, 10: 0.02, 100: 0.2}) == pytest.approx(500)


def test_without_a_rise_there_is_no_limit() -> None:
    assert limit({10: 0.2}) is None
    assert limit({1: 0.2, 10: 0.2}) is None


def test_bursts_keep_the_mean_and_differ_by_seed() -> None:
    one, other = (bursts(30.0, seed, 10.0) for seed in (0, 1))
    assert len(one) == 10
    assert [one.mean(), other.mean()] == pytest.approx([30.0, 30.0])
    assert one.std() > 5
    assert not np.array_equal(one, other)


def test_the_load_grows_with_the_replicas() -> None:
    profile = load_profile(CHECKPOINT / "profile.json")
    one, twenty = (requests_of(profile, number, 0, SECONDS) for number in (1, 20))
    assert len(twenty) == pytest.approx(20 * len(one), rel=0.3)
    assert twenty[-1].arrival_s < SECONDS


def test_a_run_gives_every_figure(rows: list[Row]) -> None:
    for row in rows:
        assert row.arms.keys() == {*CONSTANTS, PREDICTIVE}
        assert row.best_static in CONSTANTS
        for figures in row.arms.values():
            assert 0 < figures["effective_quality"] <= row.oracle
            assert figures["offered"] == row.requests
        costs = row.costs
        assert 0 < costs.tick_p50_ms <= costs.tick_p99_ms
        assert 0 < costs.core_share < 1
        assert min(costs.observe_us, costs.unpickle_us) > 0
        assert isfinite(row.over_best_static)


def test_every_replica_sends_a_heartbeat_a_period_or_more(rows: list[Row]) -> None:
    for row in rows:
        assert 4.5 * row.replicas <= row.costs.heartbeats_per_s <= 15 * row.replicas
        assert 300 < row.costs.heartbeat_bytes < 10_000


def test_the_worst_queue_is_the_mean_one_where_there_is_but_one(rows: list[Row]) -> None:
    one, two = (row.costs for row in rows)
    assert one.worst_tokens == pytest.approx(one.mean_tokens)
    assert two.worst_tokens > two.mean_tokens


def test_the_conclusion_sets_shards_against_the_whole(rows: list[Row]) -> None:
    shares = 0.02, 0.05  # not those measured: of runs so short a larger number may seem cheaper
    one, two = (
        replace(row, costs=replace(row.costs, core_share=share))
        for row, share in zip(rows, shares, strict=True)
    )
    assert conclusion([one]) == "With 1 replicas the governor takes 0.02 cores."
    assert conclusion([one, two]) == (
        "With 2 replicas the governor takes 0.05 cores; one core is enough up to about 34. "
        "2 shards of 1 would take 0.04 cores, 0.020 each."
    )
