"""The constant baseline."""

from controller.signals import Budget
from policies.fixed import Fixed
from tests.fakes import load, profile, slo_policy


def test_it_holds_its_k_whatever_the_load() -> None:
    fixed = Fixed(4)
    assert fixed.decide(load()) == Budget(4, "fixed at 4")
    assert fixed.decide(load(worst_waiting_tokens=10**6)) == Budget(4, "fixed at 4")


def test_it_takes_its_k_from_the_slo_policy() -> None:
    chosen = slo_policy(policy={"name": "fixed", "k": 2})
    assert Fixed.from_slo_policy(chosen, profile()).decide(load()).mean_k == 2
