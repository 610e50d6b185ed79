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
    from transformers import PreTrainedModel

    from runtime.elastic import ExpertDial
    from runtime.moe_layers import MoeLayer

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
    typer.echo("elastic k': proved")


def _facts(folder: Path) -> dict[str, Any]:
    """Everything that is shown; raises CheckpointError if the folder holds no model at all."""
    from runtime.checkpoint import CheckpointError
    from runtime.moe_layers import NotElasticError, find_moe_layers, fixed_layers

    skeleton = _skeleton(folder)
    facts = {"checkpoint": str(folder), "model": type(skeleton).__name__, "layers": []}
    facts |= {"fixed": fixed_layers(skeleton), "elastic": False, "refusal": None}
    try:
        layers = find_moe_layers(skeleton)
        facts["layers"] = [_row(layer, UNKNOWN) for layer in layers]
        model, dial = _prove(folder)
        rules = _weights(model, dial)
    except (NotElasticError, CheckpointError) as error:
        return facts | {"refusal": str(error)}
    except RuntimeError as error:  # torch, in the first forward pass
        return facts | {"refusal": f"{folder}: the model does not run here: {error}"}
    rows = [_row(layer, rule) for layer, rule in zip(layers, rules, strict=True)]
    return facts | {"layers": rows, "elastic": True}


def _skeleton(folder: Path) -> "PreTrainedModel":
    """The model without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from runtime.checkpoint import CheckpointError

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: no config.json; expected a transformers checkpoint folder"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _prove(folder: Path) -> "tuple[PreTrainedModel, ExpertDial]":
    """As it would be served; raises CheckpointError or NotElasticError with the reason if not."""
    import torch

    from runtime.checkpoint import NUM_PROOF_TOKENS, load_checkpoint
    from runtime.elastic import ExpertDial

    if (folder / "tokenizer.json").is_file():
        loaded = load_checkpoint(folder)
        return loaded.model, loaded.dial
    model = _load_without_tokenizer(folder)
    dial = ExpertDial(model)
    dial.prove(torch.arange(NUM_PROOF_TOKENS, device=model.device)[None])
    return model, dial


def _load_without_tokenizer(folder: Path) -> "PreTrainedModel":
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from runtime.checkpoint import CheckpointError, best_device, best_dtype

    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=best_dtype(), local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{folder}: the weights lack {missing[0]}")
    return model.to(best_device()).eval()


def _weights(model: "PreTrainedModel", dial: "ExpertDial") -> list[str]:
    """What becomes of each layer's weights when its k' is changed."""
    import torch

    from runtime.checkpoint import NUM_PROOF_TOKENS
    from runtime.denominator import AboveK, rule_of
    from runtime.moe_layers import renormalising

    anchored = rule_of(model.config) is AboveK.ANCHORED
    kept = "anchored above k" if anchored else "renormalised"
    input_ids_BS = torch.arange(NUM_PROOF_TOKENS, device=model.device)[None]
    return [
        kept if each else "not renormalised"
        for each in renormalising(model, dial.layers, input_ids_BS)
    ]


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
