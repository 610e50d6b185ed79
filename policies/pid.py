"""Control theory's policy: what the queue foretells, corrected by how late answers are."""

from controller.profiles import Profile
from controller.signals import Budget, Correction, Load
from controller.step_time import StepTime
from policies.foresight import drain_s
from policies.goals import Goals, Part
from policies.rungs import span_within


class Pid:
    """Feed-forward and PI on the dimmer u, after Brownout (Klein et al., ICSE'14; the gains are
    those of brownout-lb-simulator's queue feed-forward variant, re-implemented):

        mean k' = lowest + u (highest - lowest)                u in 0..1
        u  = clamp(ff + Kp e + I, 0, 1)
        ff = clamp((TTFT objective - D(lowest)) / (D(highest) - D(lowest)), 0, 1)
        e  = 1 - max(TTFT / objective, TPOT p95 / objective)
        I <- I + Ki e dt

    D(rung) is how long the longest backlog of a replica takes at that rung, beside its running
    requests, by the corrected profile. TTFT is p95 or the oldest wait, whichever is longer: the
    wait is a TTFT that is not over. Their ff takes the floor's time for next to nothing, and a low
    rung's is not. They mix in a tenth of the last u, by periods and not by seconds: left out. So is
    their D (0.1): p95 of a window moves in jumps, whose derivative is noise, and what it would
    foresee is in ff.

    Anti-windup, conditional integration: at a limit, I does not take what would push beyond it.
    Bumpless: switched on, or after more than 5 s without a decision (a replica's lease: k' may have
    changed without us) or an unknown load, I is set so that u is what runs. Idle, or with nothing
    measured: hold, and I stays.
    """

    KP = 0.15
    KI = 0.10  # a second
    GAP_S = 5.0

    def __init__(self, profile: Profile, goals: Goals) -> None:
        ladder = profile.ladder(goals.floor, goals.ceiling, goals.prefill_ceiling)
        self._profile = profile
        self._lowest, self._highest = ladder[0].layers, ladder[-1].layers
        self._span = span_within(profile, goals.floor, goals.ceiling)
        self._goals = goals
        self._integral = 0.0
        self._at_s: float | None = None  # of the last decision; None: a hand-over is due

    def decide(self, load: Load) -> Budget:
        if load.replicas == 0 or load.oldest_wait_s is None or load.worst_waiting_tokens is None:
            self._at_s = None
            return Budget(load.mean_k, f"load unknown: hold at {load.mean_k:g}")
        handed_over = self._at_s is None or load.at_s - self._at_s > self.GAP_S
        dt_s = 0.0 if self._at_s is None else load.at_s - self._at_s
        strain = self._strain(load)
        if strain is None:
            # What idle time passes is not integrated, and needs no hand-over.
            self._at_s = None if handed_over else load.at_s
            return Budget(load.mean_k, f"idle: hold at {load.mean_k:g}")
        self._at_s = load.at_s
        error, ahead = 1 - strain, self._feed_forward(load)
        if handed_over:
            self._integral = self._span.share(load.mean_k) - ahead - self.KP * error
            dt_s = 0.0
        integral = self._integral + self.KI * error * dt_s
        wish = ahead + self.KP * error + integral
        pushes_out = (wish > 1 and error > 0) or (wish < 0 and error < 0)
        if not pushes_out:
            self._integral = integral
        u = min(max(wish, 0.0), 1.0)
        return Budget(
            self._span.at(u),
            f"{'handed over' if handed_over else 'u'} {u:.3f}: queue {ahead:.3f}, "
            f"P {self.KP * error:+.3f}, I {self._integral:+.3f}, strain {strain:.3f}, "
            f"{load.worst_waiting_tokens} tokens wait",
        )

    def _strain(self, load: Load) -> float | None:
        """The larger share of an objective that is used up; None: nobody is served or measured."""
        known = load.ttft_p95_s is not None or load.tpot_p95_s is not None
        if not load.oldest_wait_s and not (load.running_requests and known):
            return None
        return max(self._goals.strains(load))

    def _feed_forward(self, load: Load) -> float:
        """The u at which every class's backlog is prefilled just in time."""
        model = self._profile.step_time.corrected(load.correction or Correction())
        return min(self._just_in_time(model, load, part) for part in self._goals.parts(load))

    def _just_in_time(self, model: StepTime, load: Load, part: Part) -> float:
        chunk, tokens = self._profile.max_batch_tokens, part.worst_waiting_tokens
        fast_s, slow_s = (
            drain_s(model, plan, load, chunk, tokens, load.running_requests or 0)
            for plan in (self._lowest, self._highest)
        )
        if slow_s <= part.ttft_s:
            return 1.0
        if fast_s >= part.ttft_s:
            return 0.0
        return (part.ttft_s - fast_s) / (slow_s - fast_s)
