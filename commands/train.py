"""`kprime train`: runs a training recipe to its end, resuming an interrupted run."""

from pathlib import Path
from typing import Annotated

import typer

from commands.exits import BAD_INPUT, bad_input, stop


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as training/recipes/*.yaml")],
    corpus: Annotated[
        Path, typer.Option(help="Folder with the package archives of training/recipes/README.md")
    ] = Path("runs/corpus"),
    run: Annotated[
        Path | None, typer.Option(help="Metrics and state; default runs/NAME of the recipe")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write; default checkpoints/NAME")
    ] = None,
) -> None:
    """Train an elastic checkpoint. Started again after an interrupt, it goes on where it stopped.

    Example: kprime train training/recipes/prose-27m.yaml
    """
    from training.recipe import load_recipe
    from training.train import train as run_recipe

    with bad_input():
        parsed = load_recipe(recipe)
    try:
        run_recipe(
            parsed,
            corpus,
            run or Path("runs") / parsed.name,
            out or Path("checkpoints") / parsed.name,
        )
    except FileNotFoundError as error:
        stop(f"--corpus: {error}", BAD_INPUT)
