"""BrownoutServe's published rule on our dial: a baseline that goes by latencies alone."""

from controller.profiles import Profile
from controller.signals import Budget, Load
from policies.goals import Goals
from policies.rungs import span_within


class Aimd:
    """Additive increase, multiplicative decrease (BrownoutServe, arXiv 2507.17133, its code @
    ff47bc01, slo_analyzer.py). Every 5 s, with the strain s, the larger of TTFT p95 and TPOT p95
    over their objectives:

        s > 1           theta <- 0.8 theta
        0.8 <= s <= 1   hold
        s < 0.8         theta <- min(1, theta + 0.1)

        mean k' = lowest + theta (highest - lowest)

    Their theta is the share of token-expert assignments that run exactly; the others go to united
    experts, so theta near 0 is the cheapest that they have and not a token without experts. For us
    that is the lowest rung, and experts go up with theta from there. Theta itself has no lower
    bound, as theirs: ten raises bring it back from wherever it is.

    What differs. They see single iterations without the wait before them, p90 over 2 s; a Load has
    p95 over 10 s, and its TTFT holds the wait of those that have been answered. They keep one theta
    for prefill and one for decode; we have one dial, and the worse of the two turns it. Theta
    starts from what runs, not from 1. They check in an iteration, so no latencies means no check.

    Blind to the queue, on purpose: who still waits counts for nothing, as in the original, and
    that is the weakness this baseline is there to show.
    """

    CHECK_INTERVAL_S = 5.0
    DECREASE = 0.8
    INCREASE = 0.1
    HOLD_FROM = 0.8  # of an objective

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._span = span_within(profile, goals.floor, goals.ceiling)
        self._goals = goals
        self._theta: float | None = None  # until the first decision
        self._checked_at_s = float("-inf")

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or (load.ttft_p95_s is None and load.tpot_p95_s is None):
            return Budget(load.mean_k, f"no latencies: hold at {load.mean_k:g}")
        if self._theta is None:
            self._theta = self._span.share(load.mean_k)
        since_s = load.at_s - self._checked_at_s
        if since_s < self.CHECK_INTERVAL_S:
            what = f"next check in {self.CHECK_INTERVAL_S - since_s:.1f} s"
        else:
            self._checked_at_s = load.at_s
            self._theta, what = self._checked(self._theta, load)
        return Budget(
            self._span.at(self._theta),
            f"{what}: theta {self._theta:.3f}, {self._goals.beside(load)}",
        )

    def _checked(self, theta: float, load: Load) -> tuple[float, str]:
        _, ttft, tpot = self._goals.strains(load)
        strain = max(ttft, tpot)
        if strain > 1:
            return self.DECREASE * theta, "decrease"
        if strain >= self.HOLD_FROM:
            return theta, "hold"
        return min(1.0, theta + self.INCREASE), "increase"
