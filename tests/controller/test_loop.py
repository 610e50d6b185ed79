"""The controller as a whole: order, memory, and the same plans from the same samples."""

from pytest import approx

import policies
from controller.allocator import Allocator
from controller.estimator import Estimator
from controller.levels import served_levels
from controller.loop import Controller
from controller.policy import Policy
from controller.signals import Budget, Plan, Sample, Step, Work
from tests.fakes import MemoryJournal, ScriptedPolicy, allocator, profile, sample, slo_policy

FOUR_IS_SAFE = {"floor": 1, "ceiling": 8, "safe": 4}
START = Plan(epoch=1, k=(8, 8, 8, 8), quality=1.0)


def controller(policy: Policy, journal: MemoryJournal) -> Controller:
    estimator = Estimator(profile(), stale_s=1.0, forget_s=5.0)
    return Controller(estimator, policy, allocator(profile()), journal, START)


def test_a_tick_goes_from_samples_over_load_and_budget_to_a_plan() -> None:
    policy, journal = ScriptedPolicy([2.0]), MemoryJournal()
    c = controller(policy, journal)
    c.observe(sample(waiting_tokens=500), 0.0)
    plan = c.tick(0.5)
    (load,) = policy.loads
    assert (load.at_s, load.waiting_tokens) == (0.5, 500)
    assert plan == Plan(epoch=2, k=(2, 2, 2, 2), quality=0.8)
    assert journal.rows == [(load, Budget(2.0, "scripted"), plan)]


def test_the_last_tick_can_be_asked_for() -> None:
    c = controller(ScriptedPolicy([2.0]), MemoryJournal())
    assert (c.load, c.budget, c.plan) == (None, None, START)
    plan = c.tick(0.5)
    assert c.load is not None and c.load.at_s == 0.5
    assert (c.budget, c.plan) == (Budget(2.0, "scripted"), plan)


def test_the_journal_gets_every_tick_also_those_that_change_nothing() -> None:
    journal = MemoryJournal()
    c = controller(ScriptedPolicy([8.0, 2.0, 2.0, 4.0]), journal)
    for now_s in (0.0, 0.2, 0.4, 0.6):
        c.tick(now_s)
    assert [load.at_s for load, _, _ in journal.rows] == [0.0, 0.2, 0.4, 0.6]
    assert [budget.mean_k for _, budget, _ in journal.rows] == [8.0, 2.0, 2.0, 4.0]
    assert [plan.epoch for _, _, plan in journal.rows] == [1, 2, 2, 3]


def test_a_tick_that_changes_nothing_gives_the_very_same_plan() -> None:
    c = controller(ScriptedPolicy([8.0, 8.0]), MemoryJournal())
    assert c.tick(0.0) is c.tick(0.2) is START


def test_a_dry_run_decides_and_serves_something_else() -> None:
    policy, journal = ScriptedPolicy([2.0, 1.0]), MemoryJournal()
    estimator = Estimator(profile(), stale_s=1.0, forget_s=5.0)
    levels = served_levels(slo_policy(mode="dry-run", experts=FOUR_IS_SAFE), profile())
    c = Controller(estimator, policy, Allocator(levels), journal, START, dry_run=True)
    served = Plan(epoch=2, k=(4, 4, 4, 4), quality=0.9)
    assert c.tick(0.0) == c.tick(0.2) == served
    assert [load.mean_k for load in policy.loads] == [8.0, 4.0]
    assert [budget for _, budget, _ in journal.rows] == [
        Budget(2.0, "dry run: scripted"),
        Budget(1.0, "dry run: scripted"),
    ]
    assert [plan for _, _, plan in journal.rows] == [served, served]


def replay(samples: list[tuple[float, Sample]]) -> list[Plan]:
    policy = policies.build(slo_policy(), profile())
    journal = MemoryJournal()
    c = controller(policy, journal)
    for now_s, each in samples:
        c.observe(each, now_s)
        c.tick(now_s)
    return [plan for _, _, plan in journal.rows]


def test_the_same_samples_at_the_same_times_give_the_same_plans() -> None:
    busy = {"arrived_prompts": (100,), "arrived_output_tokens": 10}
    samples = [
        (0.0, sample(**busy)),
        (0.2, sample(waiting_tokens=7000, **busy)),
        (0.4, sample(waiting_tokens=23_000, **busy)),
        (0.6, sample(waiting_tokens=24_000, ttfts_s=(0.3,), **busy)),
        (0.8, sample(waiting_tokens=25_000, tpots_s=(0.05,), **busy)),
        *((1.0 + second, sample()) for second in range(30)),
    ]
    plans = replay(samples)
    assert [plan.mean_k for plan in plans[:5]] == [8.0, 4.0, 2.0, 2.0, 2.0]
    assert plans[-1].mean_k == 8.0
    assert replay(samples) == plans


def test_steps_that_no_correction_explains_hand_over_to_the_ladder_and_back() -> None:
    def steps(*durations_s: float) -> Sample:
        """100 prompt tokens each at k' 8; the profile says 90 ms."""
        work = Work(100, 0, 5050, 0)
        return sample(steps=tuple(Step(work, s, (800,) * 4, (16,) * 4) for s in durations_s))

    journal = MemoryJournal()
    c = controller(policies.build(slo_policy(), profile()), journal)
    history = [(0.0, []), (1.0, [0.09] * 20)]
    # A heartbeat that takes half, then one that takes double.
    history += [(2.0 + 0.2 * n, [(0.05, 0.2)[n % 2]] * 5) for n in range(10)]
    history += [(64.0, [0.11] * 20)]
    for now_s, durations_s in history:
        c.observe(steps(*durations_s), now_s)
        c.tick(now_s)
    _, before, *swinging, after = [budget.reason for _, budget, _ in journal.rows]
    assert before.startswith("100.0 % on time, worth 1.000: ")
    assert swinging[-1].startswith("model off by 49 % (bound 25 %): ladder: highest rung: ")
    assert after.startswith("100.0 % on time, worth 1.000: ")
    assert all(r.startswith(("100.0 % on time, worth 1.000: ", "model off by ")) for r in swinging)


def test_steps_that_scatter_within_a_heartbeat_are_no_error_of_the_model() -> None:
    estimator = Estimator(profile(), stale_s=1.0, forget_s=5.0)
    work = Work(100, 0, 5050, 0)  # 90 ms by the profile
    scattered = tuple(Step(work, s, (800,) * 4, (16,) * 4) for s in (0.06, 0.12) * 10)
    estimator.record(sample(steps=scattered), 0.0)
    assert estimator.estimate(0.0, START).step_time_error == approx(0.0)


def test_a_replica_ahead_of_us_makes_us_count_on_above_it() -> None:
    c = controller(ScriptedPolicy([8.0, 2.0]), MemoryJournal())
    c.observe(sample(replica="a", epoch=40), 0.0)
    assert c.plan == Plan(epoch=41, k=(8, 8, 8, 8), quality=1.0)
    c.observe(sample(replica="b", epoch=40), 0.0)
    assert c.tick(0.0).epoch == 41
    assert c.tick(0.2).epoch == 42


def test_a_replica_behind_us_changes_no_epoch() -> None:
    c = controller(ScriptedPolicy([2.0]), MemoryJournal())
    c.tick(0.0)
    c.observe(sample(epoch=1), 0.1)
    assert c.plan.epoch == 2
