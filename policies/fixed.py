"""Constant k': the baseline everything is compared with."""

from controller.config import SloPolicy
from controller.profiles import Profile
from controller.signals import Budget, Load


class Fixed:
    def __init__(self, k: float) -> None:
        self._k = k

    @classmethod
    def from_slo_policy(cls, slo_policy: SloPolicy, profile: Profile) -> "Fixed":
        assert slo_policy.policy.k is not None  # the configuration refuses fixed without k
        return cls(slo_policy.policy.k)

    def decide(self, load: Load) -> Budget:
        return Budget(self._k, f"fixed at {self._k:g}")
