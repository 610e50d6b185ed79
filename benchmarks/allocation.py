"""Plans whose layers differ against the same k' in every layer, at equal numbers of experts.

What a layer loses at each k' is found in three ways (`runtime.ways`), two of them on the same
windows and one without any; an exact knapsack (`controller.ladder`) makes a plan of each for every
budget; the plans are measured on other windows, paired with the uniform plan. Prints how the ways
rank layers and k', the plans, and LExI's evolutionary search beside the knapsack.

    python -m benchmarks.allocation --checkpoint D --text F [--window 512] [--windows 144]
        [--k 1,2,3,4,5,6,8] [--threads 1] [--json F]
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import evolution
from controller.ladder import best_plans, within
from runtime.bootstrap import Estimate, difference
from runtime.checkpoint import Checkpoint, load_checkpoint
from runtime.evaluate import Quality, Windows, cut_windows, evaluate, read_documents
from runtime.sensitivity import Evaluate, num_layer_runs, num_plans, output_changes_by_layer
from runtime.ways import DATA_FREE, Correlation, Losses, correlations, sensitivities

CHOOSING_EVERY = 3  # windows: one chooses plans, the others measure them


@dataclass(frozen=True)
class Chosen:
    """The plan of one way with at most as many experts as k' in every layer, in nats over that."""

    plan: tuple[int, ...]
    over_uniform: Estimate


@dataclass(frozen=True)
class Row:
    """A k', its NLL in every layer, and what each way chooses instead."""

    uniform: Estimate
    chosen: dict[str, Chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=144, help="a third chooses, two measure")
    parser.add_argument("--k", default="1,2,3,4,5,6,8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    num_layers, full_k = len(checkpoint.dial.layers), checkpoint.dial.trained_plan[0]
    ks = sorted({*map(int, options.k.split(",")), full_k})
    documents = read_documents(checkpoint, options.text.read_text())
    choosing, measuring = cut_windows(documents, options.window, options.windows).split(
        CHOOSING_EVERY
    )
    with Progress(console=Console(stderr=True)) as progress:
        num_runs = num_plans(num_layers, ks) + num_layer_runs(num_layers, ks)
        layers = progress.add_task("layers", total=num_runs)
        run = keeping(checkpoint, choosing)
        losses = sensitivities(checkpoint, choosing, ks, run, lambda: progress.advance(layers))
        plans = progress.add_task("plans", total=len(ks) * (1 + len(losses)))
        rows = compare(checkpoint, measuring, losses, ks, lambda: progress.advance(plans))
    searched = []
    if DATA_FREE in losses:  # LExI lets k' take every number up to the trained one
        every_k = output_changes_by_layer(checkpoint, range(ks[0], full_k + 1))
        searched = evolution.fidelity(every_k, [k * num_layers for k in ks if k < full_k])
    correlated = correlations(losses, full_k)
    console = Console(width=140)
    console.print(_losses_table(losses, ks), _correlations_table(correlated), _plans_table(rows))
    console.print("* the interval excludes zero")
    if searched:
        title = "Sum of output changes: knapsack and LExI's search"
        console.print(evolution.show(searched, title))
    if options.json:
        figures = {
            "sensitivities": losses,
            "correlations": {name: vars(each) for name, each in correlated.items()},
            "plans": {
                k: {
                    "uniform": row.uniform,
                    **{way: vars(chosen) for way, chosen in row.chosen.items()},
                }
                for k, row in rows.items()
            },
            "search": [vars(each) for each in searched],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def keeping(checkpoint: Checkpoint, windows: Windows) -> Evaluate:
    """An `evaluate` of these windows that runs every plan once."""

    @cache
    def at(plan: tuple[int, ...]) -> Quality:
        return evaluate(checkpoint, windows, plan)

    return lambda _checkpoint, _windows, plan: at(tuple(plan))


def compare(
    checkpoint: Checkpoint,
    measuring: Windows,
    losses: Mapping[str, Losses],
    ks: Sequence[int],
    on_plan: Callable[[], object] = lambda: None,
) -> dict[int, Row]:
    """For every k' what each way makes of as many experts. One `on_plan` a k', one more a way."""
    run, num_layers = keeping(checkpoint, measuring), len(checkpoint.dial.layers)
    fronts = {
        way: best_plans(each, [{k: k for k in ks}] * num_layers) for way, each in losses.items()
    }
    rows = {}
    for k in ks:
        uniform = run(checkpoint, measuring, (k,) * num_layers).nll
        on_plan()
        chosen = {}
        for way, front in fronts.items():
            best = within(front, k * num_layers)
            assert best is not None  # the uniform plan at least
            nll = run(checkpoint, measuring, best.plan).nll
            chosen[way] = Chosen(best.plan, difference(nll, uniform))
            on_plan()
        rows[k] = Row(uniform.estimate(), chosen)
    return rows


def _losses_table(losses: Mapping[str, Losses], ks: Sequence[int]) -> Table:
    title = "What a layer loses at k': nats/token; data-free, change of its output"
    table = Table("way", "layer", *map(str, ks), title=title)
    for way, by_layer in losses.items():
        for layer, loss in enumerate(by_layer):
            cells = [f"{loss[k]:.2f}" if way == DATA_FREE else f"{loss[k]:+.4f}" for k in ks]
            table.add_row(way, str(layer), *cells, end_section=loss is by_layer[-1])
    return table


def _correlations_table(correlated: dict[str, Correlation]) -> Table:
    table = Table(
        "ways", "all layers and k'", "below full k'", "between layers", title="Rank correlations"
    )
    for ways, each in correlated.items():
        table.add_row(ways, *(f"{value:.2f}" for value in vars(each).values()))
    return table


def _plans_table(rows: dict[int, Row]) -> Table:
    title = "Plans by layer of no more experts: nats/token over k' in every layer"
    table = Table("k'", "uniform, NLL", "way", "plan", "mean k'", "over uniform", title=title)
    for k, row in rows.items():
        for way, chosen in row.chosen.items():
            over = chosen.over_uniform
            mark = "*" if over.low > 0 or over.high < 0 else ""
            table.add_row(
                str(k),
                f"{row.uniform.mean:.4f}",
                way,
                " ".join(map(str, chosen.plan)),
                f"{np.mean(chosen.plan):g}",
                "uniform" if set(chosen.plan) == {k} else f"{over:+.4f}{mark}",
                end_section=way == [*row.chosen][-1],
            )
    return table


if __name__ == "__main__":
    main()
