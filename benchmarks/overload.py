"""More than the cheapest rung can carry, live, of two SLO classes: who is served, and how well.

Two local replicas of the shipped model under one SLO policy with classes. Measures what they can do
at the floor, sends Poisson arrivals of several times that for a while, then few, each request of a
class by its share; lengths are a trace's. By class: attainment, quality, what was refused and
whether it was told when to come back, failures, and the longest that any request took.

    python -m benchmarks.overload [--overload 1.5] [--slo-class premium=0.25,batch=0.75]
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.options import CONV, SPAN_S, START_S, Json, Lengths, Port, Span, Start
from commands.exits import FAILED, bad_input, stop
from commands.stage import Run, prepare, staged
from controller.config import SloPolicy
from simulations.arrivals import Phase, poisson, sent_at
from simulations.mix import Mix, parse_mix, require_known, with_classes
from simulations.plots import Arm, Frame, draw
from simulations.results import Record, summarise

HIGH_SHARE = 0.25  # of the requests, unless the operator says otherwise
WATCH_S = 10.0
ROWS = {
    "offered": "offered",
    "SLO attainment": "attainment",
    "served quality": "served_quality",
    "effective quality": "effective_quality",
    "mean k'": "mean_k",
    "completed": "completed",
    "shed": "shed",
    "shed with Retry-After": "shed_with_retry_after",
    "Retry-After p50, s": "retry_after_p50_s",
    "Retry-After longest, s": "retry_after_max_s",
    "failed": "failed",
    "TTFT p50, s": "ttft_p50_s",
    "TTFT p99, s": "ttft_p99_s",
    "TPOT p99, s": "tpot_p99_s",
    "longest answer, s": "longest_s",
    "2-s windows with a miss": "violating_windows_2s",
    "of windows": "windows_2s",
}


def main(
    trace: Lengths = CONV,
    start: Start = START_S,
    span: Span = SPAN_S,
    policy_file: Annotated[Path, typer.Option(help="SLO policy with classes")] = Path(
        "policies/two-classes.yaml"
    ),
    overload: Annotated[
        float, typer.Option(min=0.1, help="Arrivals over capacity at the lowest k'")
    ] = 1.5,
    seconds: Annotated[float, typer.Option(min=1, help="Of overload")] = 75.0,
    quiet: Annotated[float, typer.Option(min=1, help="Seconds of little load after it")] = 30.0,
    quiet_load: Annotated[
        float, typer.Option(min=0, help="Arrivals then, over capacity at full k'")
    ] = 0.3,
    slo_class: Annotated[
        str | None,
        typer.Option(
            help="Shares such as premium=0.25,batch=0.75; default a quarter of the highest priority"
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until a request is given up")
    ] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals, classes and prompts")] = 1,
    port: Port = 8000,
    json_file: Json = Path("runs/overload/overload.json"),
) -> None:
    """Offer more than the lowest k' can carry, live, in two classes, and say who was served."""
    console = Console(width=120)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    material = prepare(console, policy_file, trace, start, span)
    slo_policy = material.slo_policy
    with bad_input("--slo-class"):
        mix = parse_mix(slo_class) if slo_class else by_priority(slo_policy)
        require_known(mix, slo_policy.slo_classes)
    with staged(console, material, json_file.with_name("journal.jsonl"), port) as stage:
        capacity = stage.capacity(slo_policy, material.requests)
        console.print(f"capacity: {capacity}")
        phases = [
            Phase(seconds, overload * capacity.floor_rps),
            Phase(quiet, quiet_load * capacity.full_rps),
        ]
        requests = with_classes(sent_at(material.requests, poisson(phases, seed)), mix, seed)
        run = stage.run(
            "overload", slo_policy, requests, watch_s=WATCH_S, seed=seed, timeout_s=timeout
        )
    figures = {
        "trace": trace.stem,
        "mix": mix,
        "slo": {name: _objectives(slo_policy, name) for name in mix},
        "capacity_rps": {"full": capacity.full_rps, "floor": capacity.floor_rps},
        "headroom": capacity.headroom,
        "phases": [[phase.duration_s, phase.rate_rps] for phase in phases],
        "length_factor": material.length_factor,
        "overload": run.figures(slo_policy.slo_classes),
        "by_phase": by_phase(run.records, phases, slo_policy),
        "time_line": time_line(run, list(mix)),
    }
    json_file.write_text(json.dumps(figures, indent=1) + "\n")
    picture = json_file.with_suffix(".png")
    frame = Frame(
        requests,
        seconds + quiet + WATCH_S,
        capacity.full_rps,
        capacity.floor_rps,
        {f"objective of {name}": slo_policy.slo_classes[name].ttft_s for name in mix},
        material.profile.full_k,
    )
    draw(frame, [arm_of(run, name) for name in mix], picture)
    console.print(table(figures["overload"]))
    console.print(f"figures {json_file}, picture {picture}")
    if figures["overload"]["failed"]:
        stop("some requests failed", FAILED)


def by_priority(slo_policy: SloPolicy) -> Mix:
    """A quarter of the requests of the class that goes first, the rest of the one that goes last.

    A ValueError where no two classes differ in priority.
    """
    classes = slo_policy.slo_classes
    names = sorted(classes, key=lambda name: classes[name].priority)
    last, first = names[0], names[-1]
    if classes[first].priority == classes[last].priority:
        raise ValueError("the policy has no two classes of different priority: give their shares")
    return {first: HIGH_SHARE, last: 1 - HIGH_SHARE}


def by_phase(
    records: list[Record], phases: list[Phase], slo_policy: SloPolicy
) -> list[dict[str, Any]]:
    """The figures of the requests due in each phase."""
    found, from_s = [], 0.0
    for phase in phases:
        end_s = from_s + phase.duration_s
        due = [record for record in records if from_s <= record.scheduled_s < end_s]
        found.append(summarise(due, slo_policy.slo_classes))
        from_s = end_s
    return found


def time_line(run: Run, names: list[str]) -> list[dict[str, Any]]:
    """Second by second: requests due by class and status, and the controller's last word."""
    end_s = max([record.scheduled_s for record in run.records], default=0.0)
    rows = []
    for second in range(int(end_s) + 1):
        due = [record for record in run.records if int(record.scheduled_s) == second]
        ticks = [tick for tick in run.ticks if int(tick.at_s) == second]
        rows.append(
            {
                "at_s": second,
                **{name: _counts(due, name) for name in names},
                "waiting": ticks[-1].waiting_requests if ticks else None,
                "mean_k": {name: ticks[-1].of(name).mean_k for name in names} if ticks else None,
                "reason": ticks[-1].reason if ticks else None,
            }
        )
    return rows


def arm_of(run: Run, name: str) -> Arm:
    """One class of the run, as pictures have arms."""
    records = [record for record in run.records if record.judged_as == name]
    return Arm(name, records, [tick.of(name) for tick in run.ticks])


def table(figures: dict[str, Any]) -> Table:
    columns = {"all": figures, **figures["classes"]}
    shown = Table("", *columns)
    for label, field in ROWS.items():
        cells = [column[field] for column in columns.values()]
        shown.add_row(label, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return shown


def _counts(due: list[Record], name: str) -> dict[str, int]:
    own = [record.status for record in due if record.judged_as == name]
    return {status: own.count(status) for status in ("completed", "shed", "failed")}


def _objectives(slo_policy: SloPolicy, name: str) -> dict[str, float]:
    slo = slo_policy.slo_classes[name]
    return {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s}


if __name__ == "__main__":
    typer.run(main)
