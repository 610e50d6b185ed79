"""Concurrency limiters' rules on our dial: latency of late against what it used to be."""

from math import sqrt

from controller.profiles import Profile
from controller.signals import Budget, Load
from policies.goals import Goals
from policies.rungs import span_within


class Gradient:
    """Netflix's Gradient2 (concurrency-limits @ 78a74b98, Gradient2Limit.java and its defaults).

    Once a second, with the limit L:

        short    = latency now
        long     = mean of the first 10, then EWMA with the factor 2 / 601
        long / short > 2: long <- 0.95 long                       a long overload is over
        gradient = max(0.5, min(1, 1.5 long / short))
        L       <- clamp(0.8 L + 0.2 (L gradient + headroom))

    They limit concurrency; our L is mean k', between the lowest and the highest rung: fewer experts
    take work off the engine as fewer requests would. L stays a float, the allocator rounds.
    Headroom is 0.05 of the highest k' (theirs, 4, is 0.02 of the highest limit, 0.2 of the first).

    Latency is 1 + max(oldest wait / TTFT objective, TPOT p95 / TPOT objective), the latter while
    requests decode. By bare latencies the rule would learn those of a low rung and take full k' for
    an overload. The 1 stands for a request without any latency, so that with the tolerance of 1.5
    full k' may take half an objective more. As the original it takes a long overload for normal.

    Idle (they: less than half the limit in flight) nothing is learned and nothing moves. Their
    window's mean and its least number of requests are left out: a Load has been smoothed.
    """

    WINDOW_S = 1.0
    SMOOTHING = 0.2
    LONG_FACTOR = 2 / (600 + 1)
    WARM_UP_WINDOWS = 10
    TOLERANCE = 1.5
    RECOVERY = 0.95
    HEADROOM = 0.05  # of the highest k'

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._span = span_within(profile, goals.floor, goals.ceiling)
        self._goals = goals
        self._limit: float | None = None  # until the first decision
        self._moved_at_s = float("-inf")
        self._long = 0.0
        self._windows = 0

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.oldest_wait_s is None:
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        if not load.running_requests and not load.oldest_wait_s:
            return Budget(load.mean_k, f"idle: hold at {load.mean_k:g}")
        if self._limit is None:
            self._limit = self._span.clip(load.mean_k)
        since_s = load.at_s - self._moved_at_s
        if since_s < self.WINDOW_S:
            left_s = self.WINDOW_S - since_s
            return Budget(self._limit, f"limit {self._limit:.3f}, window over in {left_s:.1f} s")
        self._moved_at_s = load.at_s
        parts = self._goals.parts(load)
        late = max(parts, key=lambda part: part.wait_share)
        halting = max(parts, key=lambda part: part.tpot_share)
        tpot_s = halting.tpot_p95_s if load.running_requests else None
        short = 1 + max(late.wait_share, (tpot_s or 0.0) / halting.tpot_s)
        limit, why = self._moved(self._limit, short)
        self._limit = self._span.clip(limit)
        tpot = "none" if tpot_s is None else f"{tpot_s:.3f}"
        return Budget(
            self._limit,
            f"limit {self._limit:.3f}: {why}; oldest wait {late.oldest_wait_s:.3f}/"
            f"{late.ttft_s:.3f} s, TPOT p95 {tpot}/{halting.tpot_s:.3f} s",
        )

    def _moved(self, limit: float, short: float) -> tuple[float, str]:
        self._windows += 1
        warming = self._windows <= self.WARM_UP_WINDOWS
        self._long += (short - self._long) * (1 / self._windows if warming else self.LONG_FACTOR)
        if self._long / short > 2:
            self._long *= self.RECOVERY
        gradient = max(0.5, min(1.0, self.TOLERANCE * self._long / short))
        aim = limit * gradient + self.HEADROOM * self._span.high
        why = f"gradient {gradient:.3f} of latency {short:.3f}, long {self._long:.3f}"
        return (1 - self.SMOOTHING) * limit + self.SMOOTHING * aim, why


class MinRttGradient(Gradient):
    """Envoy's form (envoyproxy/envoy, adaptive concurrency, gradient_controller.cc).

        gradient = clamp(minRTT (1 + 0.25) / latency, 0.5, 2)
        L       <- clamp(L gradient + sqrt(L gradient))

    Their minRTT is measured anew every so often, with the limit pinned low. Latency as above is 1
    when nobody waits and tokens take no time, so minRTT is 1: no request pays for its measurement,
    and a low rung's cannot become the norm. Their window is 0.1 s in the documented example; here
    it stays 1 s, as p95 over 10 s has little more to say. Made for simulations: no SLO policy
    names it.
    """

    BUFFER = 0.25
    MIN_RTT = 1.0

    def _moved(self, limit: float, short: float) -> tuple[float, str]:
        gradient = max(0.5, min(2.0, self.MIN_RTT * (1 + self.BUFFER) / short))
        why = f"gradient {gradient:.3f} of latency {short:.3f}, least {self.MIN_RTT:.3f}"
        return limit * gradient + sqrt(limit * gradient), why
