"""Who decides: the model while it meets the steps that run, else the ladder."""

import policies
from controller.signals import Budget
from policies.trusting import Trusting
from tests.fakes import Running, ScriptedPolicy, load, profile, slo_policy


def trusting(num_ticks: int = 9) -> Trusting:
    """The model wants 8, the ladder 2."""
    return Trusting(
        ScriptedPolicy([8.0] * num_ticks), ScriptedPolicy([2.0] * num_ticks), bound=0.25
    )


def test_a_model_that_meets_the_steps_decides() -> None:
    policy = trusting()
    assert policy.decide(load(step_time_error=0.05)) == Budget(8.0, "scripted")
    assert policy.decide(load(step_time_error=0.25)) == Budget(8.0, "scripted")


def test_above_the_bound_the_ladder_decides_and_the_reason_says_so() -> None:
    budget = trusting().decide(load(step_time_error=0.34))
    assert budget == Budget(2.0, "model off by 34 % (bound 25 %): ladder: scripted")


def test_the_model_is_trusted_again_only_well_below_the_bound() -> None:
    policy = trusting()
    errors = (0.24, 0.26, 0.24, 0.21, 0.2, 0.21, 0.25, 0.26)
    made = [policy.decide(load(step_time_error=error)).mean_k for error in errors]
    assert made == [8, 2, 2, 2, 8, 8, 8, 2]


def test_an_unknown_error_changes_nothing() -> None:
    policy = trusting()
    assert policy.decide(load(step_time_error=None)).mean_k == 8
    policy.decide(load(step_time_error=0.5))
    budget = policy.decide(load(step_time_error=None))
    assert budget == Budget(2.0, "model was off (bound 25 %): ladder: scripted")


def test_the_ladder_watches_also_while_the_model_decides() -> None:
    ladder = ScriptedPolicy([2.0, 2.0])
    policy = Trusting(ScriptedPolicy([8.0]), ladder, bound=0.25)
    policy.decide(load(at_s=1.0))
    policy.decide(load(at_s=2.0, step_time_error=0.5))
    assert [seen.at_s for seen in ladder.loads] == [1.0, 2.0]


def test_the_policy_named_predictive_falls_back_at_the_bound_of_the_slo_policy() -> None:
    chosen = slo_policy(guard={"step_time_error": 0.5})
    policy = Running(policies.build(chosen, profile()), 8.0)
    waiting = {"oldest_wait_s": 2.0, "worst_waiting_tokens": 23_000}
    assert policy.decide(load(**waiting, step_time_error=0.6)) == Budget(
        4.0,
        "model off by 60 % (bound 50 %): ladder: one rung down: oldest wait 2.000, "
        "TTFT p95 none/1.000 s, TPOT p95 none/0.100 s, 23000 tokens wait",
    )
    trusted = policy.decide(load(**waiting, step_time_error=0.4))
    assert (trusted.mean_k, trusted.reason[:8]) == (2.0, "overload")
