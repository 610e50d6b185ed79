"""The default policy: gives up experts where a queue costs more than they are worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from controller.config import DEFAULT_CLASS
from controller.estimator import SUSTAINED_S
from controller.forecast import ONE_IN_TEN
from controller.levels import Level, levels_of
from controller.profiles import Profile
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.backlog_price import BacklogPrice, Pace
from policies.foresight import drain_s, step_s
from policies.goals import Goals, Part

LATE_WEIGHT = 10.0  # what is lost of a priority counts for so much of the next lower one
SIZE_VARIANCE = 1.0  # of a request's work, over its squared mean; 0.3 and 3 do as well
# Of a request's quality. Less is no reason to give up experts: measured qualities vary by more.
INDIFFERENT = 0.0003
LEAST_VARIANCE = 1e-9  # where nothing comes
SAME_K = 1e-6


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is about, whatever the level."""

    load: Load
    model: StepTime  # corrected
    chunk_tokens: int
    parts: Sequence[Part]
    shares: Mapping[str, float]  # of the tokens, by class
    prompt_tokens: float  # of a request, in the mean, like the following
    output_tokens: float
    arrival_rps: float  # at each replica, over the next seconds
    variance: float  # of the requests of a second at each replica

    @property
    def decoding(self) -> float:
        """Requests of a replica."""
        return (self.load.running_requests or 0) / self.load.replicas


@dataclass(frozen=True)  # no slots: what is asked for is kept
class Option:
    """A level, under the load that there is. Few are looked at closely."""

    level: Level
    now: Situation

    @cached_property
    def mean_k(self) -> float:
        return self.level.mean_k(self.now.shares)

    @cached_property
    def quality(self) -> float:
        """A mean by tokens; where nothing is known of those, classes are alike."""
        by_class = {part.name: _quality(self.level, part) for part in self.now.parts}
        shares = {name: self.now.shares.get(name, 0.0) for name in by_class}
        total = sum(shares.values())
        if not total:
            return sum(by_class.values()) / len(by_class)
        return sum(share * by_class[name] for name, share in shares.items()) / total

    @cached_property
    def request_s(self) -> float:
        now = self.now
        return now.model.request_s(
            self._plan, now.prompt_tokens, now.output_tokens, now.chunk_tokens
        )

    @cached_property
    def prompt_s(self) -> float:
        now = self.now
        return now.model.prompt_s(self._plan, now.prompt_tokens, now.chunk_tokens)

    @cached_property
    def tpot_s(self) -> float:
        now, chunk = self.now, self.now.chunk_tokens
        asked = chunk * now.arrival_rps * self.request_s
        prefill = min(
            max(0.0, chunk - now.decoding), max(now.load.worst_waiting_tokens or 0, asked)
        )
        return step_s(now.model, self._plan, now.load, chunk, prefill)

    def ttft_s(self, part: Part) -> float:
        """Of a prompt that comes now, to the replica with the longest queue."""
        now, waiting, running = self.now, part.worst_waiting_tokens, part.running_requests
        return self.prompt_s + drain_s(
            now.model, self._plan, now.load, now.chunk_tokens, waiting, running
        )

    def keeps_pace(self, parts: Sequence[Part]) -> bool:
        return all(self.tpot_s <= part.tpot_s for part in parts)

    def is_on_time(self, parts: Sequence[Part]) -> bool:
        return all(self.ttft_s(part) <= part.ttft_s for part in parts)

    @cached_property
    def _plan(self) -> Sequence[float]:
        return self.level.layers(self.now.shares)


@dataclass(frozen=True, slots=True)
class Queue:
    """What a class has to wait for, in requests."""

    part: Part
    worst: float  # at the replica with the most
    longest: float  # whose last would just be on time at the lowest level
    price: float  # mean over replicas


