"""What the loop asks of a policy; `policies/` has the opinions."""

from typing import Protocol

from controller.signals import Budget, Load


class Policy(Protocol):
    """Pure in the load: the same loads in the same order give the same budgets."""

    def decide(self, load: Load) -> Budget: ...
