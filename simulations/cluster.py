"""Replicas behind a router, a governor above them, and what goes wrong: one run on virtual time.

Takes requests in order of arrival; gives a record of each. Mirrors what Ray Serve does: routing,
starting, draining, and restarting a replica that died.
"""

from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from itertools import count
from math import ceil
from random import Random

from controller.admission import Refusal
from controller.config import DEFAULT_CLASS
from controller.signals import Sample
from simulations.events import Order
from simulations.faults import ReplicaLost
from simulations.governor import Governor
from simulations.jobs import Job
from simulations.machine import Machine
from simulations.replica import Replica
from simulations.results import Record, Status
from simulations.traces import Request

ROUTING_STREAM = 4  # draws of their own, as in `simulations.machine`


class Cluster:
    def __init__(self, machine: Machine, requests: Sequence[Request]) -> None:
        self._machine = machine
        self._events, self._settings = machine.events, machine.settings
        self._classes = machine.slo_policy.slo_classes
        self._requests = requests
        self._ways = machine.ways(len(requests))
        self._choices = Random(f"{machine.seed} {ROUTING_STREAM}")
        self.records: list[Record] = []
        self.sizes: list[tuple[float, int]] = []  # when, and how many replicas took requests then
        self.num_steps = 0  # of those that are gone
        self._open: list[Replica] = []  # take requests
        self._draining: list[Replica] = []
        self._starting: dict[int, int] = {}  # number of a replica to come, and of its start
        self._starts = count()
        self._lives: Counter[int] = Counter()  # by the number of a replica
        self._nowhere: deque[Job] = deque()  # no replica is open
        self.governor = Governor(machine, self._follow)

    def run(self) -> None:
        """Until every request has its record."""
        events = self._events
        heartbeat_s = self._machine.slo_policy.cadence.heartbeat_s
        for number in range(self._settings.replicas):
            # Replicas did not start at one moment: their heartbeats do not come together.
            self._open_replica(number, heartbeat_s * number / self._settings.replicas)
        for loss in self._machine.faults.losses:
            events.at(loss.at_s, Order.FAULT, partial(self._lose, loss))
        events.at(0.0, Order.TICK, self.governor.tick)
        if self._requests:
            self._await_arrival(0)
            events.run()
        self.num_steps += sum(each.num_steps for each in (*self._open, *self._draining))
        self.records.sort(key=lambda record: record.index)

    # Requests.

    def _await_arrival(self, index: int) -> None:
        arrive = partial(self._arrive, index)
        self._events.at(self._requests[index].arrival_s, Order.ARRIVAL, arrive)

    def _arrive(self, index: int) -> None:
        if index + 1 < len(self._requests):
            self._await_arrival(index + 1)
        request, now_s = self._requests[index], self._events.now_s
        slo_class = request.slo_class or DEFAULT_CLASS
        its_class = self._classes[slo_class]
        job = Job(
            index,
            slo_class,
            its_class.priority,
            now_s + its_class.ttft_s,
            request.input_tokens,
            request.output_tokens,
            request.input_tokens,
        )
        self._route(job)

    def _route(self, job: Job) -> None:
        """Of two replicas by chance to the one with fewer requests: Serve's power of two choices.

        Each request takes two draws, whatever comes of them: arms have them in common.
        """
        one, other = self._choices.random(), self._choices.random()
        num_open = len(self._open)
        if num_open == 0:
            self._nowhere.append(job)
            return
        replica = self._open[first := int(one * num_open)]
        if num_open > 1:
            second = int(other * (num_open - 1))
            rival = self._open[second + (second >= first)]
            replica = min(replica, rival, key=lambda each: len(each.jobs))
        if refusal := replica.arrive(job):
            self._refuse(job, refusal)

    def finished(self, replica: Replica, job: Job) -> None:
        self._record(job, "completed", replica)
        self._end_if_drained(replica)

    def let_go(self, replica: Replica, job: Job, refusal: Refusal) -> None:
        self._refuse(job, refusal)
        self._end_if_drained(replica)

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        status = 429 if refusal.queue_full else 503
        self._record(
            job,
            "shed",
            error=f"HTTP {status}: {refusal.reason}",
            retry_after_s=ceil(refusal.retry_after_s),
        )

    def _record(
        self,
        job: Job,
        status: Status,
        replica: Replica | None = None,
        error: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Of a request that ends now; latencies count from its scheduled arrival."""
        request, made = self._requests[job.index], job.generated
        first_s, last_s = self._ways[job.index]
        took_s = self._events.now_s - request.arrival_s + (last_s if made > 1 else first_s)
        ttft_s = None
        if job.first_token_s is not None:
            ttft_s = job.first_token_s - request.arrival_s + first_s
            took_s = max(took_s, ttft_s)  # no token overtakes another
        completed = status == "completed"
        self.records.append(
            Record(
                index=job.index,
                scheduled_s=request.arrival_s,
                lateness_s=0.0,
                input_tokens=request.input_tokens,
                output_tokens=made,
                ttft_s=ttft_s,
                tpot_s=_tpot_s(took_s, ttft_s, made) if completed else None,
                e2e_s=took_s if completed else None,
                status=status,
                error=error,
                quality=job.quality_sum / made if made else None,
                mean_k=job.mean_k_sum / made if made else None,
                epoch=replica.plan.epoch if replica and made else None,
                slo_class=request.slo_class,
                retry_after_s=retry_after_s,
                took_s=took_s,
            )
        )
        if len(self.records) == len(self._requests):
            self._events.stop()

    # Replicas.

    def exchange(self, replica: Replica, sample: Sample) -> None:
        if replica.is_alive:
            self.governor.exchange(replica, sample)

    def _open_replica(self, number: int, first_heartbeat_s: float = 0.0) -> None:
        plan, life = self.governor.plan, self._lives[number]
        self._lives[number] += 1
        replica = Replica(self._machine, number, life, plan, self)
        self._open.append(replica)
        self._count()
        self._events.after(first_heartbeat_s, Order.EXCHANGE, replica.heartbeat.exchange)
        while self._nowhere:
            self._route(self._nowhere.popleft())

    def _start(self, number: int) -> None:
        start = self._starting[number] = next(self._starts)

        def ready() -> None:
            if self._starting.get(number) == start:
                del self._starting[number]
                self._open_replica(number)

        self._events.after(self._settings.start_up_s, Order.REPLICA, ready)

    def _follow(self, wish: int | None) -> None:
        """Start or drain replicas, the latest first, until there are as many as wanted."""
        if wish is None:
            return
        low, high = self._settings.bounds
        wanted = min(max(wish, low), high)
        while len(self._open) + len(self._starting) < wanted:
            taken = {each.number for each in (*self._open, *self._draining)} | set(self._starting)
            self._start(next(number for number in count() if number not in taken))
        while len(self._open) + len(self._starting) > wanted:
            if self._starting:
                self._starting.popitem()
            else:
                self._drain(self._open.pop())

    def _drain(self, replica: Replica) -> None:
        """It ends what it has begun, within the limit."""
        self._count()
        self._draining.append(replica)
        self._end_if_drained(replica)
        give_up = partial(self._end, replica, "the replica was stopped")
        self._events.after(self._settings.drain_limit_s, Order.REPLICA, give_up)

    def _end_if_drained(self, replica: Replica) -> None:
        if replica in self._draining and not replica.jobs:
            self._end(replica, "")

    def _lose(self, loss: ReplicaLost) -> None:
        """Serve starts another in its place, unless it was to go anyway."""
        for replica in (*self._open, *self._draining):
            if replica.number == loss.replica:
                if replica in self._open:
                    self._open.remove(replica)
                    self._count()
                    self._start(loss.replica)
                self._end(replica, "the replica died")
                return

    def _end(self, replica: Replica, error: str) -> None:
        """What it has not ended fails."""
        if not replica.is_alive:
            return
        if replica in self._draining:
            self._draining.remove(replica)
        self.governor.forget(replica)
        self.num_steps += replica.num_steps
        for job in replica.leave():
            self._record(job, "failed", replica, error)

    def _count(self) -> None:
        self.sizes.append((self._events.now_s, len(self._open)))


def _tpot_s(took_s: float, ttft_s: float | None, tokens: int) -> float | None:
    return None if ttft_s is None or tokens < 2 else (took_s - ttft_s) / (tokens - 1)
