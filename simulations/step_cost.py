"""What a simulated step costs, by the profile's step-time model, each kind of it reckoned once.

Takes how many tokens run at which k'; gives seconds and what would have been counted. No noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from controller.signals import Work
from controller.step_time import StepTime

K = tuple[int, ...]  # by MoE layer


@dataclass(frozen=True, slots=True)
class Experts:
    """Of one step."""

    seconds: float
    slots: tuple[int, ...]  # token-expert pairs by layer
    distinct: tuple[int, ...]  # T by layer: the model's mean, to the nearest expert


class StepCost:
    def __init__(self, model: StepTime) -> None:
        self._model = model
        self._known: dict[tuple[tuple[K, int], ...], Experts] = {}

    def step_s(self, work: Work, experts: Experts) -> float:
        """`StepTime.step_s` of the same."""
        return self._model.base_s + experts.seconds + self._model.rest_s(work)

    def uniform(self, k: K, tokens: int) -> Experts:
        return self._of(((k, tokens),))

    def mixed(self, tokens_by_k: Mapping[K, int]) -> Experts:
        return self._of(tuple(sorted(tokens_by_k.items())))

    def _of(self, parts: tuple[tuple[K, int], ...]) -> Experts:
        experts = self._known.get(parts)
        if experts is None:
            experts = self._known[parts] = self._reckoned(parts)
        return experts

    def _reckoned(self, parts: tuple[tuple[K, int], ...]) -> Experts:
        total = sum(tokens for _, tokens in parts)
        slots = tuple(
            sum(k[layer] * tokens for k, tokens in parts)
            for layer in range(len(self._model.layers))
        )
        distinct = [
            layer.distinct(ran / total, total)
            for layer, ran in zip(self._model.layers, slots, strict=True)
        ]
        seconds = self._model.experts_s(slots, distinct)
        return Experts(seconds, slots, tuple(map(round, distinct)))
