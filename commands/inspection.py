"""`kprime inspect`: where k' of a checkpoint is set, and whether setting it was proved to work.

Takes a checkpoint folder, with or without a tokenizer: nothing is generated. What makes a layer
elastic is known to `runtime.moe_layers`, and the proof to `runtime.elastic`, not here.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from commands.exits import BAD_INPUT, bad_input, check_outputs, stop

if TYPE_CHECKING:
    from runtime.moe_layers import MoeLayer
    from runtime.selection import Rule

UNKNOWN = "unknown"
COLUMNS = {
    "layer": "layer",
    "router": "router",
    "k_attribute": "k is set by",
    "k": "k",
    "experts": "experts",
    "max_k": "max k'",
    "weights": "weights",
}


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder")],
    json_file: Annotated[Path | None, typer.Option("--json", help="The same facts")] = None,
) -> None:
    """List the MoE layers of a checkpoint, and prove that k' takes effect or say why it does not.

    Exit status: 0 when the checkpoint is elastic, otherwise 2.

    Example: kprime inspect checkpoints/prose-52m
    """
    check_outputs({"--json": json_file})
    with bad_input():
        facts = _facts(checkpoint)
    _show(facts)
    if json_file:
        json_file.write_text(json.dumps(facts, indent=1) + "\n")
    if refusal := facts["refusal"]:
        stop(f"refused: {refusal}", BAD_INPUT)
    typer.echo(f"elastic k': proved; classes that share a step: {facts['by_class']}")


def _facts(folder: Path) -> dict[str, Any]:
    """Everything that is shown; raises CheckpointError if the folder holds no model at all."""
    from runtime.checkpoint import CheckpointError, load_model, skeleton
    from runtime.moe_layers import NotElasticError, find_moe_layers, fixed_layers

    model = skeleton(folder)
    facts = {"checkpoint": str(folder), "model": type(model).__name__, "layers": []}
    facts |= {"fixed": fixed_layers(model), "elastic": False, "refusal": None, "by_class": None}
    try:
        layers = find_moe_layers(model)
        facts["layers"] = [_row(layer, UNKNOWN) for layer in layers]
        _model, dial = load_model(folder)  # proves it, as it would be served
    except (NotElasticError, CheckpointError) as error:
        return facts | {"refusal": str(error)}
    rows = [
        _row(layer, _weights(elastic.rule))
        for layer, elastic in zip(layers, dial.elastic, strict=True)
    ]
    by_class = dial.not_by_token or "each class at its own k'"
    return facts | {"layers": rows, "elastic": True, "by_class": by_class}


def _weights(rule: "Rule") -> str:
    """What becomes of the weights when k' is changed."""
    if rule.anchor_k is not None:
        return "anchored above k"
    return "renormalised" if rule.renormalises else "not renormalised"


def _row(layer: "MoeLayer", weights: str) -> dict[str, str | int]:
    return {
        "layer": layer.name,
        "router": type(layer.router).__name__,
        "k_attribute": layer.k_attribute,
        "k": layer.k,
        "experts": layer.num_experts,
        "max_k": layer.max_k,
        "weights": weights,
    }


def _show(facts: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{facts['model']}: {len(facts['layers'])} MoE layers with a dial")
    if facts["layers"]:
        # Names are what one looks for: wrapped where the terminal is narrow, never cut.
        table = Table(*(Column(title, overflow="fold") for title in COLUMNS.values()))
        for row in facts["layers"]:
            table.add_row(*(str(row[key]) for key in COLUMNS))
        console.print(table)
    for name, reason in facts["fixed"].items():
        console.print(f"fixed: {name}: {reason}")
