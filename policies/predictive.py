"""The default policy: the level from which the profile expects the most quality on time."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from controller.config import DEFAULT_CLASS
from controller.estimator import SUSTAINED_S
from controller.forecast import ONE_IN_TEN
from controller.levels import Level, levels_of
from controller.profiles import Profile
from controller.signals import PROMPT_SHARES, Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s, request_s, share_longer, step_s
from policies.goals import Goals, Part

HORIZON_S = SUSTAINED_S  # what is expected of arrivals is expected for so long
LATE_WEIGHT = 25.0  # what is late counts for so much of the next lower priority
FEWER = 1 / 3  # power: requests that are lost are fewer than their work, the longest go first
ENOUGH_ON_TIME = 0.99  # less is called overload
SAME_K = 1e-6
SAID = 0.001  # share of prompts that are too long: less is not worth a word


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is about, whatever the level."""

    load: Load
    model: StepTime  # corrected
    parts: Sequence[Part]
    drains_s: Sequence[float]  # of the backlog of each part, at the best level
    request_s: float  # likewise
    shares: Mapping[str, float]  # of the tokens, by class
    arrival_rps: float  # at each replica, over the horizon
    error_rps: float  # of that, root mean square

    def is_climb(self, level: Level) -> bool:
        return level.mean_k(self.shares) > self.load.mean_k + SAME_K

    def weighed(self, by_class: Mapping[str, float]) -> float:
        """A mean by tokens; where nothing is known of those, classes are alike."""
        if len(by_class) == 1:  # as nearly always, and a decision weighs dozens of times
            return next(iter(by_class.values()))
        shares = {name: self.shares.get(name, 0.0) for name in by_class}
        total = sum(shares.values())
        if not total:
            return sum(by_class.values()) / len(by_class)
        return sum(share * by_class[name] for name, share in shares.items()) / total

    def quality(self, level: Level) -> float:
        return self.weighed({part.name: _quality(level, part) for part in self.parts})


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of a class at a level."""

    part: Part
    late: float  # share of its requests that are expected to miss an objective
    long: float  # share of its prompts that would with nobody before them
    ttft_s: float
    tpot_s: float

    @property
    def strain(self) -> float:
        """The larger share of an objective that is used up."""
        return max(self.ttft_s / self.part.ttft_s, self.tpot_s / self.part.tpot_s)


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of a level, all classes together."""

    mean_k: float
    worth: float  # expected effective quality: of what is on time, less what misses count beside
    on_time: float  # share of the requests
    long: float  # share of the prompts that are late by themselves
    utilisation: float  # engine seconds asked for per second and replica
    worst: Outlook


