"""When a second replica was asked for, there and given up, read off looks and decisions."""

from dataclasses import replace

import pytest

from benchmarks.scale_out import Look, attainment, moments, offered, outcome, served_k
from simulations.results import Record
from simulations.timeline import Tick
from tests.fakes import slo_policy


def look(at_s: float, replicas: int, wanted: int | None) -> Look:
    return Look(at_s, replicas, wanted, 8.0, None, "")


def ticks(*mean_ks: float) -> list[Tick]:
    """One a second."""
    return [Tick(float(at_s), mean_k, 1, 0, "") for at_s, mean_k in enumerate(mean_ks)]


def record(scheduled_s: float, ttft_s: float | None, status: str = "completed") -> Record:
    return Record(
        index=0,
        scheduled_s=scheduled_s,
        lateness_s=0.0,
        input_tokens=1,
        output_tokens=1,
        ttft_s=ttft_s,
        tpot_s=None,
        e2e_s=None,
        status=status,  # type: ignore[arg-type]
        error=None,
        quality=None,
        mean_k=None,
        epoch=None,
    )


def test_the_moments_are_in_the_order_of_the_story() -> None:
    looks = [
        look(-1.0, 1, None),
        look(1.0, 1, None),
        look(2.0, 1, 2),
        look(4.0, 2, 2),
        look(9.0, 2, 1),
        look(10.0, 1, 1),
    ]
    assert moments(looks, ticks(8, 4, 4, 4, 4, 6, 8, 8, 8, 8), full_k=8) == {
        "k_dropped_s": 1.0,
        "replica_asked_for_s": 2.0,
        "replica_ready_s": 4.0,
        "k_back_at_full_s": 6.0,
        "fewer_asked_for_s": 9.0,
        "fewer_there_s": 10.0,
        "lowest_k": 4,
    }


def test_what_did_not_come_about_has_no_moment() -> None:
    found = moments([look(1.0, 1, None)], ticks(8, 8), full_k=8)
    assert found.pop("lowest_k") == 8
    assert set(found.values()) == {None}


def test_the_load_falls_to_an_eighth() -> None:
    requests = offered(16.0, 50.0, 100.0)
    loaded = [each for each in requests if each.arrival_s < 50]
    assert len(loaded) == pytest.approx(800, rel=0.1)
    assert len(requests) - len(loaded) == pytest.approx(200, rel=0.2)
    assert requests == sorted(requests, key=lambda each: each.arrival_s)


def test_attainment_is_of_windows_of_two_seconds() -> None:
    records = [record(0.0, 0.5), record(1.9, 1.5), record(2.0, None, "failed")]
    assert attainment(records, slo_policy(), 6.0) == [(0.0, 0.5), (2.0, 0.0), (4.0, None)]


def test_what_was_lost_is_counted_apart_from_what_was_refused() -> None:
    records = [record(0.0, 0.5), record(0.0, None, "failed"), record(0.0, None, "shed")]
    assert outcome(records, slo_policy()) == {
        "requests": 3,
        "requests_failed": 1,
        "requests_refused": 1,
        "attainment": pytest.approx(1 / 3),
    }


def test_what_was_served_is_told_apart_by_the_replicas_there_were() -> None:
    records = [
        replace(record(float(at_s), 0.5), mean_k=k) for at_s, k in enumerate([4.0, 2.0, 8.0])
    ]
    assert served_k(records, 2.0) == {"mean_k_with_one": 3.0, "mean_k_with_two": 8.0}
    assert served_k(records[:1], None) == {"mean_k_with_one": 4.0, "mean_k_with_two": None}
