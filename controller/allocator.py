"""Budget -> plan: the rung of the profile that is nearest, since only rungs are measured."""

from controller.profiles import Profile
from controller.signals import Budget, Plan


class Allocator:
    """The plan of the nearest rung; of two as near, the better one."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def allocate(self, budget: Budget, previous: Plan) -> Plan:
        """The same plan object while the rung stays; else a new one with the next epoch."""
        plan = plan_at(self._profile, budget.mean_k, previous.epoch + 1)
        return previous if plan.k == previous.k else plan


def plan_at(profile: Profile, mean_k: float, epoch: int) -> Plan:
    """The rung nearest to a mean k', as a plan."""
    rung = profile.nearest(mean_k)
    return Plan(epoch, rung.plan, rung.quality)
