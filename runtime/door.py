"""A replica's door: admission at work. Refuses on arrival, and lets go of those that wait in vain.

Joins what decides (`controller.admission`) with what it looks at and acts on; runs on the event
loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.admission import WATCH_S, Admission, Refusal
from controller.config import SloPolicy
from controller.profiles import Profile
from controller.signals import Pace, Plan
from controller.telemetry import Telemetry
from runtime.streams import Streams

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Terms:
    """What admission goes by, as the governor last said."""

    slo_policy: SloPolicy
    plan: Plan
    pace: Pace


class Door:
    def __init__(
        self,
        telemetry: Telemetry,
        streams: Streams,
        profile: Profile,
        terms: Callable[[], Terms],
    ) -> None:
        self._telemetry = telemetry
        self._streams = streams
        self._profile = profile
        self._terms = terms
        self._follow(terms().slo_policy)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def knock(self, slo_classes: Sequence[str], prompt_tokens: int, now_s: float) -> Refusal | None:
        """Of a request that arrives, of one of these classes; a refusal is counted. None: come in.

        While it is open of which, it is refused only if it would be in each; then of the first.
        """
        terms = self._now()
        queues = self._telemetry.queues(now_s)
        first: Refusal | None = None
        for slo_class in slo_classes:
            refusal = self._admission.on_arrival(
                slo_class, prompt_tokens, queues, terms.plan, terms.pace, now_s
            )
            if refusal is None:
                return None
            first = first or refusal
        if first:
            self._telemetry.refused(slo_classes[0])
        return first

    def look(self, now_s: float) -> None:
        """Watch the queues, and shed."""
        terms = self._now()
        self._telemetry.watch(now_s)
        queues = self._telemetry.queues(now_s)
        shed = self._admission.to_shed(queues, terms.plan, terms.pace, now_s)
        for flight, refusal in shed:
            self._telemetry.shed(flight.request_id)
            self._streams.refuse(flight.request_id, refusal)

    async def _run(self) -> None:
        while True:
            try:
                self.look(time.monotonic())
            except Exception:  # a look that fails must not be the last one
                logger.exception("kprime: the queues could not be looked at")
            await asyncio.sleep(WATCH_S)

    def _now(self) -> Terms:
        terms = self._terms()
        if terms.slo_policy is not self._followed:
            self._follow(terms.slo_policy)
        return terms

    def _follow(self, slo_policy: SloPolicy) -> None:
        self._followed = slo_policy
        self._admission = Admission(slo_policy, self._profile)
        self._telemetry.standing_s = slo_policy.admission.standing_s
