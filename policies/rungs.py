"""The mean k' between the lowest and the highest rung, for policies that steer a share of it."""

from typing import NamedTuple

from controller.profiles import Profile


class Span(NamedTuple):
    low: float
    high: float

    def at(self, share: float) -> float:
        return self.low + share * (self.high - self.low)

    def share(self, mean_k: float) -> float:
        """Of what runs, 0..1, also where a stricter floor or ceiling has come meanwhile."""
        if self.high == self.low:
            return 1.0
        return min(max((mean_k - self.low) / (self.high - self.low), 0.0), 1.0)

    def clip(self, mean_k: float) -> float:
        return min(max(mean_k, self.low), self.high)


def span_within(profile: Profile, floor: float, ceiling: float) -> Span:
    rungs = profile.within(floor, ceiling)
    return Span(rungs[0].mean_k, rungs[-1].mean_k)
