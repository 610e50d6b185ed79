"""Budget -> plan. Spends the mean k' uniformly over the layers; the one place that rounds."""

from controller.profiles import Profile
from controller.signals import Budget, Plan


class Allocator:
    """Rounds to the nearest whole k', halves up, the same for every layer."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def allocate(self, budget: Budget, previous: Plan) -> Plan:
        """The same plan object while k' stays; else a new one with the next epoch."""
        k = int(budget.mean_k + 0.5)
        layers = (k,) * self._profile.num_layers
        if layers == previous.k:
            return previous
        return Plan(previous.epoch + 1, layers, self._profile.quality(k))
