"""The best plan for every budget: how many experts each layer gets.

Takes what each k' costs and loses in each layer; gives the plans that no other plan beats in both.
Losses of layers are taken to add up, as in LExI and Alloc-MoE (arXiv 2604.08133), whose exact
knapsack this is for any cost; `kprime calibrate` measures the plans that come out of it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    cost: float  # in any unit: experts, seconds
    loss: float
    plan: tuple[int, ...]


def best_plans(
    losses: Sequence[Mapping[int, float]], costs: Sequence[Mapping[int, float]]
) -> list[Choice]:
    """All plans that are not beaten in cost and loss, the cheapest first.

    `losses[layer][k]` and `costs[layer][k]`, for the k' that each layer may have. An exact grouped
    knapsack, layer by layer: a beginning of a plan that another beginning beats in both is in no
    best plan. Of plans equal in both, the first in order.
    """
    front = [Choice(0.0, 0.0, ())]
    for loss_of, cost_of in zip(losses, costs, strict=True):
        longer = sorted(
            Choice(begun.cost + cost_of[k], begun.loss + loss_of[k], (*begun.plan, k))
            for begun in front
            for k in loss_of
        )
        front = []
        for choice in longer:
            if not front or choice.loss < front[-1].loss:
                front.append(choice)
    return front


def within(front: Sequence[Choice], budget: float) -> Choice | None:
    """The one of least loss that costs no more than `budget`."""
    return next((choice for choice in reversed(front) if choice.cost <= budget), None)
