"""What sets the arms of a study apart: means over seeds, paired differences, regret.

Takes figures by arm and seed. The same seed is the same load and the same draws for every arm, so
differences are taken seed by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap  # type: ignore[import-untyped]

from simulations.arms import BEST_STATIC, ORACLE
from simulations.oracle import regret
from simulations.study import ArmRun, Study

WORTH = "effective_quality"
NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """Paired, both by seed in one order. By percentile bootstrap, the same every time; None of one
    seed, which has no spread.
    """
    by_seed = np.subtract(ours, theirs)
    if len(by_seed) < 2:
        return None
    interval = bootstrap(
        (by_seed,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Difference(float(by_seed.mean()), float(interval.low), float(interval.high))


def over_best_static(study: Study) -> dict[str, dict[str, float | None]]:
    """By how much each arm's E is higher than the best constant's; none where that did not run."""
    if BEST_STATIC not in study.runs:
        return {}
    theirs = _worths(study.runs[BEST_STATIC])
    return {arm: _over(_worths(runs), theirs) for arm, runs in study.runs.items()}


def regrets(study: Study) -> dict[str, float | None]:
    """On means over seeds; None where the oracle or the best constant did not run, or no constant
    is worse than the oracle.
    """
    worth = {arm: float(np.mean(_worths(runs))) for arm, runs in study.runs.items()}
    if not {ORACLE, BEST_STATIC} <= worth.keys():
        return dict.fromkeys(worth)
    return {arm: regret(each, worth[ORACLE], worth[BEST_STATIC]) for arm, each in worth.items()}


def means(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of every figure that all have, those by class included; None where it is unknown of one: a
    mean over some would pass for all.
    """
    first, *others = by_seed
    shared = [name for name in first if all(name in other for other in others)]
    return {name: _mean([figures[name] for figures in by_seed]) for name in shared}


def _mean(values: Sequence[Any]) -> Any:  # noqa: ANN401  (a figure, or figures by name)
    if any(value is None for value in values):
        return None
    return means(values) if isinstance(values[0], Mapping) else float(np.mean(values))


def _worths(runs: Sequence[ArmRun]) -> list[float]:
    return [run.figures[WORTH] for run in runs]


def _over(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    found = difference(ours, theirs)
    if found is not None:
        return asdict(found)
    return {"mean": float(np.mean(np.subtract(ours, theirs))), "low": None, "high": None}
