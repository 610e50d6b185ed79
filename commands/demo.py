"""`kprime demo`: one real burst, served twice: at full k', then under the controller.

Composes what others do: a local cluster, a trace's schedule, the load generator, the report.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.demo_report import PEAK_WINDOW_S, report, result_of
from commands.exits import FAILED, stop
from commands.stage import SEED, fixed, prepare, staged
from simulations.schedule import peak_rps, scale_to_peak

PEAK_SHARE = 0.6  # where the peak lies between capacity at full k' (0) and at the floor (1)
RECOVERY_S = 30.0  # watched after the last request


def demo(
    trace: Annotated[Path, typer.Option(help="Trace")] = Path("traces/azure_llm_2023_code.csv"),
    start: Annotated[float, typer.Option(help="Seconds into the trace")] = 880.0,
    duration: Annotated[float, typer.Option(help="Seconds of the trace")] = 80.0,
    policy_file: Annotated[Path, typer.Option(help="SLO policy")] = Path(
        "policies/interactive.yaml"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port on loopback")] = 8000,
    json_file: Annotated[Path, typer.Option("--json", help="Figures")] = Path(
        "runs/demo/demo.json"
    ),
    html: Annotated[Path, typer.Option(help="Report")] = Path("runs/demo/demo.html"),
) -> None:
    """Serve the shipped model, replay a real burst at full k' and under the controller, compare.

    Example: kprime demo --html demo.html
    """
    from simulations.plots import Arm, Frame, draw

    console = Console()
    for file in (json_file, html):
        file.parent.mkdir(parents=True, exist_ok=True)
    material = prepare(console, policy_file, trace, start, duration)
    slo_policy, profile = material.slo_policy, material.profile
    with staged(console, material, json_file.with_name("journal.jsonl"), port) as stage:
        capacity = stage.capacity(slo_policy, material.requests)
        console.print(f"capacity: {capacity}")
        peak = capacity.between(PEAK_SHARE)
        scheduled, rate_factor = scale_to_peak(material.requests, peak, PEAK_WINDOW_S, SEED)
        console.print(
            f"{trace.name} from {start:g} s: {len(scheduled)} requests, peak "
            f"{peak_rps(scheduled, PEAK_WINDOW_S):.1f} requests/s over {PEAK_WINDOW_S:g} s "
            f"(rate x {rate_factor:.3f}, lengths x {material.length_factor:.3f})"
        )
        arms = {"static-full": fixed(slo_policy, profile.full_k), "kprime": slo_policy}
        runs = {
            name: stage.run(name, arm, scheduled, watch_s=RECOVERY_S) for name, arm in arms.items()
        }
    frame = Frame(
        scheduled,
        duration,
        capacity.full_rps,
        capacity.floor_rps,
        {"objective": slo_policy.slo.ttft_s},
        profile.full_k,
    )
    result = result_of(
        frame, slo_policy, profile, runs, trace.name, rate_factor, material.length_factor
    )
    json_file.write_text(json.dumps(result, indent=1) + "\n")
    picture = json_file.with_suffix(".png")
    draw(frame, [Arm(name, run.records, run.ticks) for name, run in runs.items()], picture)
    report(console, result, html, picture)
    console.print(f"figures {json_file}, picture {picture}, report {html}")
    if any(arm["failed"] for arm in result["arms"].values()):
        stop("some requests failed", FAILED)
