"""Which class gives up experts for which, under `predictive`.

At k' 1, 2, 4 and 8 a full step of 100 tokens takes 20, 30, 50 and 90 ms, and a request of 100
prompt and 100 output tokens two of them.
"""

import pytest

from controller.config import SloClass
from controller.signals import ClassLoad, Load
from policies.goals import Goals
from policies.predictive import Predictive
from tests.fakes import Running, load, profile

GOLD = SloClass(ttft_s=0.5, tpot_s=0.1, priority=1, floor=4)
BATCH = SloClass(ttft_s=5.0, tpot_s=1.0, priority=-1)


def of_two(gold: ClassLoad, batch: ClassLoad, **changes: object) -> Load:
    """Half of the tokens each, unless they say otherwise."""
    worst = gold.worst_waiting_tokens + batch.worst_waiting_tokens
    return load(classes={"gold": gold, "batch": batch}, worst_waiting_tokens=worst, **changes)


def classy() -> Running:
    goals = Goals(ttft_s=1.0, tpot_s=0.1, floor=1, ceiling=8, others={"gold": GOLD, "batch": BATCH})
    return Running(Predictive(profile(), goals), 8.0)


def test_the_lower_class_gives_up_its_experts_first() -> None:
    rates = (11.0, 15.0, 17.0, 20.0, 30.0)
    even = [of_two(ClassLoad(1.0), ClassLoad(1.0), arrival_rps_sustained=rps) for rps in rates]
    budgets = [classy().decide(each) for each in even]
    # Gold at 8 and batch at 8, 4, 2 and 1; then gold at 4 as well.
    assert [budget.mean_k for budget in budgets] == [8, 6, 5, 4.5, 2.5]
    # 0.05 + 4 (0.14 * 15 - 1)
    assert budgets[1].reason.startswith("100.0 % on time, worth 0.950: class batch, TTFT 4.450/5.0")


def test_the_experts_of_all_classes_count_alike_by_tokens() -> None:
    even = of_two(ClassLoad(1.0), ClassLoad(1.0), arrival_rps_sustained=20.0)
    assert "worth 0.800: " in classy().decide(even).reason  # 1.0 and 0.6
    more = of_two(ClassLoad(1.0), ClassLoad(3.0), arrival_rps_sustained=18.0)
    assert "worth 0.925: " in classy().decide(more).reason  # 1.0 and three of 0.9


def test_what_is_late_of_a_higher_class_counts_25_times() -> None:
    """Gold's 3000 tokens take 1.05 s at k' 4 and 1, and have 0.45 s: of its work that is short by
    0.6 beside 4.45 s, 4.1 % of its requests are late.
    """
    late = of_two(ClassLoad(1.0, worst_waiting_tokens=3000), ClassLoad(1.0))
    budget = classy().decide(late)
    assert budget.mean_k == 2.5
    assert budget.reason.startswith("overload: 97.9 % on time, worth 0.286: class gold, TTFT 1.1")


def test_the_high_class_is_kept_from_a_queue_that_the_low_one_would_stand() -> None:
    """Gold asks for nine tenths, and has 0.5 - 0.09 s: 4 (0.9 * 0.18 a - 1) <= 0.41 up to 6.81 a
    second at k' 8, where batch would stand 11.5.
    """
    most, more = (
        of_two(ClassLoad(9.0), ClassLoad(1.0), arrival_rps_sustained=rps) for rps in (6.8, 6.9)
    )
    budget = classy().decide(most)
    assert budget.mean_k == 8
    # 0.09 + 4 (0.9 * 0.18 * 6.8 - 1)
    assert budget.reason.startswith("100.0 % on time, worth 1.000: class gold, TTFT 0.496/0.500 s")
    assert classy().decide(more).mean_k == pytest.approx(7.6)  # batch at 4


def test_a_class_waits_for_those_before_it_and_not_for_those_after_it() -> None:
    patient = of_two(ClassLoad(1.0), ClassLoad(1.0, worst_waiting_tokens=4000))
    assert classy().decide(patient).mean_k == 8.0  # 3.6 s of five
    behind = of_two(ClassLoad(1.0, worst_waiting_tokens=400), ClassLoad(1.0))
    assert classy().decide(behind).mean_k == 8.0  # 0.45 s of half a second
    urgent = of_two(ClassLoad(1.0, worst_waiting_tokens=600), ClassLoad(1.0))
    assert classy().decide(urgent).mean_k < 8.0


def test_low_requests_that_decode_take_no_room_from_a_high_prompt() -> None:
    """Gold's 300 tokens take three full steps of 90 ms, whatever batch decodes."""
    gold = ClassLoad(1.0, worst_waiting_tokens=300)
    beside = of_two(gold, ClassLoad(1.0, running_requests=60), running_requests=60)
    assert "TTFT 0.360/0.500 s" in classy().decide(beside).reason  # and its own prompt


def test_each_class_is_held_to_its_own_objective() -> None:
    late = {"worst_waiting_tokens": 3000}
    assert classy().decide(of_two(ClassLoad(1.0), ClassLoad(1.0, **late))).mean_k == 8.0
    assert classy().decide(of_two(ClassLoad(1.0, **late), ClassLoad(1.0))).mean_k == 2.5


def test_a_prompt_runs_at_the_experts_of_its_class_whatever_the_mean() -> None:
    """500 tokens take 0.45 s at k' 8 and 0.25 at 4; a step beside them 0.06 s of half a second."""
    busy = {"arrival_rps_sustained": 20.0}
    assert classy().decide(of_two(ClassLoad(1.0), ClassLoad(1.0), **busy)).mean_k == 4.5  # 8 and 1
    long = ClassLoad(1.0, prompt_quantiles=(500,) * 8)
    assert classy().decide(of_two(long, ClassLoad(1.0), **busy)).mean_k == 2.5  # 4 and 1


def test_no_class_is_planned_below_its_floor() -> None:
    hopeless = of_two(ClassLoad(1.0, worst_waiting_tokens=9000), ClassLoad(1.0))
    assert classy().decide(hopeless).mean_k == 2.5  # gold at 4, batch at 1
