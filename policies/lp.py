"""Proteus's policy: the mix of rungs that serves the demand at the highest quality."""

from dataclasses import dataclass

from controller.profiles import Profile, Served
from controller.signals import Budget, Correction, Load
from policies.goals import Goals


@dataclass(frozen=True, slots=True)
class Mix:
    cheap: Served
    dear: Served
    share: float  # of the requests that the dear one serves

    @property
    def quality(self) -> float:
        return (1 - self.share) * self.cheap.quality + self.share * self.dear.quality

    @property
    def mean_k(self) -> float:
        return (1 - self.share) * self.cheap.mean_k + self.share * self.dear.mean_k

    def __str__(self) -> str:
        if self.cheap is self.dear:
            return f"all at k' {self.dear.mean_k:g}"
        return f"{100 * self.share:.0f} % at k' {self.dear.mean_k:g}, else {self.cheap.mean_k:g}"


class Lp:
    """Proteus's program (ASPLOS'24, UMass-LIDS/Proteus @ 6967c932, ilp.py) for one elastic model.

    R replicas, a demand of d requests a second, request(c) the engine time that one of them takes
    at rung c by the corrected profile (the capacity is R / request(c)), w the share a rung serves:

        max  sum_c w_c quality_c
        with sum_c w_c request(c) <= R / (1.05 d)   and   sum_c w_c = 1

    Two constraints, so the best mix has at most two rungs, neighbours on the hull of cost and
    quality. With a the cheaper and b the dearer one:

        w_b = (R / (1.05 d) - request(a)) / (request(b) - request(a))

    All pairs are tried: the few rungs need no hull. The budget is the mean k' of the mix. The
    allocator rounds it to a rung, so the mix itself is served only as far as the demand moves.
    Overload: not even the cheapest rung has the capacity; that one is taken. Quality is the
    measured one: where a rung beats full k', the program does not go beyond it.

    Demand is the higher of the fast and the sustained rate: a rise counts at once. Theirs is an
    EWMA over allocation windows, meant for slower loads. What stands in the queue counts for
    nothing, as in the original: a backlog drains only by the twentieth that is kept free.
    """

    OVER_DEMAND = 1.05  # beta: capacity is planned for so much of the demand

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._ladder = profile.ladder(goals.floor, goals.ceiling, goals.prefill_ceiling)
        self._profile = profile

    def decide(self, load: Load) -> Budget:
        prompt, output = load.prompt_tokens, load.output_tokens
        if load.replicas == 0 or load.arrival_rps is None or prompt is None or output is None:
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        model = self._profile.step_time.corrected(load.correction or Correction())
        chunk = self._profile.max_batch_tokens
        costs_s = [model.request_s(each.layers, prompt, output, chunk) for each in self._ladder]
        demand_rps = max(load.arrival_rps, load.arrival_rps_sustained or 0.0)
        planned_rps = self.OVER_DEMAND * demand_rps
        allowed_s = load.replicas / planned_rps if planned_rps else float("inf")
        demand = f"{demand_rps:.2f} requests/s and 5 %"
        mixes = self._mixes(costs_s, allowed_s)
        if not mixes:
            cost_s, cheapest = min(self._priced(costs_s), key=lambda pair: pair[0])
            capacity = f"{load.replicas / cost_s:.2f}/s at k' {cheapest.mean_k:g}"
            return Budget(cheapest.mean_k, f"overload: {demand}, capacity {capacity}")
        mix = max(mixes, key=lambda mix: mix.quality)
        return Budget(mix.mean_k, f"{mix}: {demand}, quality {mix.quality:.3f}")

    def _mixes(self, costs_s: list[float], allowed_s: float) -> list[Mix]:
        """The program's basic solutions: a rung alone that fits, or two that fit together."""
        priced = self._priced(costs_s)
        fits = [(cost_s, rung) for cost_s, rung in priced if cost_s <= allowed_s]
        beyond = [(cost_s, rung) for cost_s, rung in priced if cost_s > allowed_s]
        alone = [Mix(rung, rung, 1.0) for _, rung in fits]
        return alone + [
            Mix(cheap, dear, (allowed_s - low_s) / (high_s - low_s))
            for low_s, cheap in fits
            for high_s, dear in beyond
        ]

    def _priced(self, costs_s: list[float]) -> list[tuple[float, Served]]:
        return list(zip(costs_s, self._ladder, strict=True))
