"""A simulated replica: an engine of steps, and a door before it.

Mirrors runtime/replica.py, engine.py and door.py on virtual time; `Telemetry` and `Admission` are
the live ones. Knows the governor and the cluster only as whom it tells.
"""

from collections import Counter
from functools import partial
from typing import Protocol

from controller.admission import Admission, Refusal
from controller.signals import Device, Plan, Sample, Step, Work
from controller.telemetry import Telemetry
from simulations.batch import Batch, Made, Steady
from simulations.batching import Batching
from simulations.events import Act, Order
from simulations.heartbeat import Heartbeat
from simulations.jobs import Job
from simulations.looks import Looks
from simulations.machine import Machine
from simulations.step_cost import Experts, K

NO_DEVICE = Device()


class Listener(Protocol):
    """Whom a replica tells."""

    def exchange(self, replica: "Replica", sample: Sample) -> None:
        """Its heartbeat has come."""

    def finished(self, replica: "Replica", job: Job) -> None: ...

    def let_go(self, replica: "Replica", job: Job, refusal: Refusal) -> None:
        """It had been taken, and waited in vain."""


class Replica:
    """`number` is its place, in which it may be started anew; `life` counts how often it was."""

    def __init__(
        self, machine: Machine, number: int, life: int, plan: Plan, listener: Listener
    ) -> None:
        self.number, self.plan = number, plan
        self.jobs: dict[str, Job] = {}  # under way, by id
        self.is_alive = True
        self.num_steps = 0
        self.heartbeat = Heartbeat(machine, self, partial(listener.exchange, self))
        self._events, self._faults, self._cost = machine.events, machine.faults, machine.cost
        self._listener = listener
        self._admission = Admission(machine.slo_policy, machine.profile)
        self._telemetry = Telemetry(f"{number}.{life}", machine.slo_policy.admission.standing_s)
        self._looks = Looks(self._events, self._look, self._telemetry.watch)
        self._num_waiting = 0  # for their first token
        self._batching = Batching(
            max_batch_tokens=machine.profile.max_batch_tokens,
            cache_tokens=machine.settings.cache_tokens,
        )
        self._noise = machine.step_noise(number, life)
        self._host = machine.host
        self._running: tuple[Batch, Step] | None = None
        self._cancelled: list[Job] = []  # leave between two steps
        self._next: tuple[Plan, Act | None] | None = None  # comes between two steps, and then

    def arrive(self, job: Job) -> Refusal | None:
        """None: it was taken."""
        now_s, telemetry = self._events.now_s, self._telemetry
        refusal = self._admission.on_arrival(
            job.slo_class,
            job.prompt_tokens,
            telemetry.queues(now_s),
            self.plan,
            self.heartbeat.pace,
            now_s,
        )
        if refusal:
            telemetry.refused(job.slo_class)
            return refusal
        self._looks.begin()
        telemetry.arrived(job.id, job.slo_class, job.prompt_tokens, job.output_tokens, now_s)
        self.jobs[job.id] = job
        self._num_waiting += 1
        self._batching.submit(job)
        if self._running is None:
            self._host.enter(self)
            if (ends_s := self._begin_step()) is not None:
                self._events.at(ends_s, Order.STEP, self._go_on)
        return None

    def sample(self) -> Sample:
        return self._telemetry.sample(self.plan.epoch, NO_DEVICE, self._events.now_s)

    def serve(self, plan: Plan, then: Act | None = None) -> None:
        """Now if no step runs, else after it; then follows `then`."""
        self._next = plan, then
        if self._running is None:
            self._swap_plan()

    def leave(self) -> list[Job]:
        """It is lost, or done; gives what it has not ended."""
        self.is_alive = False
        self._host.leave(self)
        self._batching.settle(self.plan)
        return list(self.jobs.values())

    def _look(self) -> bool:
        """Watch the queues, and shed; whether anybody waited."""
        if not self.is_alive:
            return False
        now_s, telemetry = self._events.now_s, self._telemetry
        telemetry.watch(now_s)
        if not self._num_waiting:
            return False
        for flight, refusal in self._admission.to_shed(
            telemetry.queues(now_s), self.plan, self.heartbeat.pace, now_s
        ):
            telemetry.shed(flight.request_id)
            self._let_go(self.jobs.pop(flight.request_id), refusal)
        return True

    def _let_go(self, job: Job, refusal: Refusal) -> None:
        self._num_waiting -= 1
        if self._running is None:
            self._batching.cancel(job, self.plan)
        else:
            self._cancelled.append(job)
        self._listener.let_go(self, job, refusal)

    def _begin_step(self) -> float | None:
        """When it will be over, for `_end_step` to follow; None: there is nothing to run."""
        steady = None if self.plan.class_k else self._batching.steady()
        begins_s = self._events.now_s
        if steady:
            begins_s, batch, step = self._glide(steady)
        elif composed := self._batching.compose(self.plan):
            batch, step = composed, self._step(composed.work, self._experts(composed), begins_s)
        else:
            self._host.leave(self)
            return None
        self._running = batch, step
        return begins_s + step.duration_s

    def _experts(self, batch: Batch) -> Experts:
        plan, cost = self.plan, self._cost
        if not plan.class_k and (plan.prefill_k is None or not batch.chunks):
            return cost.uniform(plan.k, batch.tokens)
        tokens_by_k: Counter[K] = Counter()
        prompts, answers = batch.tokens_by_class
        for slo_class, tokens in prompts.items():
            tokens_by_k[plan.prefill_k_of(slo_class)] += tokens
        for slo_class, tokens in answers.items():
            tokens_by_k[plan.k_of(slo_class)] += tokens
        return cost.mixed(tokens_by_k)

    def _go_on(self) -> None:
        """A step is over: step after step, for as long as nothing else happens in between."""
        if not self.is_alive:
            return
        self._end_step()
        while (ends_s := self._begin_step()) is not None:
            if not self._events.skip_to(ends_s):
                self._events.at(ends_s, Order.STEP, self._go_on)
                return
            self._end_step()

    def _glide(self, steady: Steady) -> tuple[float, Batch, Step]:
        """Through steps that are alike, until there is news; gives when the one after them begins,
        and that one.

        Steps of other replicas are none: whatever ends with them changes nothing here.
        """
        size, keys = steady.cohort.size, steady.cohort.keys + steady.cohort.size
        begins_s, news_s = self._events.now_s, self._events.news_s
        experts, over = self._cost.uniform(self.plan.k, size), list[Step]()
        step = self._step(Work(0, size, 0, keys), experts, begins_s)
        while len(over) < steady.num_steps and (ends_s := begins_s + step.duration_s) < news_s:
            over.append(step)
            keys += size
            begins_s = ends_s
            step = self._step(Work(0, size, 0, keys), experts, begins_s)
        self._telemetry.decoded(over)
        self.num_steps += len(over)
        return begins_s, self._batching.advance(steady, len(over)), step

    def _step(self, work: Work, experts: Experts, begins_s: float) -> Step:
        factor = self._host.slowdown * self._faults.factor(self.number, begins_s)
        duration_s = self._noise.stretch(self._cost.step_s(work, experts) * factor)
        return Step(work, duration_s, experts.slots, experts.distinct)

    def _end_step(self) -> None:
        assert self._running
        (batch, step), self._running = self._running, None
        self.num_steps += 1
        made = self._batching.complete(batch, self.plan)
        self._tell(batch, step, made)
        for job in self._cancelled:
            if job.generated < job.output_tokens:
                self._batching.cancel(job, self.plan)
        self._cancelled.clear()
        if self._next:
            self._swap_plan()

    def _tell(self, batch: Batch, step: Step, made: Made) -> None:
        """First what the engine says of a step that ran, then of the answers that ended with it."""
        now_s, telemetry = self._events.now_s, self._telemetry
        for job in made.first:
            if job.id in self.jobs:
                job.first_token_s = now_s
                self._num_waiting -= 1
                telemetry.produced(job.id, 1, now_s)
        telemetry.stepped(step, {job.id: tokens for job, tokens in batch.chunks})
        for job in made.done:
            if job.id in self.jobs:
                # How many follow the first is asked of those that have ended only.
                telemetry.produced(job.id, job.generated - 1, now_s)
                telemetry.ended(job.id, now_s)
                del self.jobs[job.id]
                self._listener.finished(self, job)

    def _swap_plan(self) -> None:
        assert self._next
        (plan, then), self._next = self._next, None
        self._batching.settle(self.plan)
        self.plan = plan
        if then:
            then()
