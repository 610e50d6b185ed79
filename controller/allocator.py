"""Budget -> plan: the level that is nearest, since only its rungs are measured."""

from collections.abc import Mapping, Sequence

from controller.levels import Level
from controller.signals import Budget, Plan


class Allocator:
    """The plan of the nearest level at the classes' present shares; of two as near, the better."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self._best_first = levels[::-1]

    def allocate(self, budget: Budget, shares: Mapping[str, float], previous: Plan) -> Plan:
        """The same plan object while the level stays; else a new one with the next epoch."""
        level = min(self._best_first, key=lambda each: abs(each.mean_k(shares) - budget.mean_k))
        plan = level.plan(previous.epoch + 1)
        stays = _k(plan) == _k(previous)
        return previous if stays else plan


def _k(plan: Plan) -> tuple[object, ...]:
    return plan.k, plan.class_k, plan.prefill_k
