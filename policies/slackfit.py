"""SuperServe's policy: the best rung that fits the time which the most urgent request has left."""

from dataclasses import dataclass

from controller.profiles import Profile, Served
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s, step_s
from policies.goals import Goals


class SlackFit:
    """SlackFit (SuperServe, NSDI'25, arXiv 2312.16733) under continuous batching.

        slack = TTFT objective - oldest wait
        the highest rung with    drain <= slack
                             and step <= TPOT objective, while requests decode

    drain is how long the longest backlog of a replica takes at the rung, beside its running
    requests; step is the engine's next one, with what it takes of the backlog and the same
    requests, both by the corrected profile. No rung fits: the lowest ("slack below the lowest
    bucket").

    Theirs, as recalled (there is no public code to hold this against), sorts pairs of subnet and
    batch into buckets of equal width by latency, and takes from the bucket just below the slack the
    largest batch, then the best subnet. Here the engine has chosen the batch: what is left of a
    bucket is one rung, and the few are reckoned at the batch as it is instead of looked up.

    Approximated: the slack is the oldest request's, and the whole backlog has to fit in it. A
    running request's slack is one TPOT objective a step: a Load does not say who is ahead of its
    pace or behind it. No arrivals are foreseen, as in the original.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._profile = profile
        self._goals = goals
        ladder = profile.ladder(goals.floor, goals.ceiling, goals.prefill_ceiling)
        self._best_first = ladder[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.oldest_wait_s is None or load.worst_waiting_tokens is None:
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        model = self._profile.step_time.corrected(load.correction or Correction())
        fits = [self._fit(model, rung, load) for rung in self._best_first]
        for fit in fits:
            keeps_pace = fit.step_s <= fit.tpot_s or not load.running_requests
            if fit.drain_s <= fit.slack_s and keeps_pace:
                return self._budget("best that fits", fit)
        return self._budget("overload: none fits", fits[-1])

    def _budget(self, why: str, fit: "Fit") -> Budget:
        return Budget(
            fit.rung.mean_k,
            f"{why}: drain {fit.drain_s:.3f}/{fit.slack_s:.3f} s, "
            f"step {fit.step_s:.3f}/{fit.tpot_s:.3f} s",
        )

    def _fit(self, model: StepTime, rung: Served, load: Load) -> "Fit":
        """Of the class with the least time to spare."""
        plan, chunk = rung.layers, self._profile.max_batch_tokens
        parts = self._goals.parts(load)
        times = [
            (
                drain_s(model, plan, load, chunk, p.worst_waiting_tokens, p.running_requests),
                p.ttft_s - p.oldest_wait_s,
            )
            for p in parts
        ]
        drain, slack = min(times, key=lambda each: each[1] - each[0])
        step = step_s(model, plan, load, chunk, min(chunk, load.worst_waiting_tokens or 0))
        return Fit(rung, drain, slack, step, min(part.tpot_s for part in parts))


@dataclass(frozen=True, slots=True)
class Fit:
    """A rung's backlog drain and next step beside the time there is for them."""

    rung: Served
    drain_s: float
    slack_s: float
    step_s: float
    tpot_s: float
