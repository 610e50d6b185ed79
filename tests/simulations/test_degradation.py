"""Over-degradation, by numbers reckoned by hand."""

from dataclasses import replace

import pytest

from controller.config import SloClass
from simulations.degradation import Met, made_by
from simulations.results import Record
from simulations.timeline import Tick

SLO = {"default": SloClass(ttft_s=1.0, tpot_s=0.5), "gold": SloClass(ttft_s=0.2, tpot_s=0.5)}


def record(at_s: float, mean_k: float = 4.0, **changes: object) -> Record:
    """Four tokens, at 0.5, 0.9, 1.3 and 1.7 s from its arrival."""
    answered = Record(
        index=0,
        scheduled_s=at_s,
        lateness_s=0.0,
        input_tokens=10,
        output_tokens=4,
        ttft_s=0.5,
        tpot_s=0.4,
        e2e_s=1.7,
        status="completed",
        error=None,
        quality=1.0,
        mean_k=mean_k,
        epoch=1,
    )
    return replace(answered, **changes)  # type: ignore[arg-type]


def tick(at_s: float, mean_k: float, **class_k: float) -> Tick:
    return Tick(at_s, mean_k, 1, 0, "", class_k=class_k)


def test_tokens_below_full_k_fall_into_the_window_they_were_made_in() -> None:
    # From 1 s to 2 s at k' 4: the tokens at 1.3 and 1.7 s, and that at 1.9 s of the second.
    ticks = [tick(0.0, 8.0), tick(1.0, 4.0), tick(2.0, 8.0)]
    made = made_by([record(0.0), record(1.4)], ticks, full_k=8.0)
    assert (made.total, made.below_T.tolist()) == (8, [3])


def test_what_was_all_at_full_k_counts_for_nothing_else() -> None:
    made = made_by([record(0.0, mean_k=8.0)], [tick(0.0, 4.0)], full_k=8.0)
    assert (made.total, made.below_T.tolist()) == (4, [])


def test_tokens_of_a_class_are_held_to_its_own_k() -> None:
    ticks = [tick(0.0, 8.0, gold=4.0)]
    both = [record(0.0), record(0.0, slo_class="gold")]
    assert made_by(both, ticks, full_k=8.0).below_T.tolist() == [4]


def test_shed_requests_made_no_tokens() -> None:
    shed = record(0.0, status="shed", output_tokens=0, ttft_s=None, mean_k=None)
    made = made_by([shed], [tick(0.0, 4.0)], full_k=8.0)
    assert made.over_degraded(Met.of([record(0.0)], SLO)) is None


def test_a_window_is_met_when_every_request_due_in_it_was() -> None:
    late = record(3.0, ttft_s=1.2)
    met = Met.of([record(0.0), record(1.9), record(2.1), late, record(9.0)], SLO)
    assert met.due_W.tolist() == [0, 1, 4]
    assert met.all_met_W.tolist() == [True, False, True]


def test_a_window_in_which_nothing_is_due_is_judged_as_the_last_before_it() -> None:
    met = Met.of([record(2.0), record(6.0, ttft_s=1.2), record(12.0)], SLO)
    assert met.judge(8).tolist() == [False, True, True, False, False, False, True, True]


def test_the_share_is_of_all_tokens_and_of_windows_where_full_k_would_have_done() -> None:
    full = Met.of([record(0.0), record(2.0, ttft_s=1.2)], SLO)
    ticks = [tick(0.0, 8.0), tick(1.0, 4.0)]
    # Of the first the tokens at 1.3 and 1.7 s, met; all four of the second, at 2.5 to 3.7 s, not.
    made = made_by([record(0.0), record(2.0)], ticks, full_k=8.0)
    assert made.below_T.tolist() == [2, 4]
    assert made.over_degraded(full) == pytest.approx(2 / 8)
