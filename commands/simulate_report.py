"""A study for people, as a table, and for scripts, as the fields of `kprime simulate --json`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from simulations.arms import BEST_STATIC
from simulations.comparison import means, over_best_static, regrets
from simulations.rates import rung_rates
from simulations.schedule import mean_lengths
from simulations.study import Scenario, Study
from simulations.study_conditions import conditions
from simulations.study_figures import each_once
from simulations.study_verdict import verdict

MIN_WIDTH = 160  # the table's, where nobody's terminal has to hold it
Row = Mapping[str, Any]


def summary(study: Study) -> dict[str, Any]:
    """Figures of an arm are means over seeds; `by_seed` has each."""
    scenario = study.scenario
    by_seed = {arm: [dict(run.figures) for run in runs] for arm, runs in study.runs.items()}
    return {
        "trace": scenario.name,
        "load": scenario.load,
        "headroom": headroom(scenario),
        "arms": {arm: means(figures) for arm, figures in by_seed.items()},
        "regret": regrets(study),
        "effective_quality_over_best_static": over_best_static(study),
        "best_static": study.best_static if BEST_STATIC in study.runs else None,
        "seeds": list(scenario.schedules),
        "by_seed": by_seed,
    }


def headroom(scenario: Scenario) -> float:
    """The lowest rung's rate over the highest one's within the bounds, at the mean lengths."""
    requests, experts = next(iter(scenario.schedules.values())), scenario.slo_policy.experts
    rungs = scenario.profile.within(experts.floor, experts.ceiling)
    rates_C = rung_rates(scenario.profile, *mean_lengths(requests), scenario.settings.replicas)
    low, high = (scenario.profile.rungs.index(rung) for rung in (rungs[0], rungs[-1]))
    return float(rates_C[low] / rates_C[high])


def show(console: Console, study: Study, figures: Mapping[str, Any]) -> None:
    """`figures` are those of `summary`."""
    console.print(_table(study, figures))
    console.print(verdict(each_once(study)))
    console.print("Held fixed:")
    for name, value in conditions(study).items():
        console.print(f"  {name}: {value}", highlight=False, soft_wrap=True)


def _table(study: Study, figures: Mapping[str, Any]) -> Table:
    leads = figures["effective_quality_over_best_static"]
    seeds = len(figures["seeds"])
    table = Table(
        "arm",
        caption=f"Means over {seeds} seed{'s' if seeds > 1 else ''}, latencies in s. "
        "E: quality of requests that met their objectives, over all offered. Missed: 2-s windows "
        "with a miss. Regret: 0 is the oracle's, 1 the best constant's.",
    )
    for name in (
        "met",
        "quality",
        "E",
        "E - best-static",
        "regret",
        "missed",
        "TTFT p95",
        "TPOT p95",
        "k'",
        "changes/min",
        "shed",
    ):
        table.add_column(name, justify="right")
    for arm, row in figures["arms"].items():
        table.add_row(
            f"{arm} ({study.best_static})" if arm == BEST_STATIC else arm,
            _number(row["attainment"], ".4f"),
            _number(row["served_quality"], ".4f"),
            _number(row["effective_quality"], ".4f"),
            _lead(leads[arm]) if arm in leads and arm != BEST_STATIC else "",
            _number(figures["regret"][arm], ".2f"),
            _of(row, "violating_windows_2s", "windows_2s"),
            _number(row["ttft_p95_s"], ".3f"),
            _number(row["tpot_p95_s"], ".4f"),
            _number(row["mean_k"], ".2f"),
            _number(row["switches_per_min"], ".1f"),
            _of(row, "shed", "offered"),
        )
    return table


def _lead(lead: Mapping[str, float | None]) -> str:
    mean = f"{lead['mean']:+.4f}"
    return mean if lead["low"] is None else f"{mean} [{lead['low']:+.3f}, {lead['high']:+.3f}]"


def _of(row: Row, part: str, whole: str) -> str:
    return "" if row[part] is None else f"{row[part]:.0f}/{row[whole]:.0f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
