"""`kprime train`: runs a training recipe to its end, resuming an interrupted run."""

from pathlib import Path
from typing import Annotated

import typer

from commands.exits import bad_input


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as training/recipes/*.yaml")],
    seed: Annotated[
        int | None, typer.Option(help="Instead of the recipe's; added to its name")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="JSON lines instead of the recipe's")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Metrics and state; default runs/NAME of the recipe")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write; default runs/NAME/checkpoint")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads; default all")] = None,
) -> None:
    """Train or fine-tune an elastic checkpoint. Started again, it goes on where it stopped.

    Example: kprime train training/recipes/table/emoe.yaml --seed 1
    """
    import torch

    from training.recipe import load_recipe
    from training.train import train as run_recipe

    with bad_input():
        parsed = load_recipe(recipe)
    changes: dict[str, object] = {}
    if seed is not None:
        changes |= {"seed": seed, "name": f"{parsed.name}-{seed}"}
    if data is not None:
        changes |= {"data": data}
    parsed = parsed.model_copy(update=changes)
    folder = run or Path("runs") / parsed.name
    if threads:
        torch.set_num_threads(threads)
    with bad_input(str(recipe)):
        run_recipe(parsed, folder, out or folder / "checkpoint")
