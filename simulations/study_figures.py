"""What the report of a study says of its arms: figures over seeds, ranks, which arm to look at.

Takes a study; knows by name our own policy and what arms are measured by.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simulations.arms import BEST_STATIC, ORACLE, STATIC_FULL, static_arms
from simulations.comparison import WORTH
from simulations.study import ArmRun, Study

OURS = "predictive"


def known(runs: Sequence[ArmRun], field: str) -> list[float]:
    """A figure of every seed that has it."""
    values = (run.figures.get(field) for run in runs)
    return [float(value) for value in values if value is not None]


def mean(runs: Sequence[ArmRun], field: str) -> float | None:
    """Over seeds; None where one lacks it: a mean over some would pass for all."""
    values = known(runs, field)
    return float(np.mean(values)) if values and len(values) == len(runs) else None


def worth(study: Study, arm: str) -> float:
    return mean(study.runs[arm], WORTH) or 0.0


def ranked(study: Study) -> list[str]:
    """The highest effective quality first; of equals as they were asked for. Not the oracle, which
    is no arm that could be run.
    """
    arms = [arm for arm in study.runs if arm != ORACLE]
    return sorted(arms, key=lambda arm: -worth(study, arm))


def main_arm(study: Study) -> str:
    """Ours, or the best where ours was not asked for; the oracle where nothing else was."""
    return OURS if OURS in study.runs else next(iter(ranked(study)), ORACLE)


def is_static(arm: str) -> bool:
    return arm.startswith("static-")


def each_once(study: Study) -> Study:
    """Without the second names of arms: full k' is a rung, and so is `best-static`. Its name is
    empty where `best-static` was not asked for: then not every constant did run.
    """
    scenario, runs = study.scenario, dict(study.runs)
    *_, highest = static_arms(scenario.slo_policy, scenario.profile)
    best_runs, best = runs.pop(BEST_STATIC, None), study.best_static
    if STATIC_FULL in runs:
        runs.pop(highest, None)
        best = STATIC_FULL if best == highest else best
    if best_runs is None:
        return replace(study, runs=runs, best_static="")
    runs.setdefault(best, best_runs)
    return replace(study, runs=runs, best_static=best)


def of_class(runs: Sequence[ArmRun], slo_class: str) -> list[ArmRun]:
    """The same runs with the figures of one class."""
    return [replace(run, figures=run.figures["classes"].get(slo_class, {})) for run in runs]
