"""What `kprime load` and `kprime simulate` make of a trace alike: its rate, its classes, a summary.

Ends the command where an option asks for what cannot be.
"""

from typing import Annotated

import typer
from rich.console import Console

from commands.exits import bad_input
from simulations.mix import Mix, parse_mix
from simulations.schedule import Requests, scale_rate
from simulations.traces import Trace

CONTEXT_TOKENS = 2048  # of the shipped model

TraceOrLoad = Annotated[
    str,
    typer.Option(
        help="Azure LLM or BurstGPT CSV or Mooncake JSONL, or a load such as "
        "step:base=4,peak=8,before=40,step=60,after=40"
    ),
]
Start = Annotated[float, typer.Option(help="Seconds into the trace")]
Duration = Annotated[float | None, typer.Option(help="Seconds of the trace; default all")]
Context = Annotated[int, typer.Option(help="Tokens of prompt and output together")]


def mix_of(slo_class: str | None) -> Mix | None:
    if slo_class is None:
        return None
    with bad_input("--slo-class"):
        return parse_mix(slo_class)


def at_rate(
    requests: Requests,
    trace: Trace,
    start_s: float,
    duration_s: float | None,
    rate_rps: float,
    seed: int,
) -> Requests:
    """The cut of a trace at another mean rate, over the same time."""
    rest_s = trace.requests[-1].arrival_s - start_s
    span_s = rest_s if duration_s is None else min(duration_s, rest_s)
    with bad_input(f"--rate {rate_rps:g}"):
        return scale_rate(requests, rate_rps * span_s / len(requests), seed)


def describe(console: Console, trace: Trace, requests: Requests, length_factor: float) -> None:
    dropped = ", ".join(f"{count} with {reason}" for reason, count in trace.dropped.items())
    console.print(
        f"{trace.name}: {len(trace.requests)} requests; rows left out: {dropped or 'none'}"
    )
    console.print(
        f"schedule: {len(requests)} requests over {requests[-1].arrival_s:.1f} s; "
        f"lengths scaled by {length_factor:.4g}"
    )
