"""What `kprime demo` says in the end: its JSON, its table, its page. Takes runs, starts nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from commands.stage import Run
from controller.config import SloPolicy
from controller.profiles import Profile
from simulations.html_report import Picture, Rows, write_page
from simulations.schedule import burst_end_s, peak_rps
from simulations.timeline import recovery_s

if TYPE_CHECKING:
    from simulations.plots import Frame

PEAK_WINDOW_S = 5.0


def result_of(
    frame: "Frame",
    slo_policy: SloPolicy,
    profile: Profile,
    runs: dict[str, Run],
    trace: str,
    rate_factor: float,
    length_factor: float,
) -> dict[str, Any]:
    slo = slo_policy.slo
    arms = {name: run.figures(slo_policy.slo_classes) for name, run in runs.items()}
    end_s = burst_end_s(frame.requests, frame.capacity_full_rps, PEAK_WINDOW_S)
    changes_ms = runs["kprime"].actuation_ms
    p50, p99 = np.percentile(changes_ms, [50, 99]).tolist() if changes_ms else (None, None)
    return {
        "trace": trace,
        "load": None,
        "headroom": frame.capacity_floor_rps / frame.capacity_full_rps,
        "capacity_rps": {"full": frame.capacity_full_rps, "floor": frame.capacity_floor_rps},
        "peak_rps": peak_rps(frame.requests, PEAK_WINDOW_S),
        "rate_factor": rate_factor,
        "length_factor": length_factor,
        "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s},
        "quality_by_k": {f"{rung.mean_k:g}": rung.quality for rung in profile.rungs},
        "burst_end_s": end_s,
        "recovery_s": None
        if end_s is None
        else recovery_s(runs["kprime"].ticks, end_s, profile.full_k),
        "actuation_ms": {"p50": p50, "p99": p99, "changes": len(changes_ms)},
        "arms": arms,
        "regret": {},
    }


ROWS = {
    "requests offered": "offered",
    "refused, told when to retry": "shed",
    "failed": "failed",
    "SLO attainment": "attainment",
    "2-s windows with a miss": "violating_windows_2s",
    "of windows": "windows_2s",
    "served quality (full k' = 1)": "served_quality",
    "effective quality": "effective_quality",
    "mean k'": "mean_k",
    "TTFT p50, s": "ttft_p50_s",
    "TTFT p95, s": "ttft_p95_s",
    "TTFT p99, s": "ttft_p99_s",
    "TPOT p95, s": "tpot_p95_s",
    "k' changes per minute": "switches_per_min",
    "step time off by": "step_time_error",
    "send lateness p99, s": "lateness_p99_s",
}


def report(console: Console, result: dict[str, Any], html: Path, picture: Path) -> None:
    arms = result["arms"]
    rows = [
        [label, *(_number(arm[field]) for arm in arms.values())] for label, field in ROWS.items()
    ]
    table = Table("", *arms)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    actuation, slo = result["actuation_ms"], result["slo"]
    facts = {
        "Trace": f"{result['trace']}, rate x {result['rate_factor']:.3f}, lengths x "
        f"{result['length_factor']:.3f}; the same schedule and prompts for both arms, open loop",
        "Objectives": f"TTFT {slo['ttft_s']:g} s from scheduled arrival, TPOT {slo['tpot_s']:g} s",
        "Capacity": f"{result['capacity_rps']['full']:.1f} requests/s at full k', "
        f"{result['capacity_rps']['floor']:.1f} at the floor, measured here just before; "
        f"the peak over {PEAK_WINDOW_S:g} s is {result['peak_rps']:.1f}",
        "Quality": "perplexity at full k' over perplexity at the k' that served, held-out text",
        "Back at full k'": recovery(result["recovery_s"]),
        "Plan changes": f"{actuation['changes']}; decision to all replicas, p50 "
        f"{_number(actuation['p50'])} ms, p99 {_number(actuation['p99'])} ms",
    }
    for name, text in facts.items():
        console.print(f"[bold]{name}[/]: {text}")
    write_page(
        html,
        title="kprime: one burst, served twice",
        summary=f"SLO attainment {_number(arms['static-full']['attainment'])} at full k', "
        f"{_number(arms['kprime']['attainment'])} under the controller.",
        parts=[
            Rows("", ["", *arms], rows),
            Picture(picture, "Load, time to first token, queue and k' over time"),
        ],
        facts=facts,
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def recovery(seconds: float | None) -> str:
    """None: it was not seen."""
    return "not while it was watched" if seconds is None else f"{seconds:.4g} s after the burst"
