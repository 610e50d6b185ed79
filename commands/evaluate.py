"""`kprime evaluate`: held-out quality of a checkpoint at each k' or at one per-layer plan."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.exits import BAD_INPUT, bad_input, check_outputs, parse_ks, read_text, stop

if TYPE_CHECKING:
    from runtime.elastic import ExpertDial


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder")],
    text: Annotated[Path, typer.Option(help="Held-out UTF-8 text")],
    k: Annotated[str, typer.Option(help="k' of all layers, comma-separated")] = "1,2,4,8",
    per_layer: Annotated[
        str | None, typer.Option(help="One plan, k' of every layer, comma-separated")
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window")] = 512,
    windows: Annotated[
        int | None, typer.Option(min=1, help="At most so many, evenly spread")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures to write")] = None,
) -> None:
    """Measure NLL, bits per byte and next-token accuracy, with 95 % intervals over windows.

    Example: kprime evaluate --checkpoint checkpoints/prose-27m
    --text checkpoints/prose-27m/test.txt --k 1,2,4,8
    """
    from runtime.checkpoint import load_checkpoint
    from runtime.evaluate import cut_windows
    from runtime.evaluate import evaluate as measure

    check_outputs({"--json": json_file})
    held_out = read_text("--text", text)
    with bad_input("--checkpoint"):
        loaded = load_checkpoint(checkpoint)
    plans = _plans(loaded.dial, k, per_layer)
    if window > loaded.context_tokens:
        stop(f"--window {window}: the context is {loaded.context_tokens} tokens", BAD_INPUT)
    with bad_input("--text"):
        cut = cut_windows(loaded, held_out, window, windows)
    figures: dict[str, dict[str, float]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("evaluating", total=len(plans) * len(cut.ids_WS))
        for name, plan in plans.items():
            quality = measure(loaded, cut, plan, lambda: progress.advance(task))
            figures[name] = _figures(quality, cut.bytes_per_token)
    _show(figures)
    if json_file:
        json_file.write_text(json.dumps({"k": figures}, indent=1) + "\n")


def _plans(dial: "ExpertDial", k: str, per_layer: str | None) -> dict[str, list[int]]:
    """The plans asked for by their names in the output, all of which the model can run."""
    if per_layer is not None:
        plans = {per_layer: parse_ks("--per-layer", per_layer)}
    else:
        plans = {str(each): [each] * len(dial.layers) for each in parse_ks("--k", k)}
    with bad_input("--k" if per_layer is None else "--per-layer"):
        for plan in plans.values():
            dial.check(plan)
    return plans


def _figures(quality: Any, bytes_per_token: float) -> dict[str, float]:  # noqa: ANN401
    import math

    from runtime.evaluate import interval

    low, high = interval(quality.nll_W)
    return {
        "nll": quality.nll,
        "nll_low": low,
        "nll_high": high,
        "bits_per_byte": quality.nll / math.log(2) / bytes_per_token,
        "accuracy": quality.accuracy,
    }


def _show(figures: dict[str, dict[str, float]]) -> None:
    table = Table("k'", "NLL, nats/token", "95 % interval", "bits per byte", "accuracy")
    for name, row in figures.items():
        interval = f"{row['nll_low']:.4f} .. {row['nll_high']:.4f}"
        cells = (
            f"{row['nll']:.4f}",
            interval,
            f"{row['bits_per_byte']:.4f}",
            f"{row['accuracy']:.4f}",
        )
        table.add_row(name, *cells)
    Console().print(table)
