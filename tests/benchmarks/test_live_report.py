"""Arms are compared within a round, and spread out over rounds."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.live_report import SHOWN, compared, spread, tables
from simulations.oracle import Fluid


def arm(violating: int, served: float | None, effective: float | None) -> dict[str, Any]:
    return {
        "violating_windows_2s": violating,
        "served_quality": served,
        "effective_quality": effective,
    }


ARMS = {
    "static-full": arm(20, 1.0, 0.4),
    "best-static": arm(4, 0.9, 0.8),
    "predictive": arm(1, 0.98, 0.95),
}
# Three a window where full quality carries 2 and quality 0.8 carries 4.
FLUID = Fluid(np.array([3.0, 3.0, 3.0]), 1.0, 0.0, np.array([4.0, 2.0]), np.array([0.8, 1.0]))
WAITING = Fluid(np.array([3.0, 3.0, 3.0]), 1.0, 9.0, np.array([4.0, 2.0]), np.array([0.8, 1.0]))
FLUIDS = {"first_token": FLUID, "last_token": WAITING}


def test_an_arm_is_set_beside_the_baseline_the_best_constant_and_the_oracle() -> None:
    arms = compared(ARMS, FLUIDS)["arms"]
    assert arms["predictive"]["fewer_violating"] == pytest.approx(0.95)
    assert arms["static-full"]["fewer_violating"] == 0
    assert arms["predictive"]["quality_loss"] == pytest.approx(0.02)
    # With time to wait the oracle serves all at full quality.
    assert arms["predictive"]["regret"] == pytest.approx(0.05 / 0.2)
    assert arms["best-static"]["regret"] == pytest.approx(1)


def test_the_oracle_is_told_by_deadline_and_objective() -> None:
    oracle = compared(ARMS, FLUIDS)["oracle"]
    assert set(oracle) == {
        f"{deadline}, {objective}"
        for deadline in ("first_token", "last_token")
        for objective in ("attainment", "quality")
    }
    hurried = oracle["first_token, attainment"]
    assert (hurried["attainment"], hurried["served_quality"]) == pytest.approx((1, 2.6 / 3))
    assert hurried["quality_loss"] == pytest.approx(0.4 / 3)
    assert oracle["last_token, quality"]["effective_quality"] == pytest.approx(1)


def test_what_cannot_be_compared_is_none() -> None:
    calm = {"static-full": arm(0, None, None), "predictive": arm(0, None, None)}
    for figures in compared(calm, FLUIDS)["arms"].values():
        assert figures["fewer_violating"] is None
        assert figures["quality_loss"] is None
        assert figures["regret"] is None
    alone = compared({"predictive": arm(1, 0.9, 0.9)}, FLUIDS)["arms"]["predictive"]
    assert (alone["fewer_violating"], alone["regret"]) == (None, None)


def test_the_spread_leaves_out_rounds_in_which_a_figure_is_unknown() -> None:
    rounds = [{"attainment": value, "shed": 1} for value in (0.9, None, 0.7, 0.8)]
    over = spread(rounds)
    assert over["rounds"] == rounds
    values = [over[name]["attainment"] for name in ("median", "least", "most")]
    assert values == [0.8, 0.7, 0.9]
    assert over["median"]["mean_k"] is None


def test_arms_have_a_column_each_and_oracles_a_row() -> None:
    rounds = [compared(ARMS, FLUIDS), compared(ARMS | {"predictive": arm(3, 0.98, 0.9)}, FLUIDS)]
    figures = {
        part: {name: spread([each[part][name] for each in rounds]) for name in rounds[0][part]}
        for part in ("arms", "oracle")
    }
    arms, oracle = tables(figures)
    assert [column.header for column in arms.columns] == ["", *ARMS]
    assert arms.row_count == len(SHOWN)
    assert oracle.row_count == 4
    text = io.StringIO()
    Console(file=text, width=300).print(arms, oracle)
    assert "2 (1 to 3)" in text.getvalue()
    assert "last_token, quality" in text.getvalue()
