"""How many replicas the load deserves at full k', and when to ask for another number.

Takes Loads, gives a ReplicaWish. Replicas are the slow actuator: k' bridges the time until one is
ready, and would hide the overload from whoever counts waiting requests or busy engines; so demand
is reckoned at full k', whatever runs. Knows neither Serve nor the bounds that it keeps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from controller.config import SloPolicy
from controller.levels import served_levels
from controller.profiles import Profile
from controller.signals import Correction, Load, ReplicaWish

KEPT_FREE = 0.1  # of what may be planned for, by those that stay: or they would be too few at once


@dataclass(frozen=True, slots=True)
class Demand:
    """Replicas that the load would keep as busy as may be planned for."""

    full: float  # with all tokens at full k'
    floor: float  # with all at the lowest k' that the SLO policy allows

    def spent(self, replicas: int) -> float:
        """How far k' has to go for so many replicas: 0 full, 1 the floor; above 1 none holds."""
        if self.full <= replicas:
            return 0.0
        if self.full <= self.floor:
            return 1.0  # there is no way to go
        return (self.full - replicas) / (self.full - self.floor)


class _Standing:
    """For how long something has held, less the time in which it has not; down to none.

    A load that comes at random keeps to no side of a bound: one that had to hold without a break
    would be waited for in vain, while a burst that is over in time counts for nothing either way.
    """

    def __init__(self, name: str, after_s: float, bound: Callable[[int, int], int]) -> None:
        """`bound` says which number stands for the time: the least that was needed, or the most."""
        self._name = name
        self._after_s = after_s
        self._bound = bound
        self._seen_s: float | None = None
        self._held_s = 0.0
        self.needed: int | None = None  # None: it has not held of late

    def see(self, needed: int | None, at_s: float) -> None:
        """The number needed, None where it does not hold, since the last look."""
        dt_s = 0.0 if self._seen_s is None else at_s - self._seen_s
        self._seen_s = at_s
        if needed is not None:
            self._held_s += dt_s
            self.needed = needed if self.needed is None else self._bound(self.needed, needed)
        elif dt_s >= self._held_s:
            self.begin_anew()
        else:
            self._held_s -= dt_s

    def begin_anew(self) -> None:
        self._held_s, self._seen_s, self.needed = 0.0, None, None

    @property
    def due(self) -> int | None:
        """The number, once it has held for long enough."""
        return self.needed if self._held_s >= self._after_s else None

    def __str__(self) -> str:
        return f"{self._name} for {self._held_s:.0f} of {self._after_s:g} s"


class Scaling:
    """With sustained arrivals at a rate a of requests with p prompt and o output tokens, W of them
    waiting for a first token, at a k' that takes request(p, o) of an engine by the corrected model:

        demand = (a + W / up_after) * request(p, o) / utilisation

    in replicas; once at full k' and once at the floor. W counts as if it were to be worked off
    within `up_after_s`. With R replicas, those asked for or else those there,

        spent = (full - R) / (full - floor)

    is how far k' has to go to hold. Rows from most severe to hold; times are those in which a row
    holds, less those in between in which it does not:

    Unknown, or a replica silent: hold, and the times begin anew.
    Short: spent >= up_at for `up_after_s`. As many are asked for as full k' needed at the least.
    Starting: fewer there than asked for. No more are asked for, whatever the load.
    Spare: full (1 + e) <= 0.9 (R - 1) for `down_after_s`, e the error of the step times of late. As
    many are asked for as would have done all the while: one fewer, or less.

    A steady load is answered once: what Short asks for leaves no room for Spare, nor the reverse.
    """

    def __init__(self, profile: Profile, slo_policy: SloPolicy, asked: int | None = None) -> None:
        """`asked` is what a predecessor has asked for, under another SLO policy."""
        # A dry run serves one level; the wish is of the policy that it tries out.
        levels = served_levels(slo_policy.model_copy(update={"mode": "act"}), profile)
        self._floor, self._full = levels[0], levels[-1]
        self._profile = profile
        self._settings = slo_policy.replicas
        self._short = _Standing("short", self._settings.up_after_s, min)
        self._spare = _Standing("spare", self._settings.down_after_s, max)
        self.asked = asked

    def decide(self, load: Load) -> ReplicaWish:
        demand = self._demand(load)
        if demand is None or load.stale_replicas:
            self._begin_anew()
            silent = f"hold: {load.stale_replicas} stale replicas"
            return ReplicaWish(self.asked, silent if demand else "load unknown: hold")
        here = self.asked or load.replicas
        short = math.ceil(demand.full) if self._is_short(demand, here, load) else None
        cautious = demand.full * (1 + (load.step_time_error or 0.0))
        enough = max(1, math.ceil(cautious / (1 - KEPT_FREE)))
        self._short.see(short, load.at_s)
        self._spare.see(enough if enough < here else None, load.at_s)
        reason = (
            f"{self._row(here, load)}; full k' needs {demand.full:.2f} replicas, "
            f"the floor {demand.floor:.2f}: {here} take k' {demand.spent(here):.0%} of the way down"
        )
        if due := self._short.due or self._spare.due:
            self.asked = due
            self._begin_anew()
        return ReplicaWish(self.asked, reason)

    def _begin_anew(self) -> None:
        for standing in (self._short, self._spare):
            standing.begin_anew()

    def _is_short(self, demand: Demand, here: int, load: Load) -> bool:
        """Not while one starts: how many it leaves short is known once it takes its share."""
        spent, is_starting = demand.spent(here), load.replicas < here
        return demand.full > here and spent >= self._settings.up_at and not is_starting

    def _row(self, here: int, load: Load) -> str:
        for standing in (self._short, self._spare):
            if standing.needed:
                return str(standing)
        if load.replicas < here:
            return f"{load.replicas} of {here} asked for are there"
        return "enough"

    def _demand(self, load: Load) -> Demand | None:
        """None where too little is known."""
        arrivals_rps = load.arrival_rps_sustained
        if load.replicas == 0 or arrivals_rps is None:
            return None
        waiting_rps = (load.waiting_requests or 0) / self._settings.up_after_s
        rate_rps = arrivals_rps + waiting_rps
        if rate_rps == 0:
            return Demand(0.0, 0.0)
        if load.prompt_tokens is None or load.output_tokens is None:
            return None
        model = self._profile.step_time.corrected(load.correction or Correction())
        chunk, shares = self._profile.max_batch_tokens, load.shares
        full_s, floor_s = (
            model.request_s(level.layers(shares), load.prompt_tokens, load.output_tokens, chunk)
            for level in (self._full, self._floor)
        )
        rate_rps /= self._settings.utilisation
        return Demand(rate_rps * full_s, rate_rps * floor_s)
