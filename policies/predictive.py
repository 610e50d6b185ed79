"""The default policy: the best level under which the profile predicts that the objectives hold."""

from collections.abc import Mapping
from dataclasses import dataclass

from controller.config import DEFAULT_CLASS
from controller.levels import Level, levels_of
from controller.profiles import Profile
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s, step_s
from policies.goals import Goals, Part

HORIZON_S = 4.0  # the expected rate is taken to last for so long
ROOM = 0.7  # of a TTFT objective: how long a queue may come to be by then
SAME_K = 1e-6


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of the class that is worst off at a level."""

    part: Part
    ttft_s: float
    tpot_s: float
    utilisation: float  # engine seconds asked for per second and replica, by all classes

    @property
    def strain(self) -> float:
        """The larger share of an objective that is used up; above 1 the level does not hold."""
        return max(self.ttft_s / self.part.ttft_s, self.tpot_s / self.part.tpot_s)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a level takes under a load, whatever the rate: reckoned once a decision."""

    mean_k: float
    model: StepTime
    plan: tuple[float, ...]
    prompt_s: float
    request_s: float
    drains_s: list[float]  # by part


class Predictive:
    """Inverts the profile's step-time model under the load.

    With R replicas, a longest backlog of B tokens on one of them (routing is never even), arrivals
    at a rate a of requests with p prompt and o output tokens, and chunked prefill of C tokens a
    step, at a level whose plan takes, by the profile's step time as corrected by the steps of late,
    prompt(p) for a prompt, request(p, o) for a request and step(prefill, decode) for a step:

        utilisation  u = a / R * request(p, o)
        drain        D = B / (C - running / R) * step(C - running / R, running / R)
        TTFT = max(D, (D + (u - 1) * horizon) / room) + prompt(p)
        TPOT = step(min(C - running / R, max(B, u * C)), running / R)

    A prefilled token reads p / 2 keys, a decoding request p + o / 2. The backlog tells what has
    arrived, the rate of the next four seconds (`controller.forecast`) where it goes. A queue may
    take up the whole objective where it is, but must not be heading for more than its room: at the
    edge every fluctuation would cost the lowest rung. Of an idle engine that is proportional
    control: u may pass 1 by room * objective / horizon, and comes back to it as the queue grows;
    what the rate does from second to second moves it little. How long the oldest has waited is not
    asked: that is past, and what a cut would do for it is little (docs/log.md).

    A class waits for those of its priority and above: its u, its B and the running beside it are
    theirs together. A level
    is a rung for every class (`controller.levels`); its plan is their mean, by their shares of the
    tokens.

    Quiet: every level holds, the best is taken. Entering load: the first level that holds for every
    class, from the top. Leaving load: a level above the present one must also hold, with the whole
    objective for its room, at the rate that the next four seconds exceed one time in ten, or the
    climb would not last. Overload: no level holds; the least strained is taken, and the reason says
    so.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        self._profile = profile
        self._goals = goals
        rungs = profile.within(goals.floor, goals.ceiling)
        self._best_first = levels_of(rungs, goals.classes)[::-1]

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.arrival_rps is None:
            return Budget(load.mean_k, "load unknown: hold")
        model = self._profile.step_time.corrected(load.correction or Correction())
        parts, shares = self._goals.parts(load), load.shares
        lasting_rps = load.arrival_rps_sustained
        expected_rps = load.arrival_rps if lasting_rps is None else lasting_rps
        least: tuple[Costs, Prediction] | None = None
        for level in self._best_first:
            costs = self._costs(model, level, load, parts, shares)
            prediction = self._predict(costs, load, parts, expected_rps, ROOM)
            if prediction.strain <= 1 and self._lasts(costs, load, parts, expected_rps):
                return self._budget(costs, load, "best rung that holds", prediction)
            if least is None or prediction.strain < least[1].strain:
                least = costs, prediction
        assert least is not None
        return self._budget(least[0], load, "overload: no rung holds", least[1])

    def _budget(self, costs: Costs, load: Load, why: str, prediction: Prediction) -> Budget:
        part = prediction.part
        name = f"class {part.name}, " if load.classes.keys() - {DEFAULT_CLASS} else ""
        goals = self._goals
        return Budget(
            min(max(costs.mean_k, goals.floor), goals.ceiling),  # shares are rounded
            f"{why}: {name}TTFT {prediction.ttft_s:.3f}/{part.ttft_s:.3f} s, "
            f"TPOT {prediction.tpot_s:.3f}/{part.tpot_s:.3f} s, use {prediction.utilisation:.2f}",
        )

    def _lasts(self, costs: Costs, load: Load, parts: list[Part], expected_rps: float) -> bool:
        """Only a climb is questioned; on a throttled GPU the model is not trusted with one."""
        if costs.mean_k <= load.mean_k + SAME_K:
            return True
        at_most_rps = max(expected_rps, load.arrival_rps_upper or 0.0)
        at_most = self._predict(costs, load, parts, at_most_rps, 1.0)
        return at_most.strain <= 1 and not load.gpu_throttled

    def _costs(
        self,
        model: StepTime,
        level: Level,
        load: Load,
        parts: list[Part],
        shares: Mapping[str, float],
    ) -> Costs:
        plan, chunk = level.layers(shares), self._profile.max_batch_tokens
        prompt, output = load.prompt_tokens or 0.0, load.output_tokens or 0.0
        return Costs(
            level.mean_k(shares),
            model,
            plan,
            model.prompt_s(plan, prompt, chunk),
            model.request_s(plan, prompt, output, chunk),
            [
                drain_s(model, plan, load, chunk, part.worst_waiting_tokens, part.running_requests)
                for part in parts
            ],
        )

    def _predict(
        self, costs: Costs, load: Load, parts: list[Part], rate_rps: float, room: float
    ) -> Prediction:
        chunk = self._profile.max_batch_tokens
        use = rate_rps / load.replicas * costs.request_s
        left = max(0.0, chunk - (load.running_requests or 0) / load.replicas)
        prefill = min(left, max(load.worst_waiting_tokens or 0, chunk * use))
        tpot_s = step_s(costs.model, costs.plan, load, chunk, prefill)
        predictions = []
        for part, drained_s in zip(parts, costs.drains_s, strict=True):
            later_s = (drained_s + (part.share * use - 1.0) * HORIZON_S) / room
            ttft_s = max(drained_s, later_s) + costs.prompt_s
            predictions.append(Prediction(part, ttft_s, tpot_s, use))
        return max(predictions, key=lambda each: each.strain)
