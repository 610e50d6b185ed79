"""The default policy: the best rung under which the profile predicts that the objectives hold."""

from dataclasses import dataclass

from controller.config import SloPolicy
from controller.profiles import Profile, Rung
from controller.signals import Budget, Load

THROTTLED_SLOWDOWN = (
    1.25  # a throttled GPU runs slower than its profile says, by how much is unknown
)
CLIMB_UTILISATION = 0.9  # a rung above the present one must leave the engine this much idle


@dataclass(frozen=True, slots=True)
class Prediction:
    ttft_s: float
    tpot_s: float
    utilisation: float  # engine seconds asked for per second and replica


class Predictive:
    """Inverts the profile's step-time model under the load.

    With R replicas, a longest backlog of B tokens on one of them (routing is never even), arrivals
    at a rate a of requests with p prompt and o output tokens, and chunked prefill of C tokens a
    step, at a rung whose step costs s(prefill, decode):

        token time   t = ratio * s(C, 0) / C            ratio: measured over predicted step time
        utilisation  u = a / R * (p * t + o * ratio * decode cost)
        TTFT = max(B * t, oldest wait) + p * t + max(0, u - 1) * horizon
        TPOT = ratio * s(min(C, max(B, u * C)), running / R)

    Quiet: every rung holds, the best is taken. Entering load: the first rung that holds, from the
    top, at the fast arrival rate. Leaving load: a rung above the present one must hold at the fast
    and at the sustained rate, and leave room, or the climb would not last. Overload: no rung holds;
    the least strained is taken, and the reason says so.
    """

    def __init__(
        self, profile: Profile, *, ttft_s: float, tpot_s: float, floor: float, ceiling: float
    ) -> None:
        """`ttft_s` and `tpot_s` are the objectives to plan for, margin already taken off."""
        self._profile = profile
        self._ttft_s = ttft_s
        self._tpot_s = tpot_s
        self._best_first = [r for r in reversed(profile.rungs) if floor <= r.mean_k <= ceiling]
        if not self._best_first:
            raise ValueError(f"the profile has no rung between floor {floor} and ceiling {ceiling}")

    @classmethod
    def from_slo_policy(cls, slo_policy: SloPolicy, profile: Profile) -> "Predictive":
        slo, experts = slo_policy.slo, slo_policy.experts
        return cls(
            profile,
            ttft_s=slo.margin * slo.ttft_s,
            tpot_s=slo.margin * slo.tpot_s,
            floor=experts.floor,
            ceiling=experts.ceiling,
        )

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.arrival_rps is None:
            return Budget(load.mean_k, "load unknown: hold")
        predictions = {r: self._predict(r, load, load.arrival_rps) for r in self._best_first}
        for rung, prediction in predictions.items():
            if self._strain(prediction) <= 1 and self._lasts(rung, load):
                return self._budget(rung, "best rung that holds", prediction)
        least = min(self._best_first, key=lambda rung: self._strain(predictions[rung]))
        return self._budget(least, "overload: no rung holds", predictions[least])

    def _budget(self, rung: Rung, why: str, prediction: Prediction) -> Budget:
        return Budget(
            rung.mean_k,
            f"{why}: TTFT {prediction.ttft_s:.3f}/{self._ttft_s:.3f} s, "
            f"TPOT {prediction.tpot_s:.3f}/{self._tpot_s:.3f} s, use {prediction.utilisation:.2f}",
        )

    def _strain(self, prediction: Prediction) -> float:
        """The larger share of an objective that is used up; above 1 the rung does not hold."""
        return max(prediction.ttft_s / self._ttft_s, prediction.tpot_s / self._tpot_s)

    def _lasts(self, rung: Rung, load: Load) -> bool:
        """Only a climb is questioned; on a throttled GPU the model is not trusted with one."""
        if rung.mean_k <= load.mean_k:
            return True
        rate_rps = max(load.arrival_rps or 0.0, load.arrival_rps_sustained or 0.0)
        prediction = self._predict(rung, load, rate_rps)
        holds = self._strain(prediction) <= 1 and prediction.utilisation <= CLIMB_UTILISATION
        return holds and not load.gpu_throttled

    def _predict(self, rung: Rung, load: Load, rate_rps: float) -> Prediction:
        chunk, cost = self._profile.max_batch_tokens, rung.cost
        ratio = load.step_time_ratio or 1.0
        prompt, output = load.prompt_tokens or 0.0, load.output_tokens or 0.0
        prompt_s = ratio * cost.request_s(prompt, 0, chunk)
        use = rate_rps / load.replicas * ratio * cost.request_s(prompt, output, chunk)
        drain_s = ratio * cost.request_s(load.worst_waiting_tokens or 0, 0, chunk)
        wait_s = max(drain_s, load.oldest_wait_s or 0.0)
        running = (load.running_requests or 0) / load.replicas
        prefill = min(chunk, max(load.worst_waiting_tokens or 0, chunk * use))
        return Prediction(
            ttft_s=wait_s + prompt_s + max(0.0, use - 1.0) * self._ttft_s,
            tpot_s=ratio * cost.step_s(prefill, running),
            utilisation=use,
        )
