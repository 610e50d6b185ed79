"""How well the arrivals of the next seconds are foretold: the controller's forecast and others.

Each candidate is fed counts every 0.2 s and asked for the mean rate over the next 1, 2 and 4 s, and
for a bound that what comes passes one time in ten: its forecast and 1.28 times its own root mean
squared error of the last minute, all reckoned like the controller's.

A family's setting is the most agile within 2 % of its least pinball loss on the conversation trace
alone, at three rates and quickened. It is then frozen: the other scenarios test. Hindsight takes of
a family what loses least in each single test, which nobody can know beforehand.

    python -m benchmarks.forecast [--json runs/forecast.json]
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.forecasters import (
    HORIZONS_S,
    TICK_S,
    Ahead,
    Candidate,
    Counts,
    Values,
    after,
    families,
)
from simulations.schedule import scale_rate
from simulations.traces import Trace, read_trace

RATES = (5, 15, 40)
SHARE = 0.9  # of what comes, to be covered by the bound
WARM_UP_S = 10.0  # not judged
NEAR_BEST = 1.02
TRACES = Path("traces")
TUNED_ON = "azure_llm_2023_conv"
SYNTHETIC_S = 600.0
STEP_AT_S, STEP_SEEDS = 120.0, 20


@dataclass(frozen=True)
class Score:
    """In percent: of the mean rate, but `passed` of the ticks."""

    error: float  # mean absolute
    bias: float
    pinball: float  # of the bound, at 0.9
    passed: float
    bound: float


Scores = dict[str, dict[int, Score]]  # by scenario and horizon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("runs/forecast.json"))
    options = parser.parse_args()
    console = Console(width=215)
    traces = [read_trace(path) for path in sorted(TRACES.glob("*.csv"), reverse=True)]
    scenarios = {name: c for trace in traces for name, c in scaled(trace).items()} | synthetic()
    tuning = [counts for name, counts in scenarios.items() if group(name) == TUNED_ON]
    candidates = {}
    for family, settings in track(families().items(), "tuning", console=console, transient=True):
        setting = tuned(settings, tuning)
        candidates[f"{family} {setting}".strip()] = settings[setting]
    scores = {
        name: judged_all(candidate, scenarios)
        for name, candidate in track(candidates.items(), "testing", console=console, transient=True)
    }
    for family in ("EWMA", "Holt", "Holt, damped"):
        every = [judged_all(candidate, scenarios) for candidate in families()[family].values()]
        scores[f"{family}: hindsight"] = hindsight(every)
    halves = {name: [half_s(c, rate) for rate in RATES] for name, c in candidates.items()}
    console.print(f"settings tuned on {TUNED_ON} alone, then frozen; horizons of 1 / 2 / 4 s")
    console.print(*(_table(figure, scores) for figure in Score.__annotations__), _steps(halves))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        name: {label: {h: asdict(s) for h, s in rows.items()} for label, rows in of.items()}
        for name, of in scores.items()
    }
    data = {"tuned_on": TUNED_ON, "step_rates": RATES, "half_of_a_step_s": halves}
    options.json.write_text(json.dumps(data | {"scores": figures}, indent=1) + "\n")


def group(scenario: str) -> str:
    """Scenarios that differ by their rate alone are shown as one."""
    return scenario.split(",")[0]


# What arrives.


def counted(arrivals_s: Iterable[float]) -> Counts:
    return np.bincount((np.fromiter(arrivals_s, float) / TICK_S).astype(np.int64))


def scaled(trace: Trace) -> dict[str, Counts]:
    """Thinned or multiplied to each rate, as the load generator does; the quickened, to one.

    Quickening keeps the noise that of its rate, and makes what changes change sooner.
    """
    span_s = trace.requests[-1].arrival_s
    factors = {rate: rate * span_s / len(trace.requests) for rate in RATES}
    found = {
        f"{trace.name}, {rate}/s": counted(
            r.arrival_s for r in scale_rate(trace.requests, factor, seed=0)
        )
        for rate, factor in factors.items()
    }
    quick = counted(r.arrival_s / factors[RATES[1]] for r in trace.requests)
    return found | {f"{trace.name}, {RATES[1]}/s quickened": quick}


def synthetic() -> dict[str, Counts]:
    shapes: dict[str, Callable[[Values], Values]] = {
        "step x2": lambda t_s: 2 / 3 * (1 + t_s // 60 % 2),
        "ramp x3": lambda t_s: 0.5 + abs((t_s / 60 - 1) % 2 - 1),
        "sine": lambda t_s: 1 + 0.6 * np.sin(2 * math.pi * t_s / 30),
    }
    found = {
        f"{name}, {rate}/s": poisson(rate, shape, SYNTHETIC_S, seed=1)
        for (name, shape), rate in product(shapes.items(), RATES)
    }
    return found | {
        f"gamma CV {cv}, {rate}/s": gamma(rate, cv, SYNTHETIC_S)
        for cv, rate in product((2, 3, 4), RATES)
    }


def poisson(rate: float, shape: Callable[[Values], Values], span_s: float, seed: int) -> Counts:
    middles_s = (np.arange(round(span_s / TICK_S)) + 0.5) * TICK_S
    return np.random.default_rng(seed).poisson(rate * shape(middles_s) * TICK_S)


def gamma(rate: float, cv: float, span_s: float) -> Counts:
    """Renewals whose gaps have this coefficient of variation."""
    shape = cv**-2
    gaps_s = np.random.default_rng(1).gamma(shape, 1 / (rate * shape), round(2 * rate * span_s))
    arrivals_s = np.cumsum(gaps_s)
    return counted(arrivals_s[arrivals_s < span_s])


# What is said of it beforehand.


def tuned(settings: dict[str, Candidate], tuning: Iterable[Counts]) -> str:
    """The first setting whose loss is near the least."""
    cases = list(tuning)
    loss = {
        name: np.mean(
            [
                score.pinball
                for counts in cases
                for score in judged(counts, candidate(counts)).values()
            ]
        )
        for name, candidate in settings.items()
    }
    return next(name for name in settings if loss[name] <= NEAR_BEST * min(loss.values()))


def judged(counts: Counts, ahead: Ahead) -> dict[int, Score]:
    start, rate = round(WARM_UP_S / TICK_S), counts.mean() / TICK_S
    scores = {}
    for horizon_s, (forecasts, bounds) in ahead.items():
        came = after(counts, horizon_s)[start:]
        forecast, bound = forecasts[start:][: len(came)], bounds[start:][: len(came)]
        short = came - bound
        scores[horizon_s] = Score(
            error=float(100 * np.mean(abs(forecast - came)) / rate),
            bias=float(100 * np.mean(forecast - came) / rate),
            pinball=float(100 * np.mean(np.maximum(SHARE * short, (SHARE - 1) * short)) / rate),
            passed=float(100 * np.mean(short > 0)),
            bound=float(100 * np.mean(bound) / rate),
        )
    return scores


def judged_all(candidate: Candidate, scenarios: dict[str, Counts]) -> Scores:
    return {name: judged(counts, candidate(counts)) for name, counts in scenarios.items()}


def hindsight(scores: Sequence[Scores]) -> Scores:
    return {
        name: {h: min((of[name][h] for of in scores), key=lambda s: s.pinball) for h in HORIZONS_S}
        for name in scores[0]
    }


def half_s(candidate: Candidate, rate: float) -> float:
    """From a doubling of the rate to when the forecast of the next second went half the way.

    The mean of several forecasts, as one alone crosses by chance.
    """
    start = round(STEP_AT_S / TICK_S)
    forecasts = [
        candidate(poisson(rate, lambda t_s: 1.0 + (t_s > STEP_AT_S), STEP_AT_S + 60, seed))[1][0]
        for seed in range(STEP_SEEDS)
    ]
    return float((np.argmax(np.mean(forecasts, axis=0)[start:] >= 1.5 * rate) + 1) * TICK_S)


def _table(figure: str, scores: dict[str, Scores]) -> Table:
    groups = list(dict.fromkeys(group(name) for name in next(iter(scores.values()))))
    table = Table(f"{figure}, %", *(name.removeprefix("azure_llm_2023_") for name in groups))
    for candidate, by_scenario in scores.items():
        cells = []
        for of in groups:
            rows = [row for name, row in by_scenario.items() if group(name) == of]
            means = [np.mean([getattr(row[h], figure) for row in rows]) for h in HORIZONS_S]
            cells.append(" / ".join(f"{mean:.1f}" for mean in means))
        table.add_row(candidate, *cells)
    return table


def _steps(halves: dict[str, list[float]]) -> Table:
    table = Table("half of a step x2 after, s", *(f"{rate}/s" for rate in RATES))
    for name, seconds in halves.items():
        table.add_row(name, *(f"{s:.1f}" for s in seconds))
    return table


if __name__ == "__main__":
    main()
