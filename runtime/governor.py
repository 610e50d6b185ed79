"""The one actor that owns a Controller: replicas exchange a Sample for a Plan.

An exchange is a long poll. It returns at once when the plan has changed, else after one heartbeat
period; so one mechanism serves heartbeats, fast pushes, late replicas and restarts, and it does
not queue behind user requests. State that matters comes back with the heartbeats: after a restart
the replicas tell the SLO policy that they follow and the epoch to go on from.

Two ways lead to a new SLO policy. A deployment's, in Serve's `user_config`, comes with the replicas
it was given to. One that was applied (`PUT /kprime/policy`) comes to the governor, and goes out
with its orders. It lasts until a deployment brings another `user_config`: a replica that starts
later still announces the one that was deployed, and is told better.
"""

import asyncio
import logging
import math
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import policies
from controller.config import SloPolicy
from controller.estimator import Estimator
from controller.journal import Adoption, FileJournal, code_digest, profile_digest
from controller.levels import safe_plan
from controller.loop import Controller
from controller.profiles import load_profile
from controller.scaling import Scaling
from controller.signals import Pace, Plan, ReplicaWish, Sample

NAME = "governor"
FIRST_POLICY_POLL_S = 0.05
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Edition:
    """The SLO policy in force. The number orders them; the highest is the latest."""

    number: int
    slo_policy: SloPolicy
    deployed: SloPolicy  # in the latest `user_config` seen: what is announced again is not news

    @property
    def applied(self) -> bool:
        return self.slo_policy != self.deployed


@dataclass(frozen=True, slots=True)
class Orders:
    """The governor's answer. No plan yet: it first needs the SLO policy."""

    plan: Plan | None
    edition: Edition | None = None
    pace: Pace = field(default_factory=Pace)  # of the steps that admission reckons with


