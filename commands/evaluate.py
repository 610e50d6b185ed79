"""`kprime evaluate`: held-out quality of a checkpoint at each k' or at a per-layer plan."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.exits import BAD_INPUT, bad_input, check_outputs, parse_ks, read_text, stop

if TYPE_CHECKING:
    from runtime.bootstrap import Tally
    from runtime.checkpoint import Checkpoint
    from runtime.choices import Item
    from runtime.elastic import ExpertDial
    from runtime.evaluate import Document, Windows

DEFAULT_CHOICES = 200


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder")],
    text: Annotated[
        Path, typer.Option(help="Held-out UTF-8 text; form feeds separate its documents")
    ],
    k: Annotated[str, typer.Option(help="k' of all layers, comma-separated")] = "1,2,4,8",
    per_layer: Annotated[
        str | None,
        typer.Option(help="Instead: k' of every layer, comma-separated, beside the trained one's"),
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window")] = 512,
    windows: Annotated[
        int | None, typer.Option(min=1, help="At most so many, evenly spread")
    ] = None,
    choices: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"At most so many choice items, 0 for none; default {DEFAULT_CHOICES}"
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Figures to write")] = None,
) -> None:
    """Measure NLL, bits per byte, next-token accuracy and a choice task, with 95 % intervals.

    A choice: which of four stretches of a document follows a context from it?

    Example: kprime evaluate --checkpoint checkpoints/prose-52m
    --text checkpoints/prose-52m/test.txt --k 1,2,4,8
    """
    from runtime.checkpoint import load_checkpoint
    from runtime.evaluate import cut_windows, read_documents

    check_outputs({"--json": json_file})
    held_out = read_text("--text", text)
    with bad_input("--checkpoint"):
        loaded = load_checkpoint(checkpoint)
    plans = _plans(loaded.dial, k, per_layer)
    reference = _reference(loaded.dial, plans)
    if window > loaded.context_tokens:
        stop(f"--window {window}: the context is {loaded.context_tokens} tokens", BAD_INPUT)
    documents = read_documents(loaded, held_out)
    with bad_input("--text"):
        cut = cut_windows(documents, window, windows)
    items = _items(documents, choices)
    tallies = _tallies(loaded, cut, items, plans)
    figures = {
        name: _figures(each, tallies[reference], cut.bytes_per_token)
        for name, each in tallies.items()
    }
    measured = _measured(cut, tallies[reference])
    _show(figures, reference, measured)
    if json_file:
        summary = {"reference": reference, **measured, "k": figures}
        json_file.write_text(json.dumps(summary, indent=1) + "\n")


def _plans(dial: "ExpertDial", k: str, per_layer: str | None) -> dict[str, list[int]]:
    """The plans asked for by their names in the output, all of which the model can run."""
    if per_layer is not None:
        trained = ",".join(map(str, dial.trained_plan))
        plans = {each: parse_ks("--per-layer", each) for each in (per_layer, trained)}
    else:
        plans = {str(each): [each] * len(dial.layers) for each in parse_ks("--k", k)}
    with bad_input("--k" if per_layer is None else "--per-layer"):
        for plan in plans.values():
            dial.check(plan)
    return plans


def _reference(dial: "ExpertDial", plans: dict[str, list[int]]) -> str:
    """The plan that the others are compared with: the trained one, else the largest."""
    return max(plans, key=lambda name: (tuple(plans[name]) == dial.trained_plan, sum(plans[name])))


def _items(documents: "Sequence[Document]", choices: int | None) -> "list[Item]":
    """The choice items; none, with a note, if the text has room for none and none were asked."""
    from runtime.choices import make_items
    from runtime.evaluate import TextError

    if choices == 0:
        return []
    try:
        return make_items(documents, choices or DEFAULT_CHOICES)
    except TextError as error:
        if choices is not None:
            stop(f"--choices {choices}: {error}; 0 leaves the task out", BAD_INPUT)
        typer.echo(f"no choice task: {error}", err=True)
        return []


def _tallies(
    loaded: "Checkpoint", cut: "Windows", items: "Sequence[Item]", plans: dict[str, list[int]]
) -> "dict[str, dict[str, Tally]]":
    """Every measure of every plan, behind a progress bar that counts predicted tokens."""
    from runtime.choices import choose, num_tokens
    from runtime.evaluate import evaluate as measure

    tallies = {}
    with Progress(console=Console(stderr=True)) as progress:
        total = len(plans) * (cut.num_tokens + num_tokens(items))
        advance = partial(progress.advance, progress.add_task("evaluating", total=total))
        for name, plan in plans.items():
            quality = measure(loaded, cut, plan, advance)
            tallies[name] = {"nll": quality.nll, "accuracy": quality.accuracy}
            if items:
                tallies[name]["choice"] = choose(loaded, items, plan, advance)
    return tallies


def _measured(windows: "Windows", tallies: "dict[str, Tally]") -> dict[str, int | str]:
    """On how much, and what was resampled for the intervals."""
    measured: dict[str, int | str] = {
        "documents": windows.num_documents,
        "windows": len(windows.ids),
        "tokens": windows.num_tokens,
        "bootstrap_unit": "document" if tallies["nll"].by_document else "window",
    }
    if choice := tallies.get("choice"):
        measured["choices"] = len(choice.sums_P)
        measured["choice_bootstrap_unit"] = "document" if choice.by_document else "item"
    return measured


def _figures(
    tallies: "dict[str, Tally]", reference: "dict[str, Tally]", bytes_per_token: float
) -> dict[str, float]:
    """Every measure and its paired difference to the reference, with their intervals."""
    from runtime.bootstrap import difference

    estimates = {name: tally.estimate() for name, tally in tallies.items()}
    for name, tally in tallies.items():
        estimates[f"{name}_difference"] = difference(tally, reference[name])
    figures = {"bits_per_byte": estimates["nll"].mean / math.log(2) / bytes_per_token}
    for name, (mean, low, high) in estimates.items():
        figures |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return figures


def _show(
    figures: dict[str, dict[str, float]], reference: str, measured: dict[str, int | str]
) -> None:
    from runtime.bootstrap import CONFIDENCE
    from runtime.choices import CHANCE

    has_choices = "choices" in measured
    headers = ["k'", "NLL,\nnats/token", f"more than\nat {reference}", "bits\nper byte", "accuracy"]
    table = Table(*headers, *["choice"] * has_choices)
    for name, row in figures.items():
        cells = [
            _with_interval(row, "nll", ".4f", ".3f"),
            _with_interval(row, "nll_difference", "+.4f", ".4f"),
            f"{row['bits_per_byte']:.4f}",
            f"{row['accuracy']:.4f}",
        ]
        if has_choices:
            cells.append(_with_interval(row, "choice", ".3f", ".2f"))
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(
        f"documents: {measured['documents']}, windows: {measured['windows']}, "
        f"tokens: {measured['tokens']}; below each figure its {CONFIDENCE:.0%} interval, "
        f"every {measured['bootstrap_unit']} a unit of the bootstrap"
    )
    if has_choices:
        console.print(
            f"choice: {measured['choices']} items, of which a guess solves {CHANCE:.0%}; "
            f"every {measured['choice_bootstrap_unit']} a unit"
        )


def _with_interval(row: dict[str, float], key: str, style: str, interval_style: str) -> str:
    low, high = (format(row[key + end], interval_style) for end in ("_low", "_high"))
    return f"{row[key]:{style}}\n{low}..{high}"