class Predictive:
    """Prices the backlog by the profile's step-time model, and buys speed at that price.

    At a level whose plan takes, by the profile's step time as corrected by the steps of late,
    prompt(p) for a prompt of p tokens and request(p, o) for one with its o tokens of output, in
    full steps of C, a replica serves m = 1 / request a second. Requests come to it at a rate a.
    With B prompt tokens waiting there and r requests that decode:

        queue     x = B / (p + o) * C / (C - r)     in requests, with what decodes beside them
        longest   L = (TTFT objective - prompt) / request     at the fastest level
        variance  v = e^2 H + a     e the error that forecasts of H = 4 s have had: bursts, and what
                                    is not known; a times 1 for sizes, which differ
        price     p(x), where a lost request costs 1 (`policies.backlog_price`)
        worth     m (p - loss)      loss of quality, to the best level

    The most worth is taken, of the levels under which now, if under any, the objectives hold of

        TTFT      B / (C - r) * step(C - r, r) + prompt
        TPOT      step(min(C - r, max(B, C a request)), r)

    The price is the mean over replicas, of which the longest queue and the mean of the others are
    known: one k' is for all.

    So k' goes by the queue, along the curve that loses least: where quality is flat it is given up
    for a few requests, at the knee of quality for many, below that for those only which would else
    be lost. That a shorter queue lets it rise again, and a longer one makes it fall, is in the
    price. How long the oldest has waited is not asked: that is past.

    A class waits for those of its priority and above: its arrivals and its queue are theirs
    together. The highest price counts. A level is a rung for every class (`controller.levels`); its
    plan is their mean by their shares of the tokens, and so is its loss; but what is lost of a
    higher priority counts ten times, so that a promise goes before experts.

    Quiet: there is no price, and the best level. Entering load: a queue costs the more, the more is
    to follow. Leaving load: its price falls with it; on a throttled GPU the model is not trusted
    with a climb. Overload: the price is near that of a lost request; where none keeps an objective
    of any class the fastest is taken, since admission counts on it.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._profile = profile
        self._goals = goals
        rungs = profile.within(goals.floor, goals.ceiling)
        self._best_first = levels_of(rungs, goals.classes)[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.arrival_rps is None:
            return Budget(load.mean_k, "load unknown: hold")
        now = self._situation(load, load.arrival_rps)
        options = self._options(now)
        queue = max(
            (_queue(part, options, now) for part in now.parts),
            key=lambda queue: (queue.price, -queue.part.ttft_s),
        )
        option = _first_that_keeps(_most_worth_first(options, queue.price), now.parts)
        return self._budget(option, queue, now)

    def _situation(self, load: Load, next_rps: float) -> Situation:
        lasting_rps, chunk_tokens = load.arrival_rps_sustained, self._profile.max_batch_tokens
        mean_rps = next_rps if lasting_rps is None else lasting_rps
        error_rps = max(0.0, (load.arrival_rps_upper or 0.0) - mean_rps) / ONE_IN_TEN
        return Situation(
            load,
            self._profile.step_time.corrected(load.correction or Correction()),
            chunk_tokens,
            self._goals.parts(load),
            load.shares,
            load.prompt_tokens or chunk_tokens,
            load.output_tokens or 0.0,
            mean_rps / load.replicas,
            (error_rps**2 * SUSTAINED_S + SIZE_VARIANCE * mean_rps) / load.replicas,
        )

    def _options(self, now: Situation) -> list[Option]:
        """The best first; the lowest level always is one."""
        *higher, lowest = (Option(level, now) for level in self._best_first)
        if now.load.gpu_throttled:
            runs = now.load.mean_k + SAME_K
            higher = [option for option in higher if option.mean_k <= runs]
        return [*higher, lowest]

    def _budget(self, option: Option, queue: Queue, now: Situation) -> Budget:
        goals, part = self._goals, queue.part
        ttft_s, tpot_s = option.ttft_s(part), option.tpot_s
        overload = "overload: " if ttft_s > part.ttft_s or tpot_s > part.tpot_s else ""
        name = f"class {part.name}, " if now.load.classes.keys() - {DEFAULT_CLASS} else ""
        return Budget(
            min(max(option.mean_k, goals.floor), goals.ceiling),  # shares are rounded
            f"{overload}price {queue.price:.3f}, {queue.worst:.1f}/{queue.longest:.1f} queued: "
            f"{name}TTFT {ttft_s:.3f}/{part.ttft_s:.3f} s, TPOT {tpot_s:.3f}/{part.tpot_s:.3f} s, "
            f"use {now.arrival_rps * option.request_s:.2f}",
        )


def _queue(part: Part, options: Sequence[Option], now: Situation) -> Queue:
    replicas, lowest, lost = now.load.replicas, options[-1], LATE_WEIGHT**part.rank
    room = max(1.0, now.chunk_tokens - part.running_requests / replicas)
    requests_a_token = now.chunk_tokens / room / (now.prompt_tokens + now.output_tokens)
    worst = requests_a_token * part.worst_waiting_tokens
    longest = (part.ttft_s - lowest.prompt_s) / lowest.request_s
    if longest <= 0:
        return Queue(part, worst, 0.0, lost)
    if not worst:
        return Queue(part, 0.0, longest, 0.0)
    best = max(option.quality for option in options)
    price = BacklogPrice(
        [Pace(1 / option.request_s, best - option.quality) for option in options],
        arrival_rps=part.share * now.arrival_rps,
        variance=max(LEAST_VARIANCE, part.share * now.variance),
        longest=longest,
        lost=lost,
    )
    mean = price.at(worst) / replicas
    if others := replicas - 1:
        theirs = max(0.0, requests_a_token * part.waiting_tokens - worst)
        mean += price.at(theirs / others) * others / replicas
    return Queue(part, worst, longest, mean)


def _most_worth_first(options: Sequence[Option], price: float) -> Sequence[Option]:
    """Those that cannot be told from the one that is worth most come before it, the best first."""
    if not price:
        return options
    best = max(option.quality for option in options)
    worths = [(price - best + option.quality) / option.request_s for option in options]
    enough = max(worths) - INDIFFERENT / options[0].request_s
    ranks = [min(worth, enough) for worth in worths]  # sorting keeps the order of the alike
    return [option for _, option in sorted(zip(ranks, options, strict=True), key=_rank)]


def _rank(ranked: tuple[float, Option]) -> float:
    return -ranked[0]


def _first_that_keeps(options: Sequence[Option], parts: Sequence[Part]) -> Option:
    """The objectives of all classes, if one does. Else the lowest priorities are let go, one after
    the other, those that wait before those whose answers run; and where that is of no use to any,
    what does the most for them is taken.
    """
    held = [
        [part for part in parts if part.rank >= rank]
        for rank in sorted({part.rank for part in parts})
    ]
    for paced in held:
        for timely in held:
            for option in options:
                if option.keeps_pace(paced) and option.is_on_time(timely):
                    return option
        if keep_pace := [option for option in options if option.keeps_pace(paced)]:
            return min(keep_pace, key=lambda option: option.request_s)
    return min(options, key=lambda option: option.tpot_s)


def _quality(level: Level, part: Part) -> float:
    """A measured retention above 1 is noise: nothing is better than full k'."""
    return min(1.0, level.rung(part.name).quality)
