"""The replica's side of the exchange with the governor: a Sample up, a Plan down, a lease on it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from controller.config import SloPolicy
from controller.lease import Lease
from controller.metrics import DeviceReader
from controller.signals import Pace, Plan, Sample
from controller.telemetry import Telemetry
from runtime.engine import Engine
from runtime.governor import Edition, Orders

FIRST_PLAN_TIMEOUT_S = 5.0
RETRY_S = 0.5
logger = logging.getLogger("ray.serve")

Exchange = Callable[[Sample, SloPolicy | None, Edition | None], Awaitable[Orders]]


class Heartbeat:
    """Exchanges for ever. After a lease without an answer the engine takes the safe plan.

    `slo_policy` is what it follows: what was deployed to this replica, until orders say otherwise.
    """

    def __init__(
        self,
        exchange: Exchange,
        engine: Engine,
        telemetry: Telemetry,
        devices: DeviceReader,
        slo_policy: SloPolicy,
        safe_plan: Callable[[int], Plan],
    ) -> None:
        self._exchange_with_governor = exchange
        self._engine = engine
        self._telemetry = telemetry
        self._devices = devices
        self._safe_plan = safe_plan
        self.slo_policy = slo_policy
        self._deployed = slo_policy
        self._deployed_to_send: SloPolicy | None = slo_policy
        self.pace = Pace()
        self._follows: Edition | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and give the first plan a moment to arrive before requests do."""
        first = asyncio.create_task(self._exchange())
        await asyncio.wait([first], timeout=FIRST_PLAN_TIMEOUT_S)
        self._task = asyncio.create_task(self._run(first))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def deploy(self, slo_policy: SloPolicy) -> None:
        """The policy of a `user_config`; if new, use its lease and safe plan, tell the governor.

        Serve gives the same one again when ranks change: it must not take back an applied one.
        """
        if slo_policy != self._deployed:
            self.slo_policy = self._deployed = self._deployed_to_send = slo_policy

    async def _run(self, exchange: "asyncio.Task[None]") -> None:
        lease = Lease(self.slo_policy.cadence.lease_s, time.monotonic())
        while True:
            await asyncio.wait([exchange], timeout=self.slo_policy.cadence.heartbeat_s)
            if exchange.done():
                if error := exchange.exception():
                    logger.warning("kprime: no answer from the governor: %s", error)
                    await asyncio.sleep(RETRY_S)
                else:
                    lease.renew(self.slo_policy.cadence.lease_s, time.monotonic())
                exchange = asyncio.create_task(self._exchange())
            if lease.lapsed(time.monotonic()):
                await self._fall_back()

    async def _exchange(self) -> None:
        now_s, serving = time.monotonic(), self._engine.plan
        sample = replace(
            self._telemetry.sample(serving.epoch, self._devices.read(now_s), now_s),
            expert_use=self._engine.expert_use(),
        )
        deployed, self._deployed_to_send = self._deployed_to_send, None
        try:
            orders = await self._exchange_with_governor(sample, deployed, self._follows)
        except Exception:
            self._deployed_to_send = self._deployed_to_send or deployed
            raise
        self._follow(orders.edition)
        self.pace = orders.pace
        if orders.plan is None:  # a new governor: it has to be told what it should hold
            self._deployed_to_send = self._deployed_to_send or self._deployed
        elif orders.plan != serving and orders.plan.epoch >= serving.epoch:
            await self._engine.apply_async(orders.plan)

    def _follow(self, edition: Edition | None) -> None:
        """Take the governor's edition, unless a new governor does not know the latest yet."""
        if edition is None or edition == self._follows:
            return
        if self._follows is None or edition.number >= self._follows.number:
            self._follows = edition
            if self._deployed_to_send is None:
                self.slo_policy = edition.slo_policy

    async def _fall_back(self) -> None:
        safe = self._safe_plan(self._engine.plan.epoch)
        if safe != self._engine.plan:
            logger.warning("kprime: no word from the governor for the lease: safe plan %s", safe.k)
            await self._engine.apply_async(safe)
