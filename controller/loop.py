"""The controller: samples in, plan out. Every arrow of the flow, in order."""

from dataclasses import replace

from controller.allocator import Allocator
from controller.estimator import Estimator
from controller.journal import Journal
from controller.policy import Policy
from controller.signals import Budget, Load, Plan, Sample


class Controller:
    """Decides once a tick. Knows neither how samples arrive nor how plans travel."""

    def __init__(
        self,
        estimator: Estimator,
        policy: Policy,
        allocator: Allocator,
        journal: Journal,
        plan: Plan,
    ) -> None:
        self.estimator = estimator
        self.policy = policy
        self.allocator = allocator
        self.journal = journal
        self.plan = plan
        self.load: Load | None = None
        self.budget: Budget | None = None

    def observe(self, sample: Sample, now_s: float) -> None:
        """Take a heartbeat. A replica ahead of us serves a predecessor's plan: count on from it."""
        self.estimator.record(sample, now_s)
        if sample.epoch > self.plan.epoch:
            self.plan = replace(self.plan, epoch=sample.epoch + 1)

    def tick(self, now_s: float) -> Plan:
        self.load = self.estimator.estimate(now_s, self.plan.mean_k)
        self.budget = self.policy.decide(self.load)
        self.plan = self.allocator.allocate(self.budget, previous=self.plan)
        self.journal.write(self.load, self.budget, self.plan)
        return self.plan
