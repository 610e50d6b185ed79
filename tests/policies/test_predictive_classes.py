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
    """A request takes 20 ms and 20 ms times the mean k'. Gold asks for half of that and must not be
    heading for 0.3 s of backlog; batch, which waits for both, not for 3.4 s: they take up to 10.3,
    13.3, 15.5, 17.0 and 26.7 a second.
    """
    rates = (10.0, 13.0, 15.0, 16.5, 26.0)
    even = [of_two(ClassLoad(1.0), ClassLoad(1.0), arrival_rps_sustained=rps) for rps in rates]
    budgets = [classy().decide(each) for each in even]
    # Gold at 8 and batch at 8, 4, 2 and 1; then gold at 4 as well.
    assert [budget.mean_k for budget in budgets] == [8, 6, 5, 4.5, 2.5]
    # (0.14 * 13 - 1) * 4 / 0.7 + 0.07
    assert budgets[1].reason.startswith("best rung that holds: class batch, TTFT 4.756/5.000 s")


def test_the_high_class_is_kept_from_a_queue_that_the_low_one_would_stand() -> None:
    """Gold asks for nine tenths: 0.9 * 0.18 a <= 1 + 0.7 * (0.5 - 0.09) / 4, up to 6.62 a second at
    k' 8, where batch would stand 10.3.
    """
    most, more = (
        of_two(ClassLoad(9.0), ClassLoad(1.0), arrival_rps_sustained=rps) for rps in (6.6, 6.7)
    )
    budget = classy().decide(most)
    assert budget.mean_k == 8
    # (0.9 * 0.18 * 6.6 - 1) * 4 / 0.7 + 0.09
    assert budget.reason.startswith("best rung that holds: class gold, TTFT 0.485/0.500 s")
    assert classy().decide(more).mean_k == pytest.approx(7.6)  # batch at 4


def test_a_class_waits_for_those_before_it_and_not_for_those_after_it() -> None:
    patient = of_two(ClassLoad(1.0), ClassLoad(1.0, worst_waiting_tokens=4000))
    assert classy().decide(patient).mean_k == 8.0  # 3.6 s of five
    behind = of_two(ClassLoad(1.0, worst_waiting_tokens=400), ClassLoad(1.0))
    assert classy().decide(behind).mean_k == 8.0  # 0.45 s of half a second
    urgent = of_two(ClassLoad(1.0, worst_waiting_tokens=500), ClassLoad(1.0))
    assert classy().decide(urgent).mean_k < 8.0


def test_low_requests_that_decode_take_no_room_from_a_high_prompt() -> None:
    """Gold's 300 tokens take three full steps of 90 ms, whatever batch decodes."""
    gold = ClassLoad(1.0, worst_waiting_tokens=300)
    beside = of_two(gold, ClassLoad(1.0, running_requests=60), running_requests=60)
    assert classy().decide(beside).reason.count("TTFT 0.360/0.500 s") == 1  # and its own prompt


def test_each_class_is_held_to_its_own_objective() -> None:
    late = {"worst_waiting_tokens": 3000}
    assert classy().decide(of_two(ClassLoad(1.0), ClassLoad(1.0, **late))).mean_k == 8.0
    budget = classy().decide(of_two(ClassLoad(1.0, **late), ClassLoad(1.0)))
    assert budget.reason.startswith("overload: no rung holds: class gold, TTFT 1.0")


def test_no_class_is_planned_below_its_floor() -> None:
    hopeless = of_two(ClassLoad(1.0, worst_waiting_tokens=9000), ClassLoad(1.0))
    assert classy().decide(hopeless).mean_k == 2.5  # gold at 4, batch at 1
