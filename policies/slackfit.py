"""SuperServe's policy: the best rung that fits the time which the most urgent request has left."""

from controller.config import SloPolicy
from controller.profiles import Profile, Rung
from controller.signals import Budget, Correction, Load, Work
from controller.step_time import StepTime
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

    def __init__(
        self, profile: Profile, *, ttft_s: float, tpot_s: float, floor: float, ceiling: float
    ) -> None:
        """Objectives to keep, margin already taken off."""
        self._profile = profile
        self._ttft_s = ttft_s
        self._tpot_s = tpot_s
        self._best_first = rungs_within(profile, floor, ceiling)[::-1]

    @classmethod
    def from_slo_policy(cls, slo_policy: SloPolicy, profile: Profile) -> "SlackFit":
        slo, experts = slo_policy.slo, slo_policy.experts
        return cls(
            profile,
            ttft_s=slo.margin * slo.ttft_s,
            tpot_s=slo.margin * slo.tpot_s,
            floor=experts.floor,
            ceiling=experts.ceiling,
        )

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.oldest_wait_s is None or load.worst_waiting_tokens is None:
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        model = self._profile.step_time.corrected(load.correction or Correction())
        slack_s = self._ttft_s - load.oldest_wait_s
        for rung in self._best_first:
            drain_s, step_s = self._latencies_s(model, rung, load)
            if drain_s <= slack_s and (step_s <= self._tpot_s or not load.running_requests):
                return self._budget(rung, "best that fits", drain_s, slack_s, step_s)
        lowest = self._best_first[-1]
        drain_s, step_s = self._latencies_s(model, lowest, load)
        return self._budget(lowest, "overload: none fits", drain_s, slack_s, step_s)

    def _budget(
        self, rung: Rung, why: str, drain_s: float, slack_s: float, step_s: float
    ) -> Budget:
        return Budget(
            rung.mean_k,
            f"{why}: drain {drain_s:.3f}/{slack_s:.3f} s, step {step_s:.3f}/{self._tpot_s:.3f} s",
        )

    def _latencies_s(self, model: StepTime, rung: Rung, load: Load) -> tuple[float, float]:
        """Of the backlog's drain, and of the next step."""
        plan, chunk = rung.plan, self._profile.max_batch_tokens
        backlog = load.worst_waiting_tokens or 0
        length, output = load.prompt_tokens or chunk, load.output_tokens or 0.0
        running = (load.running_requests or 0) / load.replicas
        prefill = min(chunk, backlog)
        work = Work(prefill, running, prefill * length / 2, running * (length + output / 2))
        drain_s = backlog / length * model.prompt_s(plan, length, chunk)
        return drain_s, model.step_s(plan, work)
