"""Differences by seed, means over seeds, regret."""

from dataclasses import dataclass
from typing import Any

import pytest

from simulations.comparison import difference, means, over_best_static, regrets
from simulations.study import ArmRun, Study


def test_a_difference_is_taken_seed_by_seed() -> None:
    # Between seeds far more than between arms: paired, all three seeds say 0.1 to 0.3.
    found = difference([0.2, 0.6, 1.0], [0.1, 0.4, 0.7])
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.1, 0.3))


def test_more_seeds_narrow_the_interval() -> None:
    few, many = (difference([0.1, 0.3] * n, [0.0, 0.0] * n) for n in (2, 20))
    assert few and many
    assert 0.1 <= few.low < many.low < 0.2 < many.high < few.high <= 0.3


def test_a_difference_that_is_the_same_in_every_seed_has_no_width() -> None:
    found = difference([1.0, 2.0], [0.5, 1.5])
    assert found and (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_a_single_seed_has_no_interval() -> None:
    assert difference([1.0], [0.5]) is None


def test_it_is_the_same_every_time() -> None:
    ours, theirs = [0.2, 0.5, 0.9, 0.4], [0.1, 0.5, 0.7, 0.1]
    assert difference(ours, theirs) == difference(ours, theirs)


def test_means_are_over_seeds_and_unknown_where_one_is() -> None:
    first = {"offered": 10, "ttft_p95_s": 0.5, "classes": {"a": {"shed": 1}, "b": {"shed": 2}}}
    second = {"offered": 20, "ttft_p95_s": None, "classes": {"a": {"shed": 3}}}
    assert means([first, second]) == {
        "offered": 15.0,
        "ttft_p95_s": None,
        "classes": {"a": {"shed": 2.0}},
    }


@dataclass(frozen=True)
class Unused:
    """In the place of a scenario that nobody asks."""


def study(**worths: list[float]) -> Study:
    def runs(each: list[float]) -> list[ArmRun]:
        figures: list[dict[str, Any]] = [{"effective_quality": worth} for worth in each]
        return [ArmRun(seed, of, None) for seed, of in enumerate(figures)]

    arms = {name.replace("_", "-"): runs(each) for name, each in worths.items()}
    return Study(Unused(), arms, "static-4")  # type: ignore[arg-type]


def test_regret_is_of_means_over_seeds() -> None:
    three = study(best_static=[0.5, 0.7], lp=[0.6, 0.9], oracle=[0.8, 1.0])
    assert regrets(three) == pytest.approx({"best-static": 1.0, "lp": 0.5, "oracle": 0.0})


def test_regret_needs_the_oracle_the_best_constant_and_something_to_win() -> None:
    assert regrets(study(lp=[0.6], oracle=[0.8])) == {"lp": None, "oracle": None}
    assert regrets(study(best_static=[0.8], oracle=[0.8]))["best-static"] is None


def test_arms_are_held_against_the_best_constant() -> None:
    found = over_best_static(study(best_static=[0.5, 0.7], lp=[0.6, 0.8]))
    assert found["lp"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert found["best-static"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    one = over_best_static(study(best_static=[0.5], lp=[0.6]))
    assert one["lp"] == {"mean": pytest.approx(0.1), "low": None, "high": None}
    assert over_best_static(study(lp=[0.6])) == {}
