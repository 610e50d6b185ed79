"""The controller: samples in, plan out. Every arrow of the flow, in order."""

from dataclasses import replace

from controller.allocator import Allocator
from controller.estimator import Estimator
from controller.journal import Journal
from controller.policy import Policy
from controller.signals import Budget, Load, Plan, Sample


class Controller:
    """Decides once a tick. Knows neither how samples arrive nor how plans travel.

    With `dry_run_k` it decides all the same, and serves the plan of that mean k' whatever it
    decided.
    """

    def __init__(
        self,
        estimator: Estimator,
        policy: Policy,
        allocator: Allocator,
        journal: Journal,
        plan: Plan,
        dry_run_k: float | None = None,
    ) -> None:
        self.estimator = estimator
        self.policy = policy
        self.allocator = allocator
        self.journal = journal
        self.plan = plan
        self.dry_run_k = dry_run_k
        self.load: Load | None = None
        self.budget: Budget | None = None

    def observe(self, sample: Sample, now_s: float) -> None:
        """Take a heartbeat. A replica ahead of us serves a predecessor's plan: count on from it."""
        self.estimator.record(sample, now_s)
        if sample.epoch > self.plan.epoch:
            self.plan = replace(self.plan, epoch=sample.epoch + 1)

    def tick(self, now_s: float) -> Plan:
        return self.decide(self.estimator.estimate(now_s, self.plan.mean_k))

    def decide(self, load: Load) -> Plan:
        """The part of a tick that follows from the load alone; a replay begins here."""
        self.load, self.budget = load, self.policy.decide(load)
        served = self.budget
        if self.dry_run_k is not None:
            self.budget = replace(self.budget, reason=f"dry run: {self.budget.reason}")
            served = replace(self.budget, mean_k=self.dry_run_k)
        self.plan = self.allocator.allocate(served, previous=self.plan)
        self.journal.write(self.load, self.budget, self.plan)
        return self.plan
