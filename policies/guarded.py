"""Shapes any policy: bounds, dwell, tolerance, and what to do when data is missing."""

from controller.policy import Policy
from controller.signals import Budget, Load


class Guarded:
    """Itself a policy. Rows from most severe to hold, all measured from what really runs:

    1. no fresh sample: hold;
    2. clip to floor..ceiling;
    3. a cut is never delayed: the queue grows while it waits;
    4. a raise smaller than the tolerance is not made;
    5. a raise waits while any replica is stale, and until `dwell_s` after the last change.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        floor: float,
        ceiling: float,
        dwell_s: float,
        tolerance: float,
    ) -> None:
        self._policy = policy
        self._floor = floor
        self._ceiling = ceiling
        self._dwell_s = dwell_s
        self._tolerance = tolerance
        self._last: Load | None = None
        self._changed_at_s = float("-inf")

    def decide(self, load: Load) -> Budget:
        # Seen in what runs: a budget between two rungs may have changed nothing.
        if self._last is not None and load.epoch != self._last.epoch:
            self._changed_at_s = self._last.at_s
        self._last = load
        held = self._clip(load.mean_k)  # a stricter SLO policy may have come meanwhile
        if load.replicas == 0:
            return Budget(held, "no fresh sample: hold")
        wish = self._policy.decide(load)
        mean_k = self._clip(wish.mean_k)
        if objection := self._objection(mean_k, held, load):
            return Budget(held, f"{objection}; wanted {mean_k:g} ({wish.reason})")
        clipped = "" if mean_k == wish.mean_k else f"clipped from {wish.mean_k:g}: "
        return Budget(mean_k, clipped + wish.reason)

    def _objection(self, mean_k: float, held: float, load: Load) -> str | None:
        if mean_k <= held:
            return None
        if mean_k - held < self._tolerance:
            return "hold inside tolerance"
        if load.stale_replicas:
            return f"hold: {load.stale_replicas} stale replicas"
        if load.at_s - self._changed_at_s < self._dwell_s:
            return "hold until dwell is over"
        return None

    def _clip(self, mean_k: float) -> float:
        return min(max(mean_k, self._floor), self._ceiling)
