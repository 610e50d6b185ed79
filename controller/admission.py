"""Which requests a replica takes, and which of those that wait it lets go: the last actuator.

Takes the queues of a replica as they stand; gives refusals with their reason and when to try again.
Knows no HTTP and no engine; time is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.config import SloPolicy
from controller.levels import served_levels
from controller.on_time import Turn, to_let_go
from controller.profiles import Profile
from controller.signals import Pace, Plan, Work
from controller.telemetry import Flight, Queue

WATCH_S = 0.05  # whoever asks looks at the queues so often: a shed request leaves so late
LEAST_RETRY_S = 1.0
STANDING = 0.5  # of what may be waited for: CoDel's target is half of where it drops (folly)
FOLLOWED = 0.25  # likewise: where the least wait is more, k' has had the time to follow the load


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str
    retry_after_s: float  # when a request like this one is expected to be taken
    queue_full: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """How fast a replica takes in the prompts of one class, under some plan."""

    tokens: int  # of a step that are left for them
    step_s: float
    error: float  # of that, as a share
    tokens_before: int  # that wait in classes which do not have to wait for this one

    @property
    def begins_s(self) -> float:
        """When the class has its turn."""
        return self.queue_s(self.tokens_before)

    def turn(self, tokens: int, left_s: float) -> Turn:
        """Its own prompt is not reckoned with the error, but that of all behind it."""
        own_s = self.seconds(tokens)
        return Turn(own_s * (1 + self.error), left_s + own_s * self.error)

    def queue_s(self, tokens: float) -> float:
        """As much longer as steps were off by."""
        return self.seconds(tokens) * (1 + self.error)

    def seconds(self, tokens: float) -> float:
        return tokens / self.tokens * self.step_s


class Admission:
    """Three reasons to refuse, once k' cannot help any more, or is not going to; classes with
    `late: serve` know only the first.

    1. Full: a class has `max_waiting` requests without a first token on this replica.
    2. Too much: not all that wait can have their first token within the TTFT objective. So many go
       as have to, and as few as do (`controller.on_time`): first the longest prompt among those
       that wait no longer than the first that would be late. Reckoned at the lowest level that the
       SLO policy can come to; at the one that runs, once the least wait of late says that k' has
       had the time to follow and was not lowered further: who is taken beyond what that can do is
       late, or makes others late.

           ahead  = tokens that wait in classes of higher priority, or before it in its own or one
                    of the same priority
           room   = step's tokens - running requests of those classes
           time   = (ahead * (1 + error) + prompt) / room * step(room prompt tokens beside them)

       The error is what the corrected step times were off by in the last minute: of a queue that is
       packed to the brink of its objective the last is late as often as not. Its own prompt counts
       without: a long one with nobody before it is given the chance that the model is right.

    3. A queue that stands, although the lowest level runs: then a class takes, and keeps waiting,
       only what gets its first token within margin * TTFT objective. A queue stands while its
       oldest wait has not once been below half of that for `admission.standing_s`. This is folly's
       CoDel (executors/Codel.cpp @ ff98381e: drop what waited for more than twice the target while
       the least delay of an interval exceeds it), with a share of the objective for its 5 ms. It
       needs no model, and so also holds where that is wrong.

    High priority goes ahead in the engine, so that the time of low classes runs out first.
    """

    def __init__(self, slo_policy: SloPolicy, profile: Profile) -> None:
        self._slo_policy = slo_policy
        self._classes = slo_policy.slo_classes
        self._profile = profile
        self._lowest = served_levels(slo_policy, profile)[0].plan(0)

    def on_arrival(
        self,
        slo_class: str,
        prompt_tokens: int,
        queues: Mapping[str, Queue],
        plan: Plan,
        pace: Pace,
        now_s: float,
    ) -> Refusal | None:
        """None: take it, though a longer one may have to go for it.

        Whoever is refused with a short prompt would be with any longer one.
        """
        queue = queues.get(slo_class, Queue())
        room = self._room(slo_class, queues, plan, pace)
        before = room.tokens_before + queue.waiting_tokens
        wait_s = room.queue_s(before) + room.seconds(prompt_tokens)
        most = self._max_waiting(slo_class)
        if len(queue.waiting) >= most:
            return Refusal(f"{most} requests of class {slo_class} wait", _retry(wait_s), True)
        if self._late(slo_class) == "serve":
            return None
        limit_s = self._limit_s(slo_class, queue, plan)
        if wait_s <= limit_s:
            return None
        others = self._turns(queue.waiting, room, self._classes[slo_class].ttft_s, now_s)
        its_turn = room.turn(prompt_tokens, limit_s)
        if len(others) not in to_let_go([*others, its_turn], room.begins_s):
            return None
        return Refusal(
            f"its first token is {wait_s:.2f} s away, class {slo_class} allows {limit_s:.2f} s",
            _retry(wait_s - limit_s),
        )

    def to_shed(
        self, queues: Mapping[str, Queue], plan: Plan, pace: Pace, now_s: float
    ) -> list[tuple[Flight, Refusal]]:
        """Of those that wait, the lowest priority first."""
        names = sorted(queues, key=self._priority)
        return [
            each
            for name in names
            if name in self._classes and self._late(name) == "refuse"
            for each in self._shed_of(name, queues, plan, pace, now_s)
        ]

    def _shed_of(
        self,
        slo_class: str,
        queues: Mapping[str, Queue],
        plan: Plan,
        pace: Pace,
        now_s: float,
    ) -> list[tuple[Flight, Refusal]]:
        queue, ttft_s = queues[slo_class], self._classes[slo_class].ttft_s
        if not queue.waiting:
            return []
        limit_s = self._limit_s(slo_class, queue, plan)
        room = self._room(slo_class, queues, plan, pace)
        retry_s = _retry(room.queue_s(room.tokens_before + queue.waiting_tokens) - limit_s)
        allowed = f"class {slo_class} allows {limit_s:.2f} s"
        shed, others = [], []
        for flight in queue.waiting:
            age_s = now_s - flight.arrived_s
            if age_s > limit_s and not flight.started:
                shed.append((flight, Refusal(f"waited for {age_s:.2f} s, {allowed}", retry_s)))
            else:
                others.append(flight)
        turns = self._turns(others, room, ttft_s, now_s)
        for position in sorted(to_let_go(turns, room.begins_s)):
            flight = others[position]
            longest = f"and its prompt is the longest of them, {flight.tokens_to_prefill} tokens"
            reason = f"not all that wait can be in time, {longest}; {allowed}"
            shed.append((flight, Refusal(reason, retry_s)))
        return shed

    def _turns(
        self, flights: Sequence[Flight], room: Room, ttft_s: float, now_s: float
    ) -> list[Turn]:
        return [
            room.turn(flight.tokens_to_prefill, flight.arrived_s + ttft_s - now_s)
            for flight in flights
        ]

    def _limit_s(self, slo_class: str, queue: Queue, plan: Plan) -> float:
        """How long a first token may take."""
        tight_s = self._tight_s(slo_class)
        stands = queue.standing_wait_s > STANDING * tight_s
        return tight_s if stands and self._is_lowest(plan) else self._classes[slo_class].ttft_s

    def _counted(self, slo_class: str, queue: Queue, plan: Plan) -> Plan:
        """The plan that is counted on."""
        has_followed = queue.standing_wait_s > FOLLOWED * self._tight_s(slo_class)
        return plan if has_followed else self._lowest

    def _tight_s(self, slo_class: str) -> float:
        return self._slo_policy.slo.margin * self._classes[slo_class].ttft_s

    def _is_lowest(self, plan: Plan) -> bool:
        return all(plan.mean_k_of(name) <= self._lowest.mean_k_of(name) for name in self._classes)

    def _ahead(self, slo_class: str, queues: Mapping[str, Queue]) -> dict[str, int]:
        """Tokens that wait, by class, of those that do not have to wait for this one."""
        least = self._priority(slo_class)
        return {n: q.waiting_tokens for n, q in queues.items() if self._priority(n) >= least}

    def _room(
        self,
        slo_class: str,
        queues: Mapping[str, Queue],
        plan: Plan,
        pace: Pace,
    ) -> Room:
        queue, ahead = queues.get(slo_class, Queue()), self._ahead(slo_class, queues)
        counted = self._counted(slo_class, queue, plan)
        total = sum(ahead.values())
        running = sum(queues[name].running for name in ahead)
        room = max(1, self._profile.max_batch_tokens - running)
        shares = {n: t / total for n, t in ahead.items()} if total else {slo_class: 1.0}
        prompts = [f.prompt_tokens for name in ahead for f in queues[name].waiting]
        length = sum(prompts) / len(prompts) if prompts else 0.0
        model = self._profile.step_time.corrected(pace.correction)
        work = Work(room, running, room * length / 2, running * length)
        step_s = model.step_s(counted.layers_over(shares), work)
        return Room(room, step_s, pace.error, total - queue.waiting_tokens)

    def _priority(self, slo_class: str) -> int:
        """Of a class that a newer SLO policy knows no more, that of requests without one."""
        each = self._classes.get(slo_class)
        return each.priority if each else 0

    def _max_waiting(self, slo_class: str) -> int:
        return self._classes[slo_class].max_waiting or self._slo_policy.admission.max_waiting

    def _late(self, slo_class: str) -> str:
        return self._classes[slo_class].late or self._slo_policy.admission.late


def _retry(seconds: float) -> float:
    return max(LEAST_RETRY_S, seconds)
