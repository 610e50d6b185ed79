"""Tokens a second of a training step, by implementation of the experts, on the shipped shape.

The implementations take turns, round after round; freed memory is kept for all of them alike.

    python -m benchmarks.training_speed [--threads 1] [--rounds 5] [--recipe R] [--json F]
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from training.experts import keep_freed_memory, use_fast_experts
from training.models import build_model
from training.recipe import load_recipe
from training.routing import TrainingRouting
from training.train import train_step

RECIPE = Path("training/recipes/shipped/prose-52m-base.yaml")
IMPLEMENTATIONS: dict[str, Callable[[nn.Module], None]] = {
    "eager": lambda model: model.set_experts_implementation("eager"),
    "grouped_mm": lambda model: model.set_experts_implementation("grouped_mm"),
    "grouped_by_expert": use_fast_experts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    recipe = load_recipe(options.recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, eos_token_id=0)
    routing = TrainingRouting(model, recipe.elasticity)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = np.random.default_rng(recipe.seed).integers(recipe.model.vocab_size, size=100_000)
    seen: dict[str, list[float]] = defaultdict(list)
    last_stage = recipe.num_steps - 1
    for round_ in range(options.rounds + 1):
        for name, use in IMPLEMENTATIONS.items():
            use(model)
            row = train_step(recipe, last_stage, model, optimizer, routing, ids)
            if round_:  # the first pays for allocation and compilation
                seen[name].append(row["tokens_per_s"])
    figures = {
        name: {"median": median(speeds), "low": min(speeds), "high": max(speeds)}
        for name, speeds in seen.items()
    }
    print(json.dumps(figures, indent=1))  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
