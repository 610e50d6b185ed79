"""Options that the live benchmarks share, for typer."""

from pathlib import Path
from typing import Annotated

import typer

Lengths = Annotated[Path, typer.Option(help="Trace whose lengths are used")]
Start = Annotated[float, typer.Option(help="Seconds into the trace")]
Span = Annotated[float, typer.Option(help="Seconds of the trace")]
PolicyFile = Annotated[Path, typer.Option(help="SLO policy")]
PeakShare = Annotated[
    float,
    typer.Option(min=0, max=1, help="Where the peak lies from full k' (0) to the floor (1)"),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="HTTP port on loopback")]
Json = Annotated[Path, typer.Option("--json", help="Figures; the picture goes beside them")]

INTERACTIVE = Path("policies/interactive.yaml")
CONV = Path("traces/azure_llm_2023_conv.csv")
START_S, SPAN_S = 600.0, 300.0  # the longest request in it fits by 0.31
