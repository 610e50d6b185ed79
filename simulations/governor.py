"""The governor on virtual time: the live Controller and Scaling, and replicas' long polls.

Mirrors runtime/governor.py. Knows replicas only as those who exchange.
"""

from collections.abc import Callable
from functools import partial

import policies
from controller.estimator import Estimator
from controller.levels import safe_plan
from controller.scaling import Scaling
from controller.signals import Budget, Load, Pace, Plan, Sample
from simulations.events import Order
from simulations.machine import Machine
from simulations.replica import Replica
from simulations.timeline import Tick

FIRST_EPOCH = 1


class Governor:
    """`wish` is told how many replicas are wanted, each tick, where their number can change; None:
    as many as there are.
    """

    def __init__(self, machine: Machine, wish: Callable[[int | None], None]) -> None:
        self._machine = machine
        self._events = machine.events
        self._wish = wish
        slo_policy, profile = machine.slo_policy, machine.profile
        cadence = slo_policy.cadence
        self.journal = TickJournal()
        plan = safe_plan(slo_policy, profile, FIRST_EPOCH)
        estimator = Estimator(profile, stale_s=cadence.stale_s, forget_s=cadence.lease_s)
        self._controller = policies.controller_of(
            slo_policy, profile, estimator, self.journal, plan
        )
        self._scaling = Scaling(profile, slo_policy)
        self._polls: dict[Replica, int] = {}  # who waits for news, and the number of the poll
        self._num_polls = 0

    @property
    def plan(self) -> Plan:
        return self._controller.plan

    def tick(self) -> None:
        before, now_s = self._controller.plan, self._events.now_s
        plan = self._controller.tick(now_s)
        if plan is not before:
            polls, self._polls = self._polls, {}
            for replica in polls:
                self._answer(replica, self._machine.settings.actuation_s)
        if self._machine.settings.scales:  # else nobody would follow
            assert self._controller.load
            wish = self._scaling.decide(self._controller.load)
            self._wish(None if self._machine.slo_policy.dry_run else wish.replicas)
        self._events.after(self._machine.slo_policy.cadence.tick_s, Order.TICK, self.tick)

    def exchange(self, replica: Replica, sample: Sample) -> None:
        """Answered at once if there is another plan, else when there is one, or a period later."""
        self._controller.observe(sample, self._events.now_s)
        if sample.epoch < self._controller.plan.epoch:
            self._answer(replica, self._machine.settings.actuation_s)
            return
        self._num_polls += 1
        self._polls[replica] = self._num_polls
        heartbeat_s = self._machine.slo_policy.cadence.heartbeat_s
        ends = partial(self._end_poll, replica, self._num_polls)
        self._events.after(heartbeat_s, Order.EXCHANGE, ends)

    def forget(self, replica: Replica) -> None:
        self._polls.pop(replica, None)

    def _end_poll(self, replica: Replica, number: int) -> None:
        if self._polls.get(replica) == number:
            del self._polls[replica]
            self._answer(replica, self._machine.settings.network_s)

    def _answer(self, replica: Replica, delay_s: float) -> None:
        load = self._controller.load
        pace = load.pace if load else Pace()
        answer = partial(replica.heartbeat.answered, self._controller.plan, pace)
        self._events.after(delay_s, Order.ANSWER, answer)


class TickJournal:
    """What every tick decided, as the timeline of a run has it."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.plans: dict[int, Plan] = {}  # by epoch

    def write(self, load: Load, budget: Budget, plan: Plan) -> None:
        self.plans[plan.epoch] = plan
        self.ticks.append(
            Tick(
                at_s=load.at_s,
                mean_k=plan.mean_k,
                epoch=plan.epoch,
                waiting_requests=load.waiting_requests,
                reason=budget.reason,
                step_time_error=load.step_time_error,
                class_k={name: plan.mean_k_of(name) for name in plan.class_k},
                class_waiting={name: each.waiting_requests for name, each in load.classes.items()},
                correction=load.correction,
            )
        )
