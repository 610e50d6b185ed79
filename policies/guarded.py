"""Shapes any policy: bounds, dwell, tolerance, and what to do when data is missing."""

from controller.policy import Policy
from controller.signals import Budget, Load


class Guarded:
    """Itself a policy. Rows from most severe to hold:

    1. no fresh sample: hold;
    2. clip to floor..ceiling;
    3. a change smaller than the tolerance is not made;
    4. a raise waits until `dwell_s` after the last change, and while any replica is stale;
    5. a cut is never delayed: the queue grows while it waits.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        floor: float,
        ceiling: float,
        start: float,
        dwell_s: float,
        tolerance: float,
    ) -> None:
        self._policy = policy
        self._floor = floor
        self._ceiling = ceiling
        self._dwell_s = dwell_s
        self._tolerance = tolerance
        self._mean_k = start
        self._changed_at_s = float("-inf")

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0:
            return Budget(self._mean_k, "no fresh sample: hold")
        wish = self._policy.decide(load)
        mean_k = min(max(wish.mean_k, self._floor), self._ceiling)
        if objection := self._objection(mean_k, load):
            return Budget(self._mean_k, f"{objection}; wanted {mean_k:g} ({wish.reason})")
        if mean_k != self._mean_k:
            self._mean_k, self._changed_at_s = mean_k, load.at_s
        clipped = "" if mean_k == wish.mean_k else f"clipped from {wish.mean_k:g}: "
        return Budget(mean_k, clipped + wish.reason)

    def _objection(self, mean_k: float, load: Load) -> str | None:
        change = mean_k - self._mean_k
        if 0 < abs(change) < self._tolerance:
            return "hold inside tolerance"
        if change > 0 and load.stale_replicas:
            return f"hold: {load.stale_replicas} stale replicas"
        if change > 0 and load.at_s - self._changed_at_s < self._dwell_s:
            return "hold until dwell is over"
        return None
