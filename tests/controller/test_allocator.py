"""A budget becomes the plan of a rung, with the next epoch."""

import json

import pytest

from controller.allocator import Allocator
from controller.config import DEFAULT_CLASS
from controller.levels import Level
from controller.profiles import Profile
from controller.signals import Budget, Plan
from tests.fakes import allocator, phased_profile, profile, profile_data

PREVIOUS = Plan(epoch=7, k=(4, 4, 4, 4), quality=0.9)


def allocate(mean_k: float) -> Plan:
    return allocator(profile()).allocate(Budget(mean_k, "because"), {}, PREVIOUS)


@pytest.mark.parametrize(
    ("mean_k", "k"), [(1.0, 1), (1.49, 1), (1.5, 2), (2.9, 2), (3.0, 4), (5.9, 4), (6.0, 8)]
)
def test_a_budget_becomes_the_nearest_rung_the_better_of_two(mean_k: float, k: int) -> None:
    assert allocate(mean_k).k == (k, k, k, k)


def test_layers_differ_where_the_rungs_do() -> None:
    data = profile_data()
    data["rungs"][1]["plan"] = [1, 2, 2, 3]
    uneven = Profile.model_validate_json(json.dumps(data))
    plan = allocator(uneven).allocate(Budget(2.2, "because"), {}, PREVIOUS)
    assert plan == Plan(epoch=8, k=(1, 2, 2, 3), quality=0.8)


def test_a_changed_k_makes_a_plan_with_the_next_epoch() -> None:
    assert allocate(2.0) == Plan(epoch=8, k=(2, 2, 2, 2), quality=0.8)


@pytest.mark.parametrize("mean_k", [3.0, 4.0, 5.9])
def test_an_unchanged_rung_keeps_the_very_same_plan(mean_k: float) -> None:
    assert allocate(mean_k) is PREVIOUS


def test_a_plan_knows_its_mean_k() -> None:
    assert Plan(epoch=1, k=(1, 2, 2, 8), quality=0.8).mean_k == 3.25


def test_another_ceiling_of_prompts_makes_a_new_plan() -> None:
    ladder = phased_profile().ladder(1, 8, 2)
    by_phase = Allocator([Level({DEFAULT_CLASS: each}) for each in ladder])
    plan = by_phase.allocate(Budget(4.0, "because"), {}, PREVIOUS)
    assert (plan.epoch, plan.k, plan.prefill_k) == (8, PREVIOUS.k, (2, 2, 2, 2))
    assert by_phase.allocate(Budget(4.0, "because"), {}, plan) is plan
