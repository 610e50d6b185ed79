"""Which plans become rungs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from controller.profiles import Rung
from runtime.bootstrap import Tally
from runtime.evaluate import Quality
from runtime.rungs import accuracy_retention, ladder, pareto
from tests.fakes import profile

FULL = (4, 4)
DOCUMENTS = np.arange(24)


def tally(mean: float, noise: float = 0.0) -> Tally:
    """Of 100 tokens in each of 24 documents; `noise` differs between documents."""
    wave = noise * np.sin(1 + DOCUMENTS * 2.4)
    return Tally(100 * (mean + wave), np.full(24, 100), DOCUMENTS)


class Measured:
    """Losses by plan; answers agree and tokens are foreseen the better, the lower the loss."""

    def __init__(self, nll: dict[tuple[int, int], float], **over: dict) -> None:
        self._nll, self._over = nll, over
        self.stages: list[tuple[str, int]] = []

    def quality(self, _name: str, plan: tuple[int, int]) -> Quality:
        accuracy = self._over.get("accuracy", {}).get(plan, 0.5 - self._nll[plan] / 10)
        return Quality(tally(self._nll[plan], noise=0.0), tally(accuracy))

    def answers(self, _name: str, prefill_plan: tuple[int, int]) -> Tally | None:
        after = self._over.get("answers", {})
        return tally(after.get(prefill_plan, 1.0)) if after else None

    def agreement(self, _name: str, plan: tuple[int, int]) -> Tally:
        return tally(self._over.get("agreement", {}).get(plan, 1 - self._nll[plan] / 10))

    def on_stage(self, name: str, total: int) -> object:
        self.stages.append((name, total))
        return lambda: None


def chosen(by_layer: list[tuple[int | None, tuple[int, int]]], ks: list[int]) -> SimpleNamespace:
    return SimpleNamespace(
        ks=ks,
        full_k=4,
        uniform=lambda k: (k, k),
        cost_s=lambda plan: float(sum(plan)),
        by_layer=lambda: iter(by_layer),
    )


def plans(rungs: list[Rung]) -> list[tuple[int, ...]]:
    return [rung.plan for rung in rungs]


def test_a_plan_by_layer_replaces_the_uniform_one_where_it_is_better() -> None:
    nll = {(1, 1): 3.0, (2, 2): 2.0, (3, 1): 1.8, (4, 4): 1.0}
    rungs = ladder(Measured(nll), chosen([(1, (1, 1)), (2, (3, 1))], [1, 2, 4]))
    assert plans(rungs) == [(1, 1), (3, 1), (4, 4)]
    assert rungs[1].over_uniform is not None
    assert rungs[1].over_uniform.mean == pytest.approx(-0.2)
    assert rungs[0].over_uniform is None


def test_where_it_is_no_better_the_uniform_plan_stays() -> None:
    nll = {(1, 1): 3.0, (2, 2): 2.0, (3, 1): 2.0, (4, 4): 1.0}
    rungs = ladder(Measured(nll), chosen([(2, (3, 1))], [1, 2, 4]))
    assert plans(rungs) == [(1, 1), (2, 2), (4, 4)]


def test_between_uniform_plans_a_plan_by_layer_is_a_rung_if_it_beats_the_cheaper_one() -> None:
    nll = {(1, 1): 3.0, (2, 1): 2.5, (2, 2): 2.0, (3, 2): 2.1, (4, 4): 1.0}
    rungs = ladder(Measured(nll), chosen([(None, (2, 1)), (None, (3, 2))], [1, 2, 4]))
    assert plans(rungs) == [(1, 1), (2, 1), (2, 2), (4, 4)]


def test_above_full_k_a_plan_runs_longer_than_full_k() -> None:
    nll = {(1, 1): 3.0, (4, 4): 1.0, (8, 8): 0.9, (6, 1): 0.5, (8, 2): 0.6}
    cheaper = ladder(Measured(nll), chosen([(8, (6, 1))], [1, 4, 8]))
    assert plans(cheaper) == [(1, 1), (4, 4), (8, 8)]
    dearer = ladder(Measured(nll), chosen([(8, (8, 2))], [1, 4, 8]))
    assert plans(dearer) == [(1, 1), (4, 4), (8, 2)]


def test_second_measures_that_find_a_cheaper_rung_better_are_named() -> None:
    nll = {(1, 1): 3.0, (2, 2): 2.0, (4, 4): 1.0, (8, 8): 0.9}
    measured = Measured(
        nll,
        accuracy={(1, 1): 0.4, (2, 2): 0.3, (4, 4): 0.5, (8, 8): 0.5},
        agreement={(1, 1): 0.9, (2, 2): 0.8, (4, 4): 1.0, (8, 8): 0.7},
    )
    rungs = ladder(measured, chosen([], [1, 2, 4, 8]))
    # Above full k' answers are meant to differ from its own.
    assert [rung.contradicted_by for rung in rungs] == [(), ("accuracy", "agreement"), (), ()]


def test_rungs_get_better_as_they_get_dearer_and_full_k_is_always_one() -> None:
    one, two, four, eight = profile().rungs
    cost_s = {rung.plan: rung.mean_k for rung in (one, two, four, eight)}
    worse = two.model_copy(update={"quality": 0.5})
    assert pareto([eight, worse, one, four], cost_s, full_k=4) == [one, four, eight]
    vain = eight.model_copy(update={"quality": 0.9})
    assert pareto([one, two, four, vain], cost_s, full_k=4) == [one, two, four]
    too_good = two.model_copy(update={"quality": 0.95})
    assert pareto([one, too_good, four, eight], cost_s, full_k=4) == [one, too_good, four, eight]


def test_mean_k_rises_with_cost() -> None:
    one, two, four, _ = profile().rungs
    # A plan of fewer experts in dearer layers.
    dearer = two.model_copy(update={"plan": (3, 1, 1, 1), "mean_k": 1.5, "quality": 0.85})
    cost_s = {one.plan: 1.0, two.plan: 2.0, (3, 1, 1, 1): 2.5, four.plan: 4.0}
    assert pareto([one, two, dearer, four], cost_s, full_k=4) == [one, two, four]


def test_accuracy_is_kept_by_what_is_still_foreseen() -> None:
    full, half = (Quality(tally(1.0), tally(accuracy)) for accuracy in (0.4, 0.2))
    assert accuracy_retention(half, full) == pytest.approx((0.5, 0.5, 0.5))
    none = Quality(tally(1.0), tally(0.0))
    assert accuracy_retention(none, none).mean == 1.0


def test_a_rung_says_what_answers_keep_after_prompts_at_it() -> None:
    nll = {(1, 1): 3.0, (2, 2): 2.0, (4, 4): 1.0}
    after = {(1, 1): 1.0 + math.log(2), (2, 2): 1.0, (4, 4): 1.0}
    rungs = ladder(Measured(nll, answers=after), chosen([], [1, 2, 4]))
    assert [rung.prefill.mean for rung in rungs if rung.prefill] == pytest.approx([0.5, 1.0, 1.0])


def test_where_tokens_of_a_step_cannot_differ_no_rung_says_so() -> None:
    rungs = ladder(Measured({(1, 1): 3.0, (4, 4): 1.0}), chosen([], [1, 4]))
    assert [rung.prefill for rung in rungs] == [None, None]
