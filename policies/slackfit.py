"""SuperServe's policy: the best rung that fits the time which the most urgent request has left."""

from controller.profiles import Profile, Rung
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s, step_s
from policies.goals import Goals
from policies.rungs import rungs_within


class SlackFit:
    """SlackFit (SuperServe, NSDI'25, arXiv 2312.16733) under continuous batching.

        slack = TTFT objective - oldest wait
        the highest rung with    drain <= slack
                             and step <= TPOT objective, while requests decode

    drain is how long the longest backlog of a replica takes at the rung's prompt rate; step is the
    engine's next one, with what it takes of the backlog and the running requests of a replica, both
    by the corrected profile. No rung fits: the lowest ("slack below the lowest bucket").

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
        self._best_first = rungs_within(profile, goals.floor, goals.ceiling)[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.oldest_wait_s is None or load.worst_waiting_tokens is None:
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        model = self._profile.step_time.corrected(load.correction or Correction())
        slack_s = self._goals.ttft_s - load.oldest_wait_s
        for rung in self._best_first:
            drain, step = self._latencies_s(model, rung, load)
            if drain <= slack_s and (step <= self._goals.tpot_s or not load.running_requests):
                return self._budget(rung, "best that fits", drain, slack_s, step)
        lowest = self._best_first[-1]
        drain, step = self._latencies_s(model, lowest, load)
        return self._budget(lowest, "overload: none fits", drain, slack_s, step)

    def _budget(self, rung: Rung, why: str, drain: float, slack_s: float, step: float) -> Budget:
        return Budget(
            rung.mean_k,
            f"{why}: drain {drain:.3f}/{slack_s:.3f} s, step {step:.3f}/{self._goals.tpot_s:.3f} s",
        )

    def _latencies_s(self, model: StepTime, rung: Rung, load: Load) -> tuple[float, float]:
        """Of the backlog's drain, and of the next step."""
        plan, chunk = rung.plan, self._profile.max_batch_tokens
        prefill = min(chunk, load.worst_waiting_tokens or 0)
        return drain_s(model, plan, load, chunk), step_s(model, plan, load, chunk, prefill)