class Predictive:
    """Inverts the profile's step-time model under the load.

    With R replicas, a longest backlog of B tokens on one of them (routing is never even), arrivals
    at a rate a of requests with p prompt and o output tokens, and chunked prefill of C tokens a
    step, at a level whose plan takes, by the profile's step time as corrected by the steps of late,
    prompt(p) for a prompt, request(p, o) for a request and step(prefill, decode) for a step, over a
    horizon of H seconds:

        use    u = a / R * request(p, o)
        drain  D = B / (C - running / R) * step(C - running / R, running / R) at the best level,
                   times request(p, o) here over there
        slack  S = TTFT objective - prompt(p), at least 0
        short  x = E[(D + m D Z - S)+] + E[((u - 1) H - (S - D)+ + e Z)+]
        TPOT   = step(min(C - running / R, max(B, u C)), running / R)
        long   l = share of prompts that take longer than TTFT objective - TPOT, by themselves
        late   L = 1 - (1 - l) ((H + S) / (H + S + x))^(1/3)
        worth  = quality * (1 - L) - (miss_weight - 1) L

    The most worth is taken. A prefilled token reads p / 2 keys, a decoding request p + o / 2.

    H + S is the engine time in which first tokens of the horizon may come. What is asked for beyond
    it will be late, or refused: of the backlog, and then of what comes. Z is standard normal, m
    the error that the step-time model has had in the last minute, e that and the error that
    forecasts of four seconds have had (`controller.forecast`), in engine time. The expectations are
    the newsvendor's shortage (Arrow, Harris and Marschak, "Optimal inventory policy", Econometrica
    1951): e (phi(z) + z Phi(z)) at z = x / e for a mean of x below 0, and x + e phi(0) above it.

    Requests that are lost are fewer than their share of that work, since admission lets go of the
    longest prompts first. Where lengths are spread exponentially, the longest requests, a share f
    of all, hold f (1 - ln f) of the work; up to nine tenths of it the cube root is within 0.05 of
    that law, and near those of three traces (docs/log.md). With the load a level's share on time
    falls the faster the less the level can do, so that none climbs however heavy the load. Where
    TPOT is above its objective all are late.

    The longest prompts may be late with nobody before them: a step runs, and then they take what
    they take. Their lengths are those of the last 256 prompts of the class, told by quantiles, or,
    where nobody has told any, the mean. An idle engine may have k' down for them: the reason says
    so.

    So no queue length is a threshold: where quality is flat k' is given up before there is a queue,
    and at the knee of quality a few requests are left to admission rather than all degraded. How
    long the oldest has waited is not asked: that is past, and what a cut would do for it is little.

    A class waits for those of its priority and above: its u, its B and the running beside it are
    theirs together. A level is a rung for every class (`controller.levels`); its plan is their mean
    by their shares of the tokens, and so is its worth, but prompt(p) and l are by the rung of the
    class; and what is late of a higher priority counts 25 times, so that a promise goes before
    experts.

    Quiet: nothing is late, the best level is taken. Entering load: the level falls with the chance
    of being late. Leaving load: what a climb would make late counts twice, and on a throttled GPU
    the model is not trusted with one. Overload: the level that loses least, and the reason says so.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._profile = profile
        self._goals = goals
        ladder = profile.ladder(goals.floor, goals.ceiling, goals.prefill_ceiling)
        self._best_first = levels_of(ladder, goals.classes)[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.arrival_rps is None:
            return Budget(load.mean_k, "load unknown: hold")
        now = self._situation(load, load.arrival_rps)
        found: tuple[tuple[float, float], Prospect] | None = None
        best: Prospect | None = None
        levels = self._open_to(now)
        for level, most in zip(levels, _most_from_here(map(now.quality, levels)), strict=True):
            if found and found[0][0] >= most:
                break  # nor would any of those below be worth more
            prospect = self._prospect(level, now)
            best = best or prospect
            doubt = 1 - prospect.on_time if now.is_climb(level) else 0.0
            # Where nothing will be on time at any level, the least strained is the best.
            rank = prospect.worth - doubt, -prospect.worst.strain
            if found is None or rank > found[0]:
                found = rank, prospect
        assert found is not None and best is not None
        return self._budget(found[1], best, load)

    def _situation(self, load: Load, next_rps: float) -> Situation:
        lasting_rps = load.arrival_rps_sustained
        mean_rps = next_rps if lasting_rps is None else lasting_rps
        above_rps = max(0.0, (load.arrival_rps_upper or 0.0) - mean_rps)
        if not load.prompt_tokens:  # nobody has come yet, or they are of no size: they cost nothing
            mean_rps = above_rps = 0.0
        model = self._profile.step_time.corrected(load.correction or Correction())
        parts, plan = self._goals.parts(load), self._best_first[0].layers(load.shares)
        chunk = self._profile.max_batch_tokens
        return Situation(
            load,
            model,
            parts,
            [
                drain_s(model, plan, load, chunk, part.worst_waiting_tokens, part.running_requests)
                for part in parts
            ],
            request_s(model, plan, load, chunk),
            load.shares,
            mean_rps / load.replicas,
            above_rps / ONE_IN_TEN / load.replicas,
        )

    def _open_to(self, now: Situation) -> list[Level]:
        """The best first; the lowest always is."""
        if not now.load.gpu_throttled:
            return self._best_first
        *higher, lowest = self._best_first
        return [*(level for level in higher if not now.is_climb(level)), lowest]

    def _prospect(self, level: Level, now: Situation) -> Prospect:
        model, load, plan = now.model, now.load, level.layers(now.shares)
        chunk = self._profile.max_batch_tokens
        takes_s = request_s(model, plan, load, chunk)
        use, use_error = now.arrival_rps * takes_s, now.error_rps * takes_s
        off = load.step_time_error or 0.0
        left = max(0.0, chunk - (load.running_requests or 0) / load.replicas)
        prefill = min(left, max(load.worst_waiting_tokens or 0, chunk * use))
        tpot_s = step_s(model, plan, load, chunk, prefill)
        outlooks = []
        for part, drain_at_best_s in zip(now.parts, now.drains_s, strict=True):
            own_plan = level.of(part.name).layers
            prompt_s = model.prompt_s(own_plan, load.prompt_tokens or 0.0, chunk)
            drained_s = drain_at_best_s * takes_s / now.request_s
            slack_s = max(0.0, part.ttft_s - prompt_s)
            asked_s = part.share * use * HORIZON_S
            growth_s = asked_s - HORIZON_S
            error_s = math.hypot(part.share * use_error * HORIZON_S, off * (drained_s + asked_s))
            unused_s = max(0.0, slack_s - drained_s)
            short_s = _expected_excess(drained_s - slack_s, off * drained_s)
            short_s += _expected_excess(growth_s - unused_s, error_s)
            room_s = HORIZON_S + slack_s
            lone_s = part.ttft_s - tpot_s
            lengths = part.prompt_quantiles or (load.prompt_tokens or 0.0,) * len(PROMPT_SHARES)
            long = share_longer(model, own_plan, lengths, chunk, lone_s)
            late = 1 - (1 - long) * (room_s / (room_s + short_s)) ** FEWER
            late = 1.0 if tpot_s > part.tpot_s else late
            ttft_s = prompt_s + drained_s + max(0.0, growth_s)
            outlooks.append(Outlook(part, late, long, ttft_s, tpot_s))
        return Prospect(
            level.mean_k(now.shares),
            now.weighed({each.part.name: self._worth(level, each) for each in outlooks}),
            now.weighed({each.part.name: 1 - each.late for each in outlooks}),
            now.weighed({each.part.name: each.long for each in outlooks}),
            use,
            max(outlooks, key=lambda each: each.strain),
        )

    def _worth(self, level: Level, outlook: Outlook) -> float:
        part, beside = outlook.part, self._goals.miss_weight - 1
        missed = LATE_WEIGHT**part.rank * outlook.late
        return _quality(level, part) * (1 - missed) - beside * missed

    def _budget(self, prospect: Prospect, best: Prospect, load: Load) -> Budget:
        worst, goals = prospect.worst, self._goals
        part = worst.part
        name = f"class {part.name}, " if load.classes.keys() - {DEFAULT_CLASS} else ""
        overload = "overload: " if prospect.on_time < ENOUGH_ON_TIME else ""
        return Budget(
            min(max(prospect.mean_k, goals.floor), goals.ceiling),  # shares are rounded
            f"{overload}{100 * prospect.on_time:.1f} % on time, worth {prospect.worth:.3f}: {name}"
            f"TTFT {worst.ttft_s:.3f}/{part.ttft_s:.3f} s, "
            f"TPOT {worst.tpot_s:.3f}/{part.tpot_s:.3f} s, use {prospect.utilisation:.2f}"
            f"{_too_long(prospect, best)}",
        )


def _too_long(chosen: Prospect, best: Prospect) -> str:
    """What keeps k' down where there may be no queue."""
    if best.long < SAID or chosen.mean_k >= best.mean_k:
        return ""
    return f"; at k' {best.mean_k:g} {100 * best.long:.1f} % of prompts are late by themselves"


def _quality(level: Level, part: Part) -> float:
    """A measured retention above 1 is noise: nothing is better than full k'."""
    return min(1.0, level.of(part.name).quality)


def _most_from_here(qualities: Iterable[float]) -> list[float]:
    """The most of each and all that follow."""
    return list(accumulate(reversed([*qualities]), max))[::-1]


def _expected_excess(mean: float, error: float) -> float:
    """E[max(0, mean + error Z)], Z standard normal; of a mean above 0 as much more as at 0.

    Doubt is no relief: where too much comes anyway, that less may come must not raise k'.
    """
    if error <= 0:
        return max(0.0, mean)
    below = min(0.0, mean)
    z = below / error
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    chance = (1 + math.erf(z / math.sqrt(2))) / 2
    return max(0.0, mean) + below * chance + error * density
