"""The one actor that owns a Controller: replicas exchange a Sample for a Plan.

An exchange is a long poll. It returns at once when the plan has changed, else after one heartbeat
period; so one mechanism serves heartbeats, fast pushes, late replicas and restarts, and it does
not queue behind user requests. State that matters comes back with the heartbeats: after a restart
the first replica that calls is asked for the SLO policy and tells the epoch to go on from.
"""

import asyncio
import logging
import math
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import policies
from controller.allocator import Allocator, plan_at
from controller.config import SloPolicy
from controller.estimator import Estimator
from controller.journal import FileJournal
from controller.loop import Controller
from controller.profiles import load_profile
from controller.signals import Plan, Sample

NAME = "governor"
FIRST_POLICY_POLL_S = 0.05
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Orders:
    """The governor's answer. No plan yet: it first needs the SLO policy."""

    plan: Plan | None


class Governor:
    """An async actor: all methods run on one event loop, so there are no locks."""

    def __init__(self, profile: str, journal: str) -> None:
        self._profile = load_profile(Path(profile))
        self._journal = FileJournal(Path(journal))
        self._estimator = Estimator(self._profile, stale_s=math.inf, forget_s=math.inf)
        self._slo_policy: SloPolicy | None = None
        self._controller: Controller | None = None
        self._changed = asyncio.Event()
        self._actuations: deque[tuple[int, float]] = deque(maxlen=10_000)  # (epoch, ms)
        self._pending: _Pending | None = None
        self._loop = asyncio.ensure_future(self._run())

    async def exchange(self, sample: Sample, slo_policy: SloPolicy | None = None) -> Orders:
        """Take a heartbeat; give the plan, as soon as it differs from the replica's."""
        if slo_policy is not None and slo_policy != self._slo_policy:
            self._adopt(slo_policy)
        if self._controller is None or self._slo_policy is None:
            return Orders(plan=None)
        self._controller.observe(sample, self._now_s())
        self._acknowledge(sample)
        if sample.epoch >= self._controller.plan.epoch:
            changed, heartbeat_s = self._changed, self._slo_policy.cadence.heartbeat_s
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), heartbeat_s)
        return Orders(plan=self._controller.plan)

    async def status(self) -> dict[str, object]:
        """Everything the last tick knew, as plain data."""
        controller = self._controller
        fresh = controller.estimator.fresh(self._now_s()) if controller else []
        return {
            "slo_policy": self._slo_policy.model_dump() if self._slo_policy else None,
            "plan": asdict(controller.plan) if controller else None,
            "load": asdict(controller.load) if controller and controller.load else None,
            "budget": asdict(controller.budget) if controller and controller.budget else None,
            "replica_epochs": {s.replica: s.epoch for s in fresh},
            "expert_use": {s.replica: asdict(s.expert_use) for s in fresh if s.expert_use},
            "actuations": [{"epoch": epoch, "ms": ms} for epoch, ms in self._actuations],
        }

    def close(self) -> None:
        self._loop.cancel()
        self._journal.close()

    def _adopt(self, slo_policy: SloPolicy) -> None:
        """A first or a new SLO policy. The plan stays until the new policy decides otherwise."""
        safe = plan_at(self._profile, slo_policy.experts.safe, epoch=1)
        plan = self._controller.plan if self._controller else safe
        self._estimator.stale_s = slo_policy.cadence.stale_s
        self._estimator.forget_s = slo_policy.cadence.lease_s
        policy = policies.build(slo_policy, self._profile)
        allocator = Allocator(self._profile)
        self._controller = Controller(self._estimator, policy, allocator, self._journal, plan)
        self._slo_policy = slo_policy
        logger.info("kprime: SLO policy %s", slo_policy.model_dump_json())

    async def _run(self) -> None:
        while True:
            if self._controller is None or self._slo_policy is None:
                await asyncio.sleep(FIRST_POLICY_POLL_S)
                continue
            try:
                self._tick(self._controller)
            except Exception:  # a tick that fails must not be the last one
                logger.exception("kprime: tick failed, the plan stays")
            await asyncio.sleep(self._slo_policy.cadence.tick_s)

    def _tick(self, controller: Controller) -> None:
        before, now_s = controller.plan, self._now_s()
        plan = controller.tick(now_s)
        if plan == before:
            return
        fresh = controller.estimator.fresh(now_s)
        self._pending = _Pending(plan.epoch, now_s, {s.replica for s in fresh})
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _acknowledge(self, sample: Sample) -> None:
        if self._pending and sample.epoch >= self._pending.epoch:
            self._pending.replicas.discard(sample.replica)
            if not self._pending.replicas:
                elapsed_ms = 1000 * (self._now_s() - self._pending.decided_s)
                self._actuations.append((self._pending.epoch, elapsed_ms))
                self._pending = None

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


@dataclass
class _Pending:
    """A plan on its way: the replicas that have not yet said they serve under it."""

    epoch: int
    decided_s: float
    replicas: set[str]
