"""Plans that may be rungs: what an exact knapsack makes of layers' losses and measured costs."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from controller.ladder import Choice, best_plans, within
from controller.step_time import StepTime
from runtime.measurements import Plan
from runtime.ways import ALONE, Losses

# What plans are weighed by: engine time of a request of so many tokens.
REFERENCE_PROMPT_TOKENS, REFERENCE_OUTPUT_TOKENS = 512, 64
COST_GRID = 2000  # steps of cost up to full k': keeps the knapsack small for many layers


class Candidates:
    """The plans that each way of measuring sensitivity makes of a budget of engine time."""

    def __init__(
        self,
        model: StepTime,
        max_batch_tokens: int,
        ks: Sequence[int],
        full_k: int,
        losses: Mapping[str, Losses],
    ) -> None:
        self.model, self.ks, self.full_k, self.losses = model, ks, full_k, losses
        self._chunk = max_batch_tokens
        self._num_layers = len(model.layers)
        layers = range(self._num_layers)
        unit_s = self.cost_s(self.uniform(full_k)) / COST_GRID
        self._units = [{k: round(self._layer_s(layer, k) / unit_s) for k in ks} for layer in layers]
        self._fronts = {way: best_plans(loss, self._units) for way, loss in losses.items()}

    def uniform(self, k: int) -> Plan:
        return (k,) * self._num_layers

    def cost_s(self, plan: Plan) -> float:
        """Engine time of the reference request."""
        return self.model.request_s(
            plan, REFERENCE_PROMPT_TOKENS, REFERENCE_OUTPUT_TOKENS, self._chunk
        )

    def instead_of(self, k: int, way: str = ALONE) -> Plan:
        """The best plan that takes no longer than `k` in every layer."""
        return self._within(self._units_of(k), way).plan

    def between(self, k: int, next_k: int) -> Plan:
        """The best one that takes no longer than half-way between two uniform plans."""
        return self._within((self._units_of(k) + self._units_of(next_k)) / 2, ALONE).plan

    def by_layer(self) -> Iterator[tuple[int | None, Plan]]:
        """Plans that may be rungs, with the k' of the uniform plan each would replace, if any.

        What takes no longer than full k' is no rung above it, and full k' is the model as it is.
        """
        for k in self.ks:
            if k != self.full_k:
                yield k, self.instead_of(k)
        for k, next_k in pairwise(k for k in self.ks if k <= self.full_k):
            yield None, self.between(k, next_k)

    def _layer_s(self, layer: int, k: int) -> float:
        """What a layer adds to the reference request: its share of full steps, as many as that
        request fills.
        """
        steps = (REFERENCE_PROMPT_TOKENS + REFERENCE_OUTPUT_TOKENS) / self._chunk
        return steps * self.model.layer_s(layer, k, self._chunk)

    def _units_of(self, k: int) -> int:
        return sum(units[k] for units in self._units)

    def _within(self, units: float, way: str) -> Choice:
        choice = within(self._fronts[way], units)
        assert choice is not None  # the uniform plan at least
        return choice
