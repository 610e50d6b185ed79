"""How close the simulator comes to two live replicas: the same slice, live and on virtual time.

Serves the shipped model, measures what it can do at full k' and at the floor, scales a slice of a
trace until its peak lies between the two, and sends it under full k', at the floor and under
`predictive`. The same schedule is then simulated, and the differences are held against limits.

Replicas that share their cores with each other, Ray and the load generator are slower than the
profile, which was made on an idle machine, and their steps scatter. The controller measures both as
it serves, and the simulated machine is one on which a controller finds the same
(`benchmarks.machine`); the simulated controller knows no more than a live one. How much replicas
slow each other down is measured before (`benchmarks.contention`), and the way to a replica and
back, which users see as well, meanwhile (`benchmarks.way`). Beside it the profile as it is.

    python -m benchmarks.fidelity [--trace T --start S --span S] [--peak-share 0.3] [--rounds 1]
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import contention
from benchmarks.machine import found_by, machine_of
from benchmarks.options import (
    CONV,
    INTERACTIVE,
    Json,
    Lengths,
    PeakShare,
    PolicyFile,
    Port,
    Span,
    Start,
)
from benchmarks.way import probed, way_of
from commands.exits import bad_input
from commands.stage import REPLICAS, Run, fixed, prepare, staged, under
from controller.config import PolicyChoice, SloPolicy
from controller.profiles import Profile
from simulations.results import summarise
from simulations.schedule import Requests, scale_to_peak
from simulations.settings import Settings
from simulations.simulate import simulate

START_S, SPAN_S = 600.0, 90.0
PEAK_WINDOW_S = 5.0
WATCH_S = 2.0
SEEDS = range(5)  # simulated; their mean is compared


@dataclass(frozen=True)
class Limit:
    """How far a simulated figure may be off."""

    figure: str
    most: float
    is_share: bool  # of the live figure; else it counts as it is


LIMITS = (
    Limit("attainment", 0.03, is_share=False),
    Limit("ttft_p95_s", 0.15, is_share=True),
    Limit("tpot_p95_s", 0.15, is_share=True),
    Limit("served_quality", 0.005, is_share=True),
)


def main(
    trace: Lengths = CONV,
    start: Start = START_S,
    span: Span = SPAN_S,
    policy_file: PolicyFile = INTERACTIVE,
    peak_share: PeakShare = 0.3,
    rounds: Annotated[int, typer.Option(min=1, help="Of all arms; the schedule differs")] = 1,
    port: Port = 8000,
    json_file: Json = Path("runs/fidelity/fidelity.json"),
) -> None:
    """Run a slice live and simulated, and say how far the two are apart."""
    console = Console(width=150)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    material = prepare(console, policy_file, trace, start, span)
    slo_policy, profile = material.slo_policy, material.profile
    arms = arms_of(slo_policy)
    found: list[dict[str, Any]] = []
    with staged(console, material, json_file.with_name("journal.jsonl"), port) as stage:
        capacity = stage.capacity(slo_policy, material.requests)
        console.print(f"capacity: {capacity}")
        alone = stage.run(
            "contention",
            fixed(slo_policy, slo_policy.experts.ceiling),
            contention.schedule(),
            watch_s=WATCH_S,
            seed=0,
        )
        with bad_input("contention"):
            slower = contention.contention_of(alone.records)
        console.print(f"steps beside another replica's take {1 + slower:.2f} times as long")
        for number in range(1, rounds + 1):
            schedule, _ = scale_to_peak(
                material.requests, capacity.between(peak_share), PEAK_WINDOW_S, number
            )
            for name, arm in arms.items():
                with probed(stage.url) as took_s:
                    run = stage.run(name, arm, schedule, watch_s=WATCH_S, seed=number)
                settings = machine_of(
                    found_by(run.ticks), way_of(took_s), schedule, arm, profile, slower
                )
                figures = both(run, schedule, arm, profile, settings)
                found.append({"round": number, "arm": name, **figures})
    json_file.write_text(json.dumps({"trace": trace.stem, "found": found}, indent=1) + "\n")
    console.print(table(found))
    console.print(f"figures {json_file}")


def arms_of(slo_policy: SloPolicy) -> dict[str, SloPolicy]:
    experts = slo_policy.experts
    return {
        "static-full": fixed(slo_policy, experts.ceiling),
        "static-floor": fixed(slo_policy, experts.floor),
        "predictive": under(slo_policy, PolicyChoice(name="predictive")),
    }


def both(
    run: Run, schedule: Requests, slo_policy: SloPolicy, profile: Profile, settings: Settings
) -> dict[str, Any]:
    """The figures of an arm: live, on the machine as it was found, and by the profile as it is."""
    return {
        "requests": len(schedule),
        "actual": asdict(settings.actual)
        | {"sigma": settings.noise.sigma if settings.noise else None}
        | {"contention": settings.contention}
        | {"way": asdict(settings.way) if settings.way else None},
        "live": run.figures(slo_policy.slo_classes),
        "simulated": simulated(schedule, slo_policy, profile, settings),
        "by_profile": simulated(schedule, slo_policy, profile, Settings(replicas=REPLICAS)),
    }


def simulated(
    schedule: Requests, slo_policy: SloPolicy, profile: Profile, settings: Settings
) -> dict[str, float | None]:
    """Means over seeds."""
    runs = [
        summarise(
            simulate(schedule, slo_policy, profile, settings, seed).records, slo_policy.slo_classes
        )
        for seed in SEEDS
    ]
    return {limit.figure: _mean([run[limit.figure] for run in runs]) for limit in LIMITS}


def off(limit: Limit, live: Mapping[str, Any], ours: Mapping[str, Any]) -> float | None:
    """Simulated over live; None where one of them is unknown."""
    there, here = live[limit.figure], ours[limit.figure]
    if there is None or here is None:
        return None
    difference: float = here - there
    return difference / there if limit.is_share else difference


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each arm and figure; a difference beyond its limit is marked."""
    headers = ("round", "arm", "figure", "live", "simulated", "off", "limit", "by the profile")
    shown = Table(*headers)
    for each in found:
        for limit in LIMITS:
            difference = off(limit, each["live"], each["simulated"])
            is_beyond = difference is None or abs(difference) > limit.most
            shown.add_row(
                str(each["round"]),
                each["arm"],
                limit.figure,
                *(_number(each[kind][limit.figure]) for kind in ("live", "simulated")),
                _difference(difference, limit) + (" !" if is_beyond else ""),
                _difference(limit.most, limit),
                _number(each["by_profile"][limit.figure]),
            )
    return shown


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _difference(value: float | None, limit: Limit) -> str:
    if value is None:
        return "unknown"
    return f"{100 * value:+.1f} %" if limit.is_share else f"{value:+.3f}"


if __name__ == "__main__":
    typer.run(main)
