"""Budget -> plan: the rung of the profile that is nearest, since only rungs are measured."""

from controller.profiles import Profile
from controller.signals import Budget, Plan


class Allocator:
    """The plan of the nearest rung; of two as near, the better one."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def allocate(self, budget: Budget, previous: Plan) -> Plan:
        """The same plan object while the rung stays; else a new one with the next epoch."""
        rung = self._profile.nearest(budget.mean_k)
        if rung.plan == previous.k:
            return previous
        return Plan(previous.epoch + 1, rung.plan, rung.quality)
