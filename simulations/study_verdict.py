"""Who wins a study and why, in three sentences.

Takes a study without second names; an arm is better than another where the interval of their
difference says so, by E: the effective quality.
"""

from dataclasses import dataclass

from simulations.arms import ORACLE, STATIC_FULL
from simulations.comparison import WORTH, difference
from simulations.study import Study
from simulations.study_figures import known, main_arm, mean, ranked, worth

SHOWN = 0.0005  # less is no difference in three decimals


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the E of an arm is above that of another; no interval of a single seed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whatever its sign. Of a single seed nothing says that it is not."""
        return self.low is None or self.high is None or self.low > 0 or self.high < 0

    @property
    def is_level(self) -> bool:
        """No difference is shown, and chance makes none either."""
        reach = max(abs(each) for each in (self.mean, self.low or 0.0, self.high or 0.0))
        return abs(self.mean) < SHOWN and (self.is_clear or reach < SHOWN)

    @property
    def interval(self) -> str:
        """Of the distance, whatever its sign."""
        if self.low is None or self.high is None:
            return ""
        low, high = (self.low, self.high) if self.mean >= 0 else (-self.high, -self.low)
        return f" [{low:.3f}, {high:.3f}]"

    def __str__(self) -> str:
        if abs(self.mean) < SHOWN:
            return "level with"
        return f"{abs(self.mean):.3f} {'above' if self.mean > 0 else 'below'}"


def lead(study: Study, arm: str, other: str) -> Lead:
    ours, theirs = known(study.runs[arm], WORTH), known(study.runs[other], WORTH)
    found = difference(ours, theirs)
    if found is None:
        return Lead(worth(study, arm) - worth(study, other), None, None)
    return Lead(found.mean, found.low, found.high)


def verdict(study: Study) -> str:
    main = main_arm(study)
    rival = next((arm for arm in ranked(study) if arm != main), None)
    yardsticks = dict.fromkeys((rival or main, study.best_static, STATIC_FULL))
    others = [arm for arm in yardsticks if arm in study.runs and arm != main]
    sentences = [_rank(study, main, rival), _distance(study, main)]
    if len(study.runs[main]) == 1 and len(study.runs) > 1:
        sentences.append("One seed: how far chance reaches is not known.")
    if others:
        each = (f"{arm} {_goals(study, arm)}" for arm in others)
        sentences.append(f"For comparison: {'; '.join(each)}.")
    return " ".join(sentences)


def _rank(study: Study, main: str, rival: str | None) -> str:
    if rival is None:
        return f"{main} ran alone."
    found = lead(study, main, rival)
    if found.is_level:
        return f"No winner: {main} and {rival} are level."
    if not found.is_clear:
        return f"No clear winner: {main} and {rival} are within the noise of the seeds."
    return f"{main} wins." if found.mean > 0 else f"{rival} wins, {main} does not."


def _distance(study: Study, main: str) -> str:
    parts = [f"{main}: E {worth(study, main):.3f}"]
    if main == study.best_static:
        parts.append("itself the best constant")
    elif study.best_static in study.runs:
        found = lead(study, main, study.best_static)
        parts.append(f"{found} the best constant ({study.best_static}){found.interval}")
    if ORACLE in study.runs and main != ORACLE:
        parts.append(f"{lead(study, main, ORACLE)} the oracle")
    return f"{', '.join(parts)}; {_goals(study, main)}."


def _goals(study: Study, arm: str) -> str:
    attainment = mean(study.runs[arm], "attainment")
    quality = mean(study.runs[arm], "served_quality")
    if attainment is None:
        return "attainment unknown"
    return f"attainment {attainment:.3f}" + (
        "" if quality is None else f" at quality {quality:.3f}"
    )
