"""In which order classes give up experts, and what never happens to them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import SloClass, SloPolicy
from controller.levels import Level, ladder_of, levels_of, safe_plan, served_levels
from controller.profiles import Served
from controller.signals import Phased, Plan
from tests.fakes import phased_profile, profile, slo_policy

LADDER = profile().ladder(1, 8, None)  # of 1, 2, 4 and 8 experts


def of(priority: int, floor: int | None = None) -> SloClass:
    return SloClass(ttft_s=1.0, tpot_s=0.1, priority=priority, floor=floor)


def ks(levels: list[Level]) -> list[dict[str, float]]:
    return [{name: each.mean_k for name, each in level.served.items()} for level in levels]


def two_classes(**changes: object) -> SloPolicy:
    gold = {"ttft_s": 1.0, "tpot_s": 0.1, "priority": 1, "floor": 2}
    return slo_policy(classes={"gold": gold}, **changes)


def test_of_one_class_the_levels_are_the_rungs() -> None:
    assert [each.served["default"] for each in levels_of(LADDER, {"default": of(0)})] == LADDER


def test_the_lowest_priority_goes_to_its_floor_before_the_next_gives_up_anything() -> None:
    levels = levels_of(LADDER, {"default": of(0), "gold": of(1, floor=2), "batch": of(-1, floor=4)})
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
    levels = levels_of(LADDER, {"default": of(0), "same": of(0, floor=4)})
    assert ks(levels[::-1]) == [
        {"default": 8, "same": 8},
        {"default": 4, "same": 4},
        {"default": 2, "same": 4},
        {"default": 1, "same": 4},
    ]


def test_a_floor_between_two_rungs_is_the_higher_one() -> None:
    assert ks(levels_of(LADDER, {"default": of(0, floor=3)})) == [{"default": 4}, {"default": 8}]


def test_a_floor_above_all_rungs_is_refused() -> None:
    with pytest.raises(ValueError, match="no rung from a class's floor 7 to the ceiling"):
        levels_of(LADDER[:3], {"default": of(0), "gold": of(1, floor=7)})


classes = st.dictionaries(
    st.sampled_from(["gold", "silver", "batch"]),
    st.builds(of, st.integers(-1, 1), st.none() | st.integers(1, 8)),
).map(lambda named: {"default": of(0), **named})


@given(classes, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_levels_only_go_up_and_keep_every_floor(
    classes: dict[str, SloClass], weights: list[float]
) -> None:
    levels = levels_of(LADDER, classes)
    shares = {name: weight / 4 for name, weight in zip(classes, weights, strict=False)}
    for lower, higher in pairwise(levels):
        assert lower != higher
        assert lower.mean_k(shares) <= higher.mean_k(shares)
        for name in classes:
            assert lower.served[name].mean_k <= higher.served[name].mean_k
    for name, its_class in classes.items():
        assert levels[0].served[name].mean_k >= (its_class.floor or 1)
        assert levels[-1].served[name] is LADDER[-1]


@given(classes)
def test_a_lower_priority_is_at_its_lowest_before_a_higher_one_gives_up(
    classes: dict[str, SloClass],
) -> None:
    levels = levels_of(LADDER, classes)
    lowest = levels[0].served
    for level in levels:
        for name, each in level.served.items():
            if each is not LADDER[-1]:
                below = [o for o in classes if classes[o].priority < classes[name].priority]
                assert all(level.served[other] is lowest[other] for other in below)


def at(k: int, prefill_ceiling: int | None = None) -> Served:
    return phased_profile().served(phased_profile().nearest(k), prefill_ceiling)


def test_a_level_costs_by_the_shares_of_its_classes() -> None:
    level = Level({"default": at(2), "gold": at(8)})
    assert level.mean_k({"default": 0.75, "gold": 0.25}) == 3.5
    assert level.layers({"default": 0.75, "gold": 0.25}) == (3.5, 3.5, 3.5, 3.5)
    assert level.mean_k({"default": 0.5, "unheard of": 0.5}) == 2.0


def test_without_shares_a_level_is_what_requests_of_no_class_get() -> None:
    level = Level({"default": at(2), "gold": at(8)})
    assert (level.mean_k({}), level.layers({})) == (2.0, (2.0, 2.0, 2.0, 2.0))


def test_a_plan_names_only_classes_that_differ() -> None:
    level = Level({"default": at(2), "gold": at(8), "batch": at(2)})
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


def test_prompts_run_at_the_highest_rung_up_to_their_ceiling_at_most_at_their_answers() -> None:
    ladder = phased_profile().ladder(1, 8, 3)
    assert [(each.rung.mean_k, each.prompts.mean_k) for each in ladder] == [
        (1, 1),
        (2, 2),
        (4, 2),
        (8, 2),
    ]
    assert phased_profile().served(phased_profile().full, 0.5).prompts.mean_k == 1


def test_lower_prompts_take_from_the_quality_of_higher_answers() -> None:
    ladder = phased_profile().ladder(1, 8, 1)
    qualities = [each.quality for each in ladder]
    assert qualities == pytest.approx([0.6, 0.8 * 0.99, 0.9 * 0.99, 0.99])


def test_a_level_with_lower_prompts_has_a_k_for_each_phase() -> None:
    level = Level({"default": at(8, 1), "gold": at(8, 1), "batch": at(1, 1)})
    half = {"default": 0.5, "batch": 0.5}
    assert level.layers(half) == Phased((1.0,) * 4, (4.5,) * 4)
    assert level.layers({}) == Phased((1.0,) * 4, (8.0,) * 4)
    assert level.layers({"batch": 1.0}) == (1.0,) * 4
    assert level.mean_k(half) == 4.5


def test_its_plan_says_the_same_for_every_class() -> None:
    level = Level({"default": at(8, 2), "gold": at(4, 2), "batch": at(1, 2)})
    plan = level.plan(7)
    assert plan.prefill_k == (2, 2, 2, 2)
    assert plan.quality == pytest.approx(0.995)
    assert plan.class_quality == pytest.approx({"gold": 0.9 * 0.995, "batch": 0.6})
    ks = {name: (plan.prefill_k_of(name)[0], plan.k_of(name)[0]) for name in ("gold", "batch")}
    assert ks == {"gold": (2, 4), "batch": (1, 1)}
    assert plan.prefill_k_of(None) == (2, 2, 2, 2)
    shares = {"default": 0.5, "batch": 0.5}
    assert plan.layers_over(shares) == level.layers(shares)
    assert plan.layers_over({}) == level.layers({})


def test_without_answers_above_their_ceiling_prompts_need_no_k_of_their_own() -> None:
    assert Level({"default": at(2, 2)}).plan(1).prefill_k is None


def test_the_ceiling_of_prompts_holds_for_the_safe_plan_and_a_constant_too() -> None:
    bounded = {"floor": 2, "ceiling": 8, "prefill_ceiling": 1}
    safe = safe_plan(slo_policy(experts=bounded), phased_profile(), 1)
    assert (safe.k, safe.prefill_k) == ((8,) * 4, (1,) * 4)
    constant = slo_policy(experts=bounded, policy={"name": "fixed", "k": 4})
    (level,) = served_levels(constant, phased_profile())
    assert (level.plan(1).k, level.plan(1).prefill_k) == ((4,) * 4, (1,) * 4)


def test_a_profile_that_does_not_know_what_lower_prompts_cost_is_refused() -> None:
    bounded = slo_policy(experts={"floor": 1, "ceiling": 8, "prefill_ceiling": 2})
    with pytest.raises(ValueError, match="prefill_ceiling 2: the profile does not say"):
        ladder_of(bounded, profile())
