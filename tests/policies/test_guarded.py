"""What the guard lets through, delays, clips and refuses, and that it says so."""

from controller.signals import Budget
from policies.guarded import Guarded
from tests.fakes import Running, ScriptedPolicy, load


def guarded(*wishes: float) -> Running:
    """4 runs at first."""
    guard = Guarded(ScriptedPolicy(wishes), floor=1, ceiling=8, dwell_s=1.0, tolerance=0.25)
    return Running(guard, 4.0)


def test_a_wish_within_bounds_passes_with_its_reason() -> None:
    assert guarded(2.0).decide(load()) == Budget(2.0, "scripted")
    assert guarded(8.0).decide(load()) == Budget(8.0, "scripted")


def test_a_wish_to_stay_passes_with_its_reason() -> None:
    assert guarded(4.0).decide(load(stale_replicas=1)) == Budget(4.0, "scripted")


def test_without_a_fresh_sample_it_holds_and_does_not_even_ask() -> None:
    policy = ScriptedPolicy([])
    guard = Guarded(policy, floor=1, ceiling=8, dwell_s=1.0, tolerance=0.25)
    assert guard.decide(load(mean_k=4.0, replicas=0)) == Budget(4.0, "no fresh sample: hold")
    assert policy.loads == []


def test_it_clips_to_floor_and_ceiling() -> None:
    assert guarded(0.5).decide(load()) == Budget(1, "clipped from 0.5: scripted")
    assert guarded(20.0).decide(load()) == Budget(8, "clipped from 20: scripted")


def test_it_holds_a_raise_inside_tolerance_but_no_cut() -> None:
    guard = guarded(4.24, 3.76)
    assert guard.decide(load()) == Budget(4.0, "hold inside tolerance; wanted 4.24 (scripted)")
    assert guard.decide(load()).mean_k == 3.76


def test_a_raise_of_just_the_tolerance_is_made() -> None:
    assert guarded(4.25).decide(load()).mean_k == 4.25


def test_what_runs_above_a_new_ceiling_comes_down_even_without_samples() -> None:
    guard = Guarded(ScriptedPolicy([]), floor=1, ceiling=4, dwell_s=1.0, tolerance=0.25)
    assert guard.decide(load(mean_k=8.0, replicas=0)).mean_k == 4


def test_small_wishes_are_measured_from_what_runs_and_not_from_each_other() -> None:
    guard = guarded(4.2, 4.4)
    assert guard.decide(load()).mean_k == 4.0
    assert guard.decide(load()).mean_k == 4.4


def test_the_first_raise_does_not_wait() -> None:
    assert guarded(8.0).decide(load(at_s=0.0)).mean_k == 8.0


def test_a_raise_waits_until_the_dwell_after_a_cut_is_over() -> None:
    guard = guarded(2.0, 8.0, 8.0)
    guard.decide(load(at_s=10.0))
    held = guard.decide(load(at_s=10.9))
    assert held == Budget(2.0, "hold until dwell is over; wanted 8 (scripted)")
    assert guard.decide(load(at_s=11.0)).mean_k == 8.0


def test_a_raise_waits_until_the_dwell_after_a_raise_is_over() -> None:
    guard = guarded(6.0, 8.0, 8.0)
    made = [guard.decide(load(at_s=at_s)).mean_k for at_s in (10.0, 10.5, 11.0)]
    assert made == [6.0, 6.0, 8.0]


def test_holding_does_not_start_the_dwell_over() -> None:
    guard = guarded(2.0, 2.0, 8.0, 8.0)
    made = [guard.decide(load(at_s=at_s)).mean_k for at_s in (10.0, 10.8, 10.9, 11.0)]
    assert made == [2.0, 2.0, 2.0, 8.0]


def test_a_raise_waits_while_a_replica_is_stale() -> None:
    guard = guarded(8.0, 8.0)
    held = guard.decide(load(at_s=0.0, stale_replicas=2))
    assert held == Budget(4.0, "hold: 2 stale replicas; wanted 8 (scripted)")
    assert guard.decide(load(at_s=0.2)).mean_k == 8.0


def test_a_cut_is_never_delayed() -> None:
    guard = guarded(8.0, 2.0, 1.0)
    assert guard.decide(load(at_s=0.0)).mean_k == 8.0
    assert guard.decide(load(at_s=0.1)).mean_k == 2.0
    assert guard.decide(load(at_s=0.2, stale_replicas=1)).mean_k == 1.0


def test_a_clipped_wish_that_has_to_wait_is_told_as_clipped() -> None:
    held = guarded(20.0).decide(load(stale_replicas=1))
    assert held == Budget(4.0, "hold: 1 stale replicas; wanted 8 (scripted)")


def test_a_budget_that_changes_no_rung_does_not_start_the_dwell_over() -> None:
    guard = Guarded(
        ScriptedPolicy([2.0, 2.4, 8.0]), floor=1, ceiling=8, dwell_s=1.0, tolerance=0.25
    )
    runs = [(10.0, 8.0, 1), (11.0, 2.0, 2), (11.2, 2.0, 2)]  # 2.4 is the rung of 2 experts
    made = [guard.decide(load(at_s=t, mean_k=k, epoch=epoch)).mean_k for t, k, epoch in runs]
    assert made == [2.0, 2.4, 8.0]
