"""Live arms against each other and against the fluid oracle, and their spread over rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from simulations.oracle import Fluid, Objective, oracle, regret

Figures = dict[str, Any]

BASELINE, BEST_STATIC = "static-full", "best-static"
SHOWN = {
    "SLO attainment": "attainment",
    "2-s windows with a miss": "violating_windows_2s",
    f"fewer than {BASELINE}, share": "fewer_violating",
    "served quality": "served_quality",
    "mean quality loss": "quality_loss",
    "effective quality": "effective_quality",
    "regret": "regret",
    "shed": "shed",
    "failed": "failed",
    "TTFT p95, s": "ttft_p95_s",
    "TPOT p95, s": "tpot_p95_s",
    "mean k'": "mean_k",
    "k' changes per minute": "switches_per_min",
    "step time off by": "step_time_error",
    "send lateness p99, s": "lateness_p99_s",
}
BOUNDED = {"attainment", "served_quality", "quality_loss", "effective_quality"}  # by the oracle


def compared(arms: Mapping[str, Figures], fluids: Mapping[str, Fluid]) -> dict[str, Figures]:
    """One round: the arms with what they are worth beside others, and the oracle, by deadline.

    Regret is against the oracle with the laxer deadline, the one that bounds what can be done, and
    the best constant as it ran.
    """
    best = {
        name: {objective.value: asdict(oracle(fluid, objective)) for objective in Objective}
        for name, fluid in fluids.items()
    }
    bound = best["last_token"][Objective.QUALITY]["effective_quality"]
    return {
        "arms": {
            name: {
                **figures,
                "quality_loss": _loss(figures["served_quality"]),
                "fewer_violating": _fewer(figures, arms.get(BASELINE)),
                "regret": _regret(figures, bound, arms.get(BEST_STATIC)),
            }
            for name, figures in arms.items()
        },
        "oracle": {
            f"{name}, {objective}": each | {"quality_loss": _loss(each["served_quality"])}
            for name, by_objective in best.items()
            for objective, each in by_objective.items()
        },
    }


def spread(rounds: Sequence[Figures]) -> Figures:
    """Every round, and over those in which a shown figure is known its median, least and most."""
    known = {
        field: [each[field] for each in rounds if each.get(field) is not None]
        for field in SHOWN.values()
    }
    return {
        "rounds": list(rounds),
        **{
            name: {field: how(values) if values else None for field, values in known.items()}
            for name, how in (("median", median), ("least", min), ("most", max))
        },
    }


def tables(figures: Figures) -> list[Table]:
    """The arms, a row a figure; the oracle, a row a deadline and objective. Medians over rounds,
    and in brackets from the least to the most.
    """
    arms, oracles = figures["arms"], figures["oracle"]
    ran = Table("", *arms)
    for label, field in SHOWN.items():
        ran.add_row(label, *(_cell(arm, field) for arm in arms.values()))
    bounds = {label: field for label, field in SHOWN.items() if field in BOUNDED}
    known = Table("oracle: work is due by, best is most", *bounds)
    for name, each in oracles.items():
        known.add_row(name, *(_cell(each, field) for field in bounds.values()))
    return [ran, known]


def _cell(column: Figures, field: str) -> str:
    middle, least, most = (column[name][field] for name in ("median", "least", "most"))
    if middle is None:
        return ""
    return f"{middle:.3g}" if least == most else f"{middle:.3g} ({least:.3g} to {most:.3g})"


def _loss(quality: float | None) -> float | None:
    """Of full k', whose quality is 1."""
    return None if quality is None else 1 - quality


def _fewer(figures: Figures, baseline: Figures | None) -> float | None:
    if baseline is None or not baseline["violating_windows_2s"]:
        return None
    return 1 - figures["violating_windows_2s"] / baseline["violating_windows_2s"]


def _regret(figures: Figures, bound: float, best_static: Figures | None) -> float | None:
    ours, constant = (each and each["effective_quality"] for each in (figures, best_static))
    return None if ours is None or constant is None else regret(ours, bound, constant)
