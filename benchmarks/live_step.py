"""Twice the load for a minute, live: what users saw under several controllers, and the oracle.

Two local replicas of the shipped model. Measures what they can do at full k' and at the floor, then
sends Poisson arrivals whose rate doubles for a while, from below the capacity at full k' to between
the two; lengths are a trace's. Every arm of a round is sent the same schedule and prompts, and the
arms take turns, round after round, so that a drift of the machine touches all alike; each round has
a schedule of its own. Arms: static-full, static-K, best-static (the constant k' that the fluid
model finds best), or the name of a policy; with -prompts-K behind it, with that ceiling of prompts
(the oracle knows none: it has all tokens of a request at one k').

    python -m benchmarks.live_step [--repeats 3] [--peak-share 0.3] [--arms static-full,predictive]
"""

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from benchmarks.fluids import Rungs, fluids_of
from benchmarks.live_report import compared, spread, tables
from benchmarks.options import (
    CONV,
    INTERACTIVE,
    SPAN_S,
    START_S,
    Json,
    Lengths,
    PeakShare,
    PolicyFile,
    Port,
    Span,
    Start,
)
from commands.exits import FAILED, bad_input, stop
from commands.stage import Run, fixed, prepare, staged, under
from controller.config import Experts, PolicyChoice, PolicyName, SloPolicy
from simulations.arrivals import Phase, poisson, sent_at
from simulations.plots import Arm, Frame, draw
from simulations.results import write_records

ARMS = "static-full,predictive,aimd,best-static"
WATCH_S = 5.0
PROMPTS = "-prompts-"


def main(
    trace: Lengths = CONV,
    start: Start = START_S,
    span: Span = SPAN_S,
    policy_file: PolicyFile = INTERACTIVE,
    peak_share: PeakShare = 0.3,
    before: Annotated[float, typer.Option(min=1, help="Seconds before the step")] = 40.0,
    step: Annotated[float, typer.Option(min=1, help="Seconds of twice the rate")] = 60.0,
    after: Annotated[float, typer.Option(min=1, help="Seconds after it")] = 40.0,
    arms: Annotated[str, typer.Option(help="Comma-separated")] = ARMS,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of all arms")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the first round; then one more each")] = 1,
    port: Port = 8000,
    json_file: Json = Path("runs/live_step/live_step.json"),
) -> None:
    """Double the load for a while, live, under several controllers; compare them and the oracle."""
    console = Console(width=150)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    material = prepare(console, policy_file, trace, start, span)
    slo_policy = material.slo_policy
    with bad_input("--arms"):
        names = arms_in(arms, slo_policy.experts)
    with staged(console, material, json_file.with_name("journal.jsonl"), port) as stage:
        capacity = stage.capacity(slo_policy, material.requests)
        console.print(f"capacity: {capacity}")
        if capacity.headroom <= 1:
            stop("the floor is not faster than full k' here: no k' can help", FAILED)
        phases = step_of(capacity.between(peak_share), before, step, after)
        rungs = Rungs.measured(material, capacity)
        schedules = [sent_at(material.requests, poisson(phases, seed + n)) for n in range(repeats)]
        fluids = [fluids_of(schedule, rungs, slo_policy.slo) for schedule in schedules]
        best_k = rungs.best_constant(fluids[0])
        arm = {name: arm_of(name, slo_policy, best_k) for name in names}
        rounds = [
            {
                name: stage.run(name, arm[name], schedule, watch_s=WATCH_S, seed=seed + number)
                for name in turned(names, number)
            }
            for number, schedule in enumerate(schedules)
        ]
    figures = {
        "trace": trace.stem,
        "slo": {"ttft_s": slo_policy.slo.ttft_s, "tpot_s": slo_policy.slo.tpot_s},
        "capacity_rps": {"full": capacity.full_rps, "floor": capacity.floor_rps},
        "headroom": capacity.headroom,
        "phases": [[phase.duration_s, phase.rate_rps] for phase in phases],
        "length_factor": material.length_factor,
        "requests": [len(schedule) for schedule in schedules],
        "best_static_k": best_k,
        **over_rounds(
            [
                compared(figures_of(runs, names, slo_policy), each)
                for runs, each in zip(rounds, fluids, strict=True)
            ]
        ),
    }
    json_file.write_text(json.dumps(figures, indent=1) + "\n")
    for number, runs in enumerate(rounds, 1):
        for name, run in runs.items():
            write_records(json_file.with_name(f"{name}-{number}.jsonl"), run.records)
    picture = json_file.with_suffix(".png")
    frame = Frame(
        schedules[0],
        before + step + after + WATCH_S,
        capacity.full_rps,
        capacity.floor_rps,
        {"objective": slo_policy.slo.ttft_s},
        material.profile.full_k,
    )
    draw(
        frame,
        [Arm(name, rounds[0][name].records, rounds[0][name].ticks) for name in names],
        picture,
    )
    console.print(*tables(figures), sep="\n")
    console.print(f"headroom {capacity.headroom:.2f}; figures {json_file}, picture {picture}")


def step_of(peak_rps: float, before_s: float, step_s: float, after_s: float) -> list[Phase]:
    """Half the peak, the peak, half the peak."""
    return [Phase(before_s, peak_rps / 2), Phase(step_s, peak_rps), Phase(after_s, peak_rps / 2)]


def arms_in(text: str, experts: Experts) -> list[str]:
    """The names; a ValueError for the first that is none, or is given twice."""
    constants = [f"static-{k}" for k in range(experts.floor, experts.ceiling + 1)]
    movers = [name for name in get_args(PolicyName) if name != "fixed"]
    controllers = ["static-full", "best-static", *constants, *movers]
    lower = [f"{name}{PROMPTS}{k}" for name in controllers for k in range(1, experts.ceiling + 1)]
    accepted = [*controllers, *lower]
    names = text.split(",")
    for name in names:
        if name not in accepted or names.count(name) > 1:
            known = ", ".join(controllers)
            raise ValueError(
                f"{name!r}: expected, each once, some of {known}, or one of them{PROMPTS}K"
            )
    return names


def arm_of(name: str, slo_policy: SloPolicy, best_k: int) -> SloPolicy:
    """The SLO policy with what that arm puts in the place of its policy, and of that of prompts."""
    name, _, most = name.partition(PROMPTS)
    if most:
        lower = slo_policy.experts.model_copy(update={"prefill_ceiling": int(most)})
        slo_policy = slo_policy.model_copy(update={"experts": lower})
    if name == "best-static":
        return fixed(slo_policy, best_k)
    if name == "static-full":
        return fixed(slo_policy, slo_policy.experts.ceiling)
    if name.startswith("static-"):
        return fixed(slo_policy, int(name.removeprefix("static-")))
    return under(slo_policy, PolicyChoice(name=name))


def turned(names: list[str], number: int) -> list[str]:
    """Another arm begins in every round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def figures_of(
    runs: dict[str, Run], names: list[str], slo_policy: SloPolicy
) -> dict[str, dict[str, Any]]:
    return {name: runs[name].figures(slo_policy.slo_classes) for name in names}


def over_rounds(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By part and name: what it was in every round, and the spread."""
    return {
        part: {name: spread([each[part][name] for each in rounds]) for name in rounds[0][part]}
        for part in rounds[0]
    }


if __name__ == "__main__":
    typer.run(main)
