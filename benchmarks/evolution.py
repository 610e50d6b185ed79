"""LExI's evolutionary search for a plan (arXiv 2509.02753), to compare the exact knapsack with.

Takes what each layer loses at each k'; gives the best plan found of exactly so many experts. As in
the paper: a random feasible population, tournament selection, crossover layer by layer, mutation
of one expert more here and one less there, projection to the feasible set. Sizes and rates are
ours.

Run by itself it searches random tables of the shapes of public models, and prints how far from the
optimum it ends and how long it takes:

    python -m benchmarks.evolution [--tables 5]
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from controller.ladder import Choice, best_plans, within
from runtime.ways import Losses

# MoE layers, experts per token, a budget in experts of all layers.
SHAPES = {
    "OLMoE": (16, 8, 100),
    "DeepSeek-V2-Lite": (26, 6, 78),
    "Mixtral": (32, 2, 48),
    "Qwen3-30B-A3B": (48, 8, 192),
}

Genes = list[int]  # k' of every layer


@dataclass(frozen=True)
class Settings:
    population: int = 64
    generations: int = 100
    tournament: int = 3  # of so many the best becomes a parent
    mutation: float = 0.5  # chance of one more in a child, after each
    elite: int = 2  # survive as they are


@dataclass(frozen=True)
class Fidelity:
    """The sum of losses that each found at a budget of experts, and the seconds it took."""

    budget: int
    exact: Choice
    exact_s: float
    searched: Choice
    search_s: float


def search(losses: Losses, budget: int, seed: int = 0, settings: Settings | None = None) -> Choice:
    """The best plan of exactly `budget` experts that it comes across.

    All layers have the same k' without gaps. Raises ValueError if no plan has so many experts.
    """
    settings = settings or Settings()
    lowest, highest = min(losses[0]), max(losses[0])
    assert all(sorted(loss) == list(range(lowest, highest + 1)) for loss in losses)
    if not lowest * len(losses) <= budget <= highest * len(losses):
        raise ValueError(
            f"{budget} experts: {len(losses)} layers of {lowest}..{highest} cannot have so many"
        )
    chance = random.Random(seed)

    def loss_of(plan: Genes) -> float:
        return sum(loss[k] for loss, k in zip(losses, plan, strict=True))

    def project(plan: Genes) -> Genes:
        """One expert at a time, from or to a random layer that has room, until the sum is right."""
        while missing := budget - sum(plan):
            step = 1 if missing > 0 else -1
            limit = highest if missing > 0 else lowest
            plan[chance.choice([layer for layer, k in enumerate(plan) if k != limit])] += step
        return plan

    def parent() -> Genes:
        return min(chance.choices(population, k=settings.tournament), key=loss_of)

    def child() -> Genes:
        genes = project([chance.choice(pair) for pair in zip(parent(), parent(), strict=True)])
        while chance.random() < settings.mutation:
            more, less = chance.randrange(len(genes)), chance.randrange(len(genes))
            if more != less and genes[more] < highest and genes[less] > lowest:
                genes[more] += 1
                genes[less] -= 1
        return genes

    population = [
        project([chance.randint(lowest, highest) for _ in losses])
        for _ in range(settings.population)
    ]
    for _ in range(settings.generations):
        survivors = sorted(population, key=loss_of)[: settings.elite]
        children = [child() for _ in range(settings.population - settings.elite)]
        population = survivors + children
    best = min(population, key=loss_of)
    return Choice(budget, loss_of(best), tuple(best))


def fidelity(losses: Losses, budgets: Sequence[int], seed: int = 0) -> list[Fidelity]:
    """The exact knapsack and the search at every budget. The knapsack may take fewer experts.

    Its time is that for all budgets together.
    """
    start_s = perf_counter()
    front = best_plans(losses, [{k: k for k in loss} for loss in losses])
    exact_s = perf_counter() - start_s
    found = []
    for budget in budgets:
        start_s = perf_counter()
        searched = search(losses, budget, seed)
        search_s = perf_counter() - start_s
        exact = within(front, budget)
        assert exact is not None
        found.append(Fidelity(budget, exact, exact_s, searched, search_s))
    return found


def random_losses(num_layers: int, full_k: int, seed: int) -> Losses:
    """Layers that lose more with every expert less, 0 at full k', each on a scale of its own."""
    chance = np.random.default_rng(seed)
    drops_LK = chance.exponential(size=(num_layers, full_k - 1))
    drops_LK *= chance.lognormal(size=(num_layers, 1)) / np.arange(1, full_k) ** 2
    losses_LK = drops_LK[:, ::-1].cumsum(axis=1)[:, ::-1]
    return [
        {**{k + 1: float(loss) for k, loss in enumerate(losses_K)}, full_k: 0.0}
        for losses_K in losses_LK
    ]


def show(found: Sequence[Fidelity], title: str) -> Table:
    """A line for every budget."""
    table = Table(
        "experts", "exact", "search", "over exact, %", "exact, ms", "search, ms", title=title
    )
    for each in found:
        exact, searched = each.exact.loss, each.searched.loss
        over = f"{100 * (searched / exact - 1):.2f}" if exact > 0 else f"+{searched - exact:.4g}"
        table.add_row(
            str(each.budget),
            f"{exact:.4g}",
            f"{searched:.4g}",
            over,
            f"{1000 * each.exact_s:.2f}",
            f"{1000 * each.search_s:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=5, help="random tables of every shape")
    options = parser.parse_args()
    for name, (num_layers, full_k, budget) in SHAPES.items():
        tables = [random_losses(num_layers, full_k, seed) for seed in range(options.tables)]
        found = [fidelity(losses, [budget], seed)[0] for seed, losses in enumerate(tables)]
        Console(width=120).print(show(found, f"{name}: {num_layers} layers, full k' = {full_k}"))


if __name__ == "__main__":
    main()
