"""What a journal says about a run: its ticks, its switches, and how fast k' came back."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from controller.journal import FileJournal
from controller.signals import Budget, ClassLoad, Plan
from simulations.timeline import Tick, read_ticks, recovery_s, step_time_error, switches_per_min
from tests.fakes import load


def line(at_s: float, k: tuple[int, ...] = (8, 8), epoch: int = 1, waiting: int | None = 0) -> str:
    load = {"at_s": at_s, "waiting_requests": waiting, "step_time_error": None}
    budget = {"mean_k": sum(k) / len(k), "reason": "calm"}
    return json.dumps({"load": load, "budget": budget, "plan": {"epoch": epoch, "k": k}}) + "\n"


def ticks(*mean_ks: float) -> list[Tick]:
    """A tick a second, from 0 s on."""
    return [Tick(float(at_s), k, 1, 0, "") for at_s, k in enumerate(mean_ks)]


def test_a_tick_counts_from_the_start_and_averages_the_layers() -> None:
    (tick,) = read_ticks([line(105.5, k=(2, 8), epoch=3, waiting=7)], 100, 110)
    assert tick == Tick(at_s=5.5, mean_k=5.0, epoch=3, waiting_requests=7, reason="calm")


def test_the_adoption_of_a_policy_is_no_tick() -> None:
    adoption = json.dumps({"adopted": {"format": 1}, "writer": "w"}) + "\n"
    assert [tick.at_s for tick in read_ticks([adoption, line(100)], 100, 110)] == [0]


def test_the_start_belongs_to_a_run_and_the_end_does_not() -> None:
    lines = [line(at_s) for at_s in (99.9, 100, 105, 109.9, 110, 120)]
    assert [tick.at_s for tick in read_ticks(lines, 100, 110)] == [0, 5, pytest.approx(9.9)]


def test_an_unknown_queue_stays_unknown() -> None:
    (tick,) = read_ticks([line(100, waiting=None)], 100, 110)
    assert tick.waiting_requests is None


def test_a_class_has_its_own_queue_and_the_k_of_all_unless_it_has_one(tmp_path: Path) -> None:
    queues = {"premium": ClassLoad(waiting_requests=1), "batch": ClassLoad(waiting_requests=9)}
    seen = load(at_s=1.0, waiting_requests=10, classes=queues)
    plan = Plan(2, (4, 8), quality=0.9, class_k={"batch": (1, 2)})
    with closing(FileJournal(tmp_path / "journal.jsonl")) as journal:
        journal.write(seen, Budget(4.0, "burst"), plan)
    with (tmp_path / "journal.jsonl").open() as lines:
        (tick,) = read_ticks(lines, 0.0, 5.0)
    assert (tick.mean_k, tick.waiting_requests) == (6.0, 10)
    assert (tick.of("batch").mean_k, tick.of("batch").waiting_requests) == (1.5, 9)
    assert (tick.of("premium").mean_k, tick.of("premium").waiting_requests) == (6.0, 1)
    assert (tick.of("idle").mean_k, tick.of("idle").waiting_requests) == (6.0, None)


def test_no_journal_no_ticks() -> None:
    assert read_ticks([], 0, 10) == []


def test_the_error_of_step_times_is_the_mean_of_what_was_known() -> None:
    errors = (None, 0.1, 0.3)
    known = [Tick(0.0, 8, 1, 0, "", error) for error in errors]
    assert step_time_error(known) == pytest.approx(0.2)
    assert step_time_error(known[:1]) is None


def test_reads_what_the_controller_writes(tmp_path: Path) -> None:
    seen = load(at_s=3.0, waiting_requests=4, step_time_error=0.125)
    with closing(FileJournal(tmp_path / "journal.jsonl")) as journal:
        journal.write(seen, Budget(1.0, "burst"), Plan(2, (1,), quality=0.5))
    with (tmp_path / "journal.jsonl").open() as lines:
        assert read_ticks(lines, 1.0, 5.0) == [Tick(2.0, 1.0, 2, 4, "burst", 0.125)]


def test_switches_are_changes_of_the_plan_per_minute() -> None:
    seen = [Tick(at_s, 8, epoch, 0, "") for at_s, epoch in [(0, 4), (10, 4), (20, 6), (30, 7)]]
    assert switches_per_min(seen) == 6


def test_a_plan_that_is_held_has_no_switches() -> None:
    assert switches_per_min(ticks(8, 8, 8)) == 0


@pytest.mark.parametrize("mean_ks", [(), (8,)])
def test_switches_of_less_than_two_ticks_are_unknown(mean_ks: tuple[float, ...]) -> None:
    assert switches_per_min(ticks(*mean_ks)) is None


def test_recovery_counts_from_the_end_of_the_burst_to_the_return_of_full_k() -> None:
    assert recovery_s(ticks(8, 1, 1, 1, 4, 8, 8, 8), burst_end_s=2.0, full_k=8) == 3.0


def test_a_return_that_does_not_last_two_seconds_is_none() -> None:
    flapping = ticks(1, 1, 8, 8, 1, 1, 8, 8, 8)
    assert recovery_s(flapping, burst_end_s=1.0, full_k=8) == 5.0


def test_a_return_too_late_to_be_seen_settling_is_none() -> None:
    assert recovery_s(ticks(1, 1, 1, 8, 8), burst_end_s=1.0, full_k=8) is None


@pytest.mark.parametrize("mean_ks", [(), (1, 1, 1, 1, 1), (7.75, 7.75, 7.75, 7.75)])
def test_k_that_never_returns_to_full_never_recovers(mean_ks: tuple[float, ...]) -> None:
    assert recovery_s(ticks(*mean_ks), burst_end_s=0.0, full_k=8) is None


def test_k_that_was_never_lowered_recovers_at_once() -> None:
    assert recovery_s(ticks(8, 8, 8, 8, 8), burst_end_s=1.0, full_k=8) == 0.0


def test_k_that_was_back_before_the_end_of_the_burst_recovers_at_once() -> None:
    assert recovery_s(ticks(1, 8, 8, 8, 8, 8), burst_end_s=2.5, full_k=8) == 0.0


def test_staying_at_full_during_the_burst_does_not_count_as_settling() -> None:
    """Full for ten seconds before the burst ends, lowered right after: recovered at 15 s."""
    late = ticks(*[8] * 11, 1, 1, 1, 1, 8, 8, 8)
    assert recovery_s(late, burst_end_s=10.0, full_k=8) == 5.0