class Governor:
    """An async actor: all methods run on one event loop, so there are no locks."""

    def __init__(self, profile: str, journal: str) -> None:
        self._profile_file = Path(profile).resolve()
        self._profile = load_profile(self._profile_file)
        self._profile_digest = profile_digest(self._profile)
        self._code = code_digest()  # now, as it was loaded: the files may change
        self._journal = FileJournal(Path(journal))
        self._estimator = Estimator(self._profile, stale_s=math.inf, forget_s=math.inf)
        self._edition: Edition | None = None
        self._followed: dict[str, int] = {}  # number of the edition, by replica
        self._controller: Controller | None = None
        self._scaling: Scaling | None = None
        self._wish: ReplicaWish | None = None
        self._changed = asyncio.Event()
        self._actuations: deque[tuple[int, float]] = deque(maxlen=10_000)  # (epoch, ms)
        self._pending: _Pending | None = None
        self._loop = asyncio.ensure_future(self._run())

    async def exchange(
        self, sample: Sample, deployed: SloPolicy | None = None, follows: Edition | None = None
    ) -> Orders:
        """Take a heartbeat; give the plan, as soon as it differs from the replica's.

        `deployed` is the SLO policy of a `user_config` that the replica was given since its last
        heartbeat, `follows` the edition that it has from a governor.
        """
        if follows is not None and (self._edition is None or follows.number > self._edition.number):
            self._adopt(follows)
        if deployed is not None and (self._edition is None or deployed != self._edition.deployed):
            self._adopt(Edition(self._next_number(), deployed, deployed))
        if self._controller is None or self._edition is None:
            return Orders(plan=None)
        self._followed[sample.replica] = follows.number if follows else 0
        self._controller.observe(sample, self._now_s())
        self._acknowledge(sample)
        is_late = follows is not None and follows.number < self._edition.number
        if sample.epoch >= self._controller.plan.epoch and not is_late:
            changed, heartbeat_s = self._changed, self._edition.slo_policy.cadence.heartbeat_s
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), heartbeat_s)
        load = self._controller.load
        pace = load.pace if load else Pace()
        return Orders(self._controller.plan, self._edition, pace)

    async def apply(self, slo_policy: SloPolicy) -> dict[str, object] | None:
        """Take a validated SLO policy and hand it to all replicas; gives what is in force now.

        None: it has just started and does not know yet what this one would replace.
        """
        if self._edition is None:
            return None
        if slo_policy != self._edition.slo_policy:
            self._adopt(Edition(self._next_number(), slo_policy, self._edition.deployed))
        return self._in_force()

    async def replicas_wished(self) -> int | None:
        """What Serve is told. None: no other number than there is; a dry run moves no replicas."""
        acts = self._edition is not None and not self._edition.slo_policy.dry_run
        return self._wish.replicas if acts and self._wish else None

    async def status(self) -> dict[str, object]:
        """Everything the last tick knew, as plain data."""
        controller = self._controller
        fresh = controller.estimator.fresh(self._now_s()) if controller else []
        self._followed = {s.replica: self._followed[s.replica] for s in fresh}  # forget the gone
        return {
            **self._in_force(),
            "plan": asdict(controller.plan) if controller else None,
            "load": asdict(controller.load) if controller and controller.load else None,
            "budget": asdict(controller.budget) if controller and controller.budget else None,
            "replica_wish": asdict(self._wish) if self._wish else None,
            "replica_epochs": {s.replica: s.epoch for s in fresh},
            "replica_editions": dict(self._followed),
            "devices": {s.replica: asdict(s.device) for s in fresh},
            "expert_use": {s.replica: asdict(s.expert_use) for s in fresh if s.expert_use},
            "actuations": [{"epoch": epoch, "ms": ms} for epoch, ms in self._actuations],
        }

    def close(self) -> None:
        self._loop.cancel()
        self._journal.close()

    def _in_force(self) -> dict[str, object]:
        edition = self._edition
        return {
            "slo_policy": edition.slo_policy.model_dump() if edition else None,
            "edition": edition.number if edition else None,
            "applied": edition.applied if edition else None,
        }

    def _next_number(self) -> int:
        return self._edition.number + 1 if self._edition else 1

    def _adopt(self, edition: Edition) -> None:
        """A first or a new SLO policy. The plan stays until the new policy decides otherwise."""
        held, self._edition = self._edition, edition
        if held is None or held.slo_policy != edition.slo_policy:
            self._control(edition)
        self._wake()

    def _control(self, edition: Edition) -> None:
        """Begin to decide under an edition's policy."""
        slo_policy = edition.slo_policy
        safe = safe_plan(slo_policy, self._profile, epoch=1)
        plan = self._controller.plan if self._controller else safe
        self._estimator.stale_s = slo_policy.cadence.stale_s
        self._estimator.forget_s = slo_policy.cadence.lease_s
        self._controller = policies.controller_of(
            slo_policy, self._profile, self._estimator, self._journal, plan
        )
        asked = self._scaling.asked if self._scaling else None
        self._scaling = Scaling(self._profile, slo_policy, asked)
        self._journal.adopt(
            Adoption(
                slo_policy,
                str(self._profile_file),
                self._profile_digest,
                self._code,
                plan,
                edition.number,
                edition.applied,
            )
        )
        logger.info("kprime: SLO policy %s", slo_policy.model_dump_json())

    async def _run(self) -> None:
        while True:
            if self._controller is None or self._edition is None:
                await asyncio.sleep(FIRST_POLICY_POLL_S)
                continue
            try:
                self._tick(self._controller)
                self._wish_for_replicas(self._controller)
            except Exception:  # a tick that fails must not be the last one
                logger.exception("kprime: tick failed, the plan stays")
            await asyncio.sleep(self._edition.slo_policy.cadence.tick_s)

    def _tick(self, controller: Controller) -> None:
        before, now_s = controller.plan, self._now_s()
        plan = controller.tick(now_s)
        if plan == before:
            return
        fresh = controller.estimator.fresh(now_s)
        self._pending = _Pending(plan.epoch, now_s, {s.replica for s in fresh})
        self._wake()

    def _wish_for_replicas(self, controller: Controller) -> None:
        assert self._scaling and controller.load, "there has been a tick"
        before, self._wish = self._wish, self._scaling.decide(controller.load)
        if before and before.replicas != self._wish.replicas:
            logger.info("kprime: %s replicas wanted: %s", self._wish.replicas, self._wish.reason)

    def _wake(self) -> None:
        """End every waiting exchange: there are new orders."""
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
