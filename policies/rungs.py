"""The rungs a policy may choose from."""

from typing import NamedTuple

from controller.profiles import Profile, Rung


class Span(NamedTuple):
    """The mean k' from the lowest rung to the highest, for policies that steer a share of it."""

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


def rungs_within(profile: Profile, floor: float, ceiling: float) -> list[Rung]:
    """From the lowest up; there is at least one."""
    rungs = [rung for rung in profile.rungs if floor <= rung.mean_k <= ceiling]
    if not rungs:
        raise ValueError(f"the profile has no rung between floor {floor} and ceiling {ceiling}")
    return rungs


def span_within(profile: Profile, floor: float, ceiling: float) -> Span:
    rungs = rungs_within(profile, floor, ceiling)
    return Span(rungs[0].mean_k, rungs[-1].mean_k)
