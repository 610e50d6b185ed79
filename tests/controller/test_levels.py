"""In which order classes give up experts, and what never happens to them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import SloClass, SloPolicy
from controller.levels import Level, levels_of, safe_plan, served_levels
from controller.profiles import Rung
from controller.signals import Plan
from tests.fakes import profile, slo_policy

RUNGS = profile().rungs  # of 1, 2, 4 and 8 experts


def of(priority: int, floor: int | None = None) -> SloClass:
    return SloClass(ttft_s=1.0, tpot_s=0.1, priority=priority, floor=floor)


def ks(levels: list[Level]) -> list[dict[str, float]]:
    return [{name: rung.mean_k for name, rung in level.rungs.items()} for level in levels]


def two_classes(**changes: object) -> SloPolicy:
    gold = {"ttft_s": 1.0, "tpot_s": 0.1, "priority": 1, "floor": 2}
    return slo_policy(classes={"gold": gold}, **changes)


def test_of_one_class_the_levels_are_the_rungs() -> None:
    assert [level.rungs["default"] for level in levels_of(RUNGS, {"default": of(0)})] == list(RUNGS)


def test_the_lowest_priority_goes_to_its_floor_before_the_next_gives_up_anything() -> None:
    levels = levels_of(RUNGS, {"default": of(0), "gold": of(1, floor=2), "batch": of(-1, floor=4)})
    assert ks(levels[::-1]) == [
        {"default": 8, "gold": 8, "batch": 8},
        {"default": 8, "gold": 8, "batch": 4},
        {"default": 4, "gold": 8, "batch": 4},
        {"default": 2, "gold": 8, "batch": 4},
        {"default": 1, "gold": 8, "batch": 4},
        {"default": 1, "gold": 4, "batch": 4},
        {"default": 1, "gold": 2, "batch": 4},
    ]


def test_classes_of_one_priority_go_down_together() -> None:
    levels = levels_of(RUNGS, {"default": of(0), "same": of(0, floor=4)})
    assert ks(levels[::-1]) == [
        {"default": 8, "same": 8},
        {"default": 4, "same": 4},
        {"default": 2, "same": 4},
        {"default": 1, "same": 4},
    ]


def test_a_floor_between_two_rungs_is_the_higher_one() -> None:
    assert ks(levels_of(RUNGS, {"default": of(0, floor=3)})) == [{"default": 4}, {"default": 8}]


def test_a_floor_above_all_rungs_is_refused() -> None:
    with pytest.raises(ValueError, match="no rung from a class's floor 7 to the ceiling"):
        levels_of(RUNGS[:3], {"default": of(0), "gold": of(1, floor=7)})


classes = st.dictionaries(
    st.sampled_from(["gold", "silver", "batch"]),
    st.builds(of, st.integers(-1, 1), st.none() | st.integers(1, 8)),
).map(lambda named: {"default": of(0), **named})


@given(classes, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_levels_only_go_up_and_keep_every_floor(
    classes: dict[str, SloClass], weights: list[float]
) -> None:
    levels = levels_of(RUNGS, classes)
    shares = {name: weight / 4 for name, weight in zip(classes, weights, strict=False)}
    for lower, higher in pairwise(levels):
        assert lower != higher
        assert lower.mean_k(shares) <= higher.mean_k(shares)
        for name in classes:
            assert lower.rungs[name].mean_k <= higher.rungs[name].mean_k
    for name, its_class in classes.items():
        assert levels[0].rungs[name].mean_k >= (its_class.floor or 1)
        assert levels[-1].rungs[name] is RUNGS[-1]


@given(classes)
def test_a_lower_priority_is_at_its_lowest_before_a_higher_one_gives_up(
    classes: dict[str, SloClass],
) -> None:
    levels = levels_of(RUNGS, classes)
    lowest = levels[0].rungs
    for level in levels:
        for name, rung in level.rungs.items():
            if rung is not RUNGS[-1]:
                below = [o for o in classes if classes[o].priority < classes[name].priority]
                assert all(level.rungs[other] is lowest[other] for other in below)


def rung(k: int) -> Rung:
    return profile().nearest(k)


def test_a_level_costs_by_the_shares_of_its_classes() -> None:
    level = Level({"default": rung(2), "gold": rung(8)})
    assert level.mean_k({"default": 0.75, "gold": 0.25}) == 3.5
    assert level.layers({"default": 0.75, "gold": 0.25}) == (3.5, 3.5, 3.5, 3.5)
    assert level.mean_k({"default": 0.5, "unheard of": 0.5}) == 2.0


def test_without_shares_a_level_is_what_requests_of_no_class_get() -> None:
    level = Level({"default": rung(2), "gold": rung(8)})
    assert (level.mean_k({}), level.layers({})) == (2.0, (2.0, 2.0, 2.0, 2.0))


def test_a_plan_names_only_classes_that_differ() -> None:
    level = Level({"default": rung(2), "gold": rung(8), "batch": rung(2)})
    assert level.plan(7) == Plan(
        7, (2, 2, 2, 2), 0.8, class_k={"gold": (8, 8, 8, 8)}, class_quality={"gold": 1.0}
    )


def test_a_constant_k_is_that_of_all_classes_unless_a_floor_is_higher() -> None:
    fixed = two_classes(policy={"name": "fixed", "k": 1})
    assert ks(served_levels(fixed, profile())) == [{"default": 1, "gold": 2}]


def test_a_dry_run_serves_the_safe_k_alone() -> None:
    dry = two_classes(mode="dry-run", experts={"floor": 1, "ceiling": 8, "safe": 4})
    assert ks(served_levels(dry, profile())) == [{"default": 4, "gold": 4}]


def test_a_safe_plan_is_below_no_floor() -> None:
    safe_at_one = two_classes(experts={"floor": 1, "ceiling": 8, "safe": 1})
    plan = safe_plan(safe_at_one, profile(), epoch=3)
    assert (plan.epoch, plan.k, plan.class_k) == (3, (1, 1, 1, 1), {"gold": (2, 2, 2, 2)})
