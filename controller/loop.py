"""The controller: samples in, plan out. Every arrow of the flow, in order."""

from dataclasses import replace

from controller.allocator import Allocator
from controller.estimator import Estimator
from controller.journal import Journal
from controller.policy import Policy
from controller.signals import Budget, Load, Plan, Sample


class Controller:
    """Decides once a tick. Knows neither how samples arrive nor how plans travel.

    In a dry run it decides all the same, with an allocator that knows one level only.
    """

    def __init__(
        self,
        estimator: Estimator,
        policy: Policy,
        allocator: Allocator,
        journal: Journal,
        plan: Plan,
        dry_run: bool = False,
    ) -> None:
        self.estimator = estimator
        self.policy = policy
        self.allocator = allocator
        self.journal = journal
        self.plan = plan
        self.dry_run = dry_run
        self.load: Load | None = None
        self.budget: Budget | None = None

    def observe(self, sample: Sample, now_s: float) -> None:
        """Take a heartbeat. A replica ahead of us serves a predecessor's plan: count on from it."""
        self.estimator.record(sample, now_s)
        if sample.epoch > self.plan.epoch:
            self.plan = replace(self.plan, epoch=sample.epoch + 1)

    def tick(self, now_s: float) -> Plan:
        return self.decide(self.estimator.estimate(now_s, self.plan))

    def decide(self, load: Load) -> Plan:
        """The part of a tick that follows from the load alone; a replay begins here."""
        self.load, self.budget = load, self.policy.decide(load)
        if self.dry_run:
            self.budget = replace(self.budget, reason=f"dry run: {self.budget.reason}")
        self.plan = self.allocator.allocate(self.budget, load.shares, previous=self.plan)
        self.journal.write(self.load, self.budget, self.plan)
        return self.plan
