"""The default policy: the best rung under which the profile predicts that the objectives hold."""

from dataclasses import dataclass

from controller.profiles import Profile, Rung
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s, step_s
from policies.goals import Goals
from policies.rungs import rungs_within

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
    step, at a rung whose plan takes, by the profile's step time as corrected by the steps of late,
    prompt(p) for a prompt, request(p, o) for a request and step(prefill, decode) for a step:

        utilisation  u = a / R * request(p, o)
        drain        D = B * prompt(p) / p
        TTFT = max(D, oldest wait) + prompt(p) + max(0, u - 1) * horizon
        TPOT = step(min(C, max(B, u * C)), running / R)

    A prefilled token reads p / 2 keys, a decoding request p + o / 2.

    Quiet: every rung holds, the best is taken. Entering load: the first rung that holds, from the
    top, at the fast arrival rate. Leaving load: a rung above the present one must hold at the fast
    and at the sustained rate, and leave room, or the climb would not last. Overload: no rung holds;
    the least strained is taken, and the reason says so.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._profile = profile
        self._goals = goals
        self._best_first = rungs_within(profile, goals.floor, goals.ceiling)[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.arrival_rps is None:
            return Budget(load.mean_k, "load unknown: hold")
        model = self._profile.step_time.corrected(load.correction or Correction())
        predictions = [self._predict(model, r, load, load.arrival_rps) for r in self._best_first]
        for rung, prediction in zip(self._best_first, predictions, strict=True):
            if self._strain(prediction) <= 1 and self._lasts(model, rung, load):
                return self._budget(rung, "best rung that holds", prediction)
        least = min(range(len(predictions)), key=lambda i: self._strain(predictions[i]))
        return self._budget(self._best_first[least], "overload: no rung holds", predictions[least])

    def _budget(self, rung: Rung, why: str, prediction: Prediction) -> Budget:
        goals = self._goals
        return Budget(
            rung.mean_k,
            f"{why}: TTFT {prediction.ttft_s:.3f}/{goals.ttft_s:.3f} s, "
            f"TPOT {prediction.tpot_s:.3f}/{goals.tpot_s:.3f} s, use {prediction.utilisation:.2f}",
        )

    def _strain(self, prediction: Prediction) -> float:
        """The larger share of an objective that is used up; above 1 the rung does not hold."""
        goals = self._goals
        return max(goals.ttft_share(prediction.ttft_s), goals.tpot_share(prediction.tpot_s))

    def _lasts(self, model: StepTime, rung: Rung, load: Load) -> bool:
        """Only a climb is questioned; on a throttled GPU the model is not trusted with one."""
        if rung.mean_k <= load.mean_k:
            return True
        rate_rps = max(load.arrival_rps or 0.0, load.arrival_rps_sustained or 0.0)
        prediction = self._predict(model, rung, load, rate_rps)
        holds = self._strain(prediction) <= 1 and prediction.utilisation <= CLIMB_UTILISATION
        return holds and not load.gpu_throttled

    def _predict(self, model: StepTime, rung: Rung, load: Load, rate_rps: float) -> Prediction:
        plan, chunk = rung.plan, self._profile.max_batch_tokens
        prompt, output = load.prompt_tokens or 0.0, load.output_tokens or 0.0
        prompt_s = model.prompt_s(plan, prompt, chunk)
        use = rate_rps / load.replicas * model.request_s(plan, prompt, output, chunk)
        wait_s = max(drain_s(model, plan, load, chunk), load.oldest_wait_s or 0.0)
        prefill = min(chunk, max(load.worst_waiting_tokens or 0, chunk * use))
        return Prediction(
            ttft_s=wait_s + prompt_s + max(0.0, use - 1.0) * self._goals.ttft_s,
            tpot_s=step_s(model, plan, load, chunk, prefill),
            utilisation=use,
        )
