"""Trusts the step-time model while it meets the steps that run."""

from controller.config import SloPolicy
from controller.policy import Policy
from controller.profiles import Profile
from controller.signals import Budget, Load
from policies.goals import Goals
from policies.ladder import Ladder
from policies.predictive import Predictive

TRUSTED_AGAIN = 0.8  # of the bound


class Trusting:
    """Itself a policy; the step-time model's error of the last minute decides which one speaks.

    Above `bound` the ladder, which needs no model, and the reason says so. From 0.8 of the bound
    down the predictive one again. An unknown error changes nothing.
    """

    def __init__(self, predictive: Policy, ladder: Policy, *, bound: float) -> None:
        self._predictive = predictive
        self._ladder = ladder
        self._bound = bound
        self._trusts = True

    @classmethod
    def from_slo_policy(cls, slo_policy: SloPolicy, profile: Profile) -> "Trusting":
        goals = Goals.of(slo_policy)
        return cls(
            Predictive(profile, goals),
            Ladder(profile, goals),
            bound=slo_policy.guard.step_time_error,
        )

    def decide(self, load: Load) -> Budget:
        error, bound = load.step_time_error, self._bound
        if error is not None:
            self._trusts = error <= (bound if self._trusts else TRUSTED_AGAIN * bound)
        fallback = self._ladder.decide(load)  # always: it keeps since when a rung has run
        if self._trusts:
            return self._predictive.decide(load)
        off = "was off" if error is None else f"off by {100 * error:.0f} %"
        return Budget(
            fallback.mean_k,
            f"model {off} (bound {100 * bound:.0f} %): ladder: {fallback.reason}",
        )
