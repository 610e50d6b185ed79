"""The sentences about studies whose figures are written down here."""

from collections.abc import Sequence

import pytest

from simulations.study import Study
from simulations.study_figures import each_once, main_arm, mean, ranked
from simulations.study_verdict import lead, verdict
from tests.simulations.study_fakes import arm, study

GOOD, FAIR, POOR = (0.98, 0.99), (0.96, 0.97), (0.50, 0.52)  # E of two seeds


def compared(best_static: str = "static-4", **worths: Sequence[float]) -> Study:
    """With `best-static` beside the constant that it is; `_` stands for a dash."""
    runs = {name.replace("_", "-"): arm(*each) for name, each in worths.items()}
    return study({**runs, "best-static": runs[best_static]}, best_static)


def test_says_that_predictive_wins_by_how_much_and_what_the_others_reach() -> None:
    made = compared(predictive=GOOD, static_4=FAIR, static_full=POOR, oracle=(0.99, 0.99))
    assert verdict(each_once(made)) == (
        "predictive wins. predictive: E 0.985, 0.020 above the best constant (static-4) "
        "[0.020, 0.020], 0.005 below the oracle; attainment 0.995 at quality 0.990. "
        "For comparison: static-4 attainment 0.975 at quality 0.990; "
        "static-full attainment 0.520 at quality 0.990."
    )


def test_says_that_predictive_loses_to_a_constant() -> None:
    made = compared(predictive=(0.95, 0.97), static_4=GOOD, static_full=POOR)
    assert verdict(each_once(made)).startswith(
        "static-4 wins, predictive does not. predictive: E 0.960, 0.025 below the best constant "
        "(static-4) [0.020, 0.030]; attainment"
    )


def test_names_another_winner_with_what_it_reaches() -> None:
    made = compared(predictive=FAIR, aimd=GOOD, static_4=POOR)
    said = verdict(each_once(made))
    assert said.startswith("aimd wins, predictive does not. predictive: E 0.965, 0.455 above")
    assert "For comparison: aimd attainment 0.995 at quality 0.990; static-4" in said


def test_seeds_that_disagree_make_no_winner() -> None:
    made = compared(predictive=(0.95, 0.99), static_4=(0.96, 0.97))
    assert verdict(each_once(made)).startswith(
        "No clear winner: predictive and static-4 are within the noise of the seeds. predictive: "
        "E 0.970, 0.005 above the best constant (static-4) [-0.010, 0.020]"
    )


def test_arms_that_are_alike_are_level() -> None:
    made = compared(predictive=GOOD, static_4=GOOD)
    assert verdict(each_once(made)).startswith(
        "No winner: predictive and static-4 are level. predictive: E 0.985, level with the best"
    )


def test_the_best_arm_stands_in_where_predictive_was_not_asked_for() -> None:
    made = compared(aimd=GOOD, static_4=FAIR, oracle=(1.0, 1.0))
    assert main_arm(made) == "aimd"
    assert verdict(each_once(made)).startswith("aimd wins. aimd: E 0.985, 0.020 above the best")


def test_the_oracle_never_wins() -> None:
    made = each_once(compared(static_4=FAIR, static_full=POOR, oracle=(1.0, 1.0)))
    assert ranked(made) == ["static-4", "static-full"]
    assert verdict(made).startswith(
        "static-4 wins. static-4: E 0.965, itself the best constant, 0.035 below the oracle;"
    )


def test_one_seed_has_no_interval_and_says_so() -> None:
    said = verdict(each_once(compared(predictive=(0.98,), static_4=(0.96,))))
    assert "0.020 above the best constant (static-4); attainment" in said
    assert "One seed: how far chance reaches is not known." in said


@pytest.mark.parametrize("name", ["predictive", "static-2", "oracle"])
def test_an_arm_alone_wins_nothing(name: str) -> None:
    said = verdict(each_once(study({name: arm(0.9, 0.9)})))
    assert said == f"{name} ran alone. {name}: E 0.900; attainment 0.910 at quality 0.990."


def test_without_best_static_no_constant_is_called_the_best() -> None:
    made = each_once(study({"predictive": arm(*GOOD), "static-4": arm(*FAIR)}, "static-4"))
    assert made.best_static == ""
    assert "constant" not in verdict(made)


def test_an_arm_under_two_names_is_there_once() -> None:
    full, best = arm(*POOR), arm(*GOOD)
    runs = {"static-4": best, "static-8": full, "static-full": full, "best-static": best}
    once = each_once(study(runs, "static-4"))
    assert (list(once.runs), once.best_static) == (["static-4", "static-full"], "static-4")


def test_best_static_is_called_by_what_it_is() -> None:
    once = each_once(study({"best-static": arm(*GOOD), "aimd": arm(*FAIR)}, "static-4"))
    assert (list(once.runs), once.best_static) == (["aimd", "static-4"], "static-4")
    full = arm(*GOOD)
    once = each_once(study({"static-full": full, "best-static": full}, "static-8"))
    assert (list(once.runs), once.best_static) == (["static-full"], "static-full")


def test_a_mean_over_some_seeds_is_none() -> None:
    one, other = arm(0.9, 0.8)
    assert mean([one, other], "effective_quality") == pytest.approx(0.85)
    assert mean([one, other], "ttft_p95_s") is None


def test_a_lead_counts_from_the_arm_named_first() -> None:
    made = compared(predictive=FAIR, static_4=GOOD)
    behind, before = lead(made, "predictive", "static-4"), lead(made, "static-4", "predictive")
    assert (str(behind), str(before)) == ("0.020 below", "0.020 above")
    assert behind.interval == before.interval == " [0.020, 0.020]"
