"""A simulated replica's side of the exchange: a Sample up, a Plan down, a lease on it.

Mirrors runtime/heartbeat.py on virtual time; the `Lease` is the live one.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from controller.lease import Lease
from controller.levels import safe_plan
from controller.signals import Pace, Plan, Sample
from simulations.events import Act, Order
from simulations.machine import Machine

RETRY_S = 0.5  # as there


class Serving(Protocol):
    """What a heartbeat needs of its replica."""

    number: int
    plan: Plan
    is_alive: bool

    def sample(self) -> Sample: ...

    def serve(self, plan: Plan, then: Act | None = None) -> None:
        """From the next step on, after which `then` follows."""


class Heartbeat:
    """`send` brings a sample to the governor; `answered` is to follow."""

    def __init__(self, machine: Machine, replica: Serving, send: Callable[[Sample], None]) -> None:
        self._machine = machine
        self._replica = replica
        self._send = send
        self._lease = Lease(machine.slo_policy.cadence.lease_s, machine.events.now_s)
        self.pace = Pace()

    def exchange(self) -> None:
        if not self._replica.is_alive:
            return
        sample = self._replica.sample()
        if self._is_silent():
            self._unanswered()
        else:
            delay_s = self._machine.settings.network_s
            self._machine.events.after(delay_s, Order.EXCHANGE, partial(self._send, sample))

    def answered(self, plan: Plan, pace: Pace) -> None:
        if not self._replica.is_alive:
            return
        if self._is_silent():
            self._unanswered()
            return
        cadence, serving = self._machine.slo_policy.cadence, self._replica.plan
        self._lease.renew(cadence.lease_s, self._machine.events.now_s)
        self.pace = pace
        if plan is not serving and plan != serving and plan.epoch >= serving.epoch:
            self._replica.serve(plan, then=self.exchange)
        else:
            self.exchange()

    def _is_silent(self) -> bool:
        return self._machine.faults.silent(self._replica.number, self._machine.events.now_s)

    def _unanswered(self) -> None:
        self._machine.events.after(RETRY_S, Order.EXCHANGE, self._try_again)

    def _try_again(self) -> None:
        if not self._replica.is_alive:
            return
        self.exchange()
        serving = self._replica.plan
        if self._lease.lapsed(self._machine.events.now_s):
            safe = safe_plan(self._machine.slo_policy, self._machine.profile, serving.epoch)
            if safe != serving:
                self._replica.serve(safe)
