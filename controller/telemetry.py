"""What one replica tells of itself: requests and steps in, a Sample per heartbeat out.

Thread-safe: the engine's thread and the server's event loop both report. Knows no engine, no GPU.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from controller.averages import RecentMinimum
from controller.signals import ClassSample, Device, Sample, Step


@dataclass(slots=True)
class Flight:
    """A request between arrival and end."""

    request_id: str
    slo_class: str
    arrived_s: float
    prompt_tokens: int
    tokens_to_prefill: int
    first_token_s: float | None = None
    num_tokens: int = 0

    @property
    def started(self) -> bool:
        return self.tokens_to_prefill < self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Queue:
    """The requests of one SLO class at a replica: who waits for a first token, who has it."""

    waiting: Sequence[Flight] = ()  # in order of arrival
    waiting_tokens: int = 0  # their prompt tokens not yet prefilled
    running: int = 0
    standing_wait_s: float = 0.0  # the least that the oldest's wait has been of late


@dataclass
class _Class:
    """An SLO class: who is under way, and what came since the last sample."""

    least_wait_s: RecentMinimum = field(default_factory=RecentMinimum)
    waiting: dict[str, Flight] = field(default_factory=dict)  # in order of arrival
    running: int = 0
    waiting_tokens: int = 0
    arrived_prompts: list[int] = field(default_factory=list)
    arrived_output_tokens: int = 0
    refused: int = 0
    shed: int = 0
    ttfts_s: list[float] = field(default_factory=list)
    tpots_s: list[float] = field(default_factory=list)

    def oldest_wait_s(self, now_s: float) -> float:
        oldest = next(iter(self.waiting.values()), None)
        return 0.0 if oldest is None else now_s - oldest.arrived_s

    def standing_wait_s(self, now_s: float, standing_s: float) -> float:
        return self.least_wait_s.value(now_s, standing_s) or 0.0

    def take(self, now_s: float, standing_s: float) -> ClassSample:
        sample = ClassSample(
            waiting_requests=len(self.waiting),
            waiting_tokens=self.waiting_tokens,
            running_requests=self.running,
            oldest_wait_s=self.oldest_wait_s(now_s),
            standing_wait_s=self.standing_wait_s(now_s, standing_s),
            arrived_prompts=tuple(self.arrived_prompts),
            arrived_output_tokens=self.arrived_output_tokens,
            refused_requests=self.refused,
            shed_requests=self.shed,
            ttfts_s=tuple(self.ttfts_s),
            tpots_s=tuple(self.tpots_s),
        )
        self.arrived_prompts = []
        self.arrived_output_tokens = self.refused = self.shed = 0
        self.ttfts_s, self.tpots_s = [], []
        return sample


class Telemetry:
    """`standing_s` is the time over which a queue's least wait tells a standing one."""

    def __init__(self, replica: str, standing_s: float) -> None:
        self._replica = replica
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self.standing_s = standing_s
        self._classes: dict[str, _Class] = defaultdict(_Class)
        self._steps: list[Step] = []

    def arrived(
        self, request_id: str, slo_class: str, prompt_tokens: int, max_tokens: int, now_s: float
    ) -> None:
        with self._lock:
            flight = Flight(request_id, slo_class, now_s, prompt_tokens, prompt_tokens)
            its_class = self._classes[slo_class]
            self._flights[request_id] = its_class.waiting[request_id] = flight
            its_class.waiting_tokens += prompt_tokens
            its_class.arrived_prompts.append(prompt_tokens)
            its_class.arrived_output_tokens += max_tokens

    def refused(self, slo_class: str) -> None:
        """Not taken on arrival."""
        with self._lock:
            self._classes[slo_class].refused += 1

    def shed(self, request_id: str) -> None:
        """Taken, and let go before its first token."""
        with self._lock:
            if flight := self._flights.pop(request_id, None):
                self._leave_queue(flight).shed += 1

    def stepped(self, step: Step, prefilled: dict[str, int]) -> None:
        """A step ran; `prefilled` counts prompt tokens by request."""
        with self._lock:
            self._steps.append(step)
            for request_id, tokens in prefilled.items():
                if flight := self._flights.get(request_id):
                    before, after = flight.tokens_to_prefill, flight.tokens_to_prefill - tokens
                    flight.tokens_to_prefill = max(0, after)
                    if flight.first_token_s is None:
                        its_class = self._classes[flight.slo_class]
                        its_class.waiting_tokens -= before - flight.tokens_to_prefill

    def decoded(self, steps: Sequence[Step]) -> None:
        """Steps ran, one after the other, that prefilled nothing."""
        with self._lock:
            self._steps.extend(steps)

    def produced(self, request_id: str, num_tokens: int, now_s: float) -> None:
        with self._lock:
            flight = self._flights.get(request_id)
            if flight is None or num_tokens == 0:
                return
            if flight.first_token_s is None:
                flight.first_token_s = now_s
                its_class = self._leave_queue(flight)
                its_class.running += 1
                its_class.ttfts_s.append(now_s - flight.arrived_s)
            flight.num_tokens += num_tokens

    def ended(self, request_id: str, now_s: float) -> None:
        """Finished, failed, shed or cancelled."""
        with self._lock:
            flight = self._flights.pop(request_id, None)
            if flight is None:
                return
            if flight.first_token_s is None:
                self._leave_queue(flight)
                return
            its_class = self._classes[flight.slo_class]
            its_class.running -= 1
            if flight.num_tokens > 1:
                its_class.tpots_s.append((now_s - flight.first_token_s) / (flight.num_tokens - 1))

    def watch(self, now_s: float) -> None:
        """Look at the queues as they stand; a standing one shows only between many looks."""
        with self._lock:
            for its_class in self._classes.values():
                its_class.least_wait_s.add(its_class.oldest_wait_s(now_s), now_s)

    def queues(self, now_s: float) -> dict[str, Queue]:
        """What stands in the queue of each class, and runs beside it."""
        with self._lock:
            return {
                name: Queue(
                    tuple(each.waiting.values()),
                    each.waiting_tokens,
                    each.running,
                    each.standing_wait_s(now_s, self.standing_s),
                )
                for name, each in self._classes.items()
            }

    def sample(self, epoch: int, device: Device, now_s: float) -> Sample:
        """Everything since the last sample, and the queues as they stand."""
        with self._lock:
            steps, self._steps = tuple(self._steps), []
            classes = {
                name: each.take(now_s, self.standing_s) for name, each in self._classes.items()
            }
            return Sample(self._replica, epoch, classes, steps, device)

    def _leave_queue(self, flight: Flight) -> _Class:
        its_class = self._classes[flight.slo_class]
        if its_class.waiting.pop(flight.request_id, None):
            its_class.waiting_tokens -= flight.tokens_to_prefill
        return its_class
