"""A budget becomes a plan: rounded once, uniform, with the next epoch."""

import pytest
from pytest import approx

from controller.allocator import Allocator
from controller.signals import Budget, Plan
from tests.fakes import profile

PREVIOUS = Plan(epoch=7, k=(4, 4, 4, 4), quality=0.9)


def allocate(mean_k: float) -> Plan:
    return Allocator(profile()).allocate(Budget(mean_k, "because"), PREVIOUS)


@pytest.mark.parametrize(
    ("mean_k", "k"),
    [(1.0, 1), (1.49, 1), (1.5, 2), (2.4, 2), (2.5, 3), (7.49, 7), (7.5, 8), (8.0, 8)],
)
def test_a_budget_is_rounded_to_the_nearest_k_with_halves_up(mean_k: float, k: int) -> None:
    assert allocate(mean_k).k == (k, k, k, k)


def test_a_changed_k_makes_a_plan_with_the_next_epoch() -> None:
    assert allocate(2.0) == Plan(epoch=8, k=(2, 2, 2, 2), quality=0.8)


@pytest.mark.parametrize("mean_k", [3.5, 4.0, 4.49])
def test_an_unchanged_k_keeps_the_very_same_plan(mean_k: float) -> None:
    assert allocate(mean_k) is PREVIOUS


def test_the_quality_is_that_of_the_rounded_k() -> None:
    assert allocate(2.6).quality == approx(0.85)  # k' 3, half way from 0.8 to 0.9
    assert allocate(8.0).quality == approx(1.0)


def test_a_plan_knows_its_mean_k() -> None:
    assert Plan(epoch=1, k=(1, 2, 2, 8), quality=0.8).mean_k == 3.25
