"""The model-free policy: one rung down when an objective is missed, one up when there is room."""

from controller.class_estimator import LATENCY_WINDOW_S
from controller.profiles import Profile
from controller.signals import Budget, Load
from policies.goals import Goals

# From one rung to the next k' at most about doubles (1 to 2), and so does a step: what takes less
# than half an objective still keeps it there.
ROOM = 0.5


class Ladder:
    """Needs no step times. Strain: the largest share of an objective that a latency uses up.

        down   strain now > 1, by the oldest wait, by TTFT p95 while a queue stands, or by TPOT p95
               while requests decode and the rung has run for as long as its window
        up     strain of all latencies < 1/2, and no queue stands
        hold   between

    A queue stands while a replica has more prompt tokens waiting than a step takes in, or a request
    has waited for half its objective. TTFTs are of up to ten seconds ago: without a queue they are
    history, which lowering k' cannot change, and only keep it from climbing. TPOTs have no such
    witness. After a change of rung p95 is of tokens made before it, so for one window it says
    nothing of this rung; without that wait one slow second would cost all rungs at once.
    """

    def __init__(self, profile: Profile, goals: Goals) -> None:
        rungs = profile.within(goals.floor, goals.ceiling)
        self._mean_ks = [rung.mean_k for rung in rungs]
        self._step_tokens = profile.max_batch_tokens
        self._goals = goals
        self._running: tuple[int, float] | None = None  # the plan's epoch, and since when

    def decide(self, load: Load) -> Budget:
        if self._running is None or self._running[0] != load.epoch:
            self._running = load.epoch, load.at_s
        if load.replicas == 0 or load.oldest_wait_s is None:
            return Budget(load.mean_k, "load unknown: hold")
        here = min(self._mean_ks, key=lambda mean_k: abs(mean_k - load.mean_k))
        wait, ttft, tpot = self._goals.strains(load)
        queue = wait >= ROOM or (load.worst_waiting_tokens or 0) > self._step_tokens
        settled = load.at_s - self._running[1] >= LATENCY_WINDOW_S
        decoding = bool(load.running_requests)
        now = max(wait, ttft if queue else 0.0, tpot if decoding and settled else 0.0)
        if now > 1 and here == self._mean_ks[0]:
            return self._budget(here, "overload, lowest rung", load)
        if now > 1:
            return self._budget(max(k for k in self._mean_ks if k < here), "one rung down", load)
        if queue or max(wait, ttft, tpot) >= ROOM:
            return self._budget(here, "hold", load)
        higher = [k for k in self._mean_ks if k > here and k - here >= self._goals.least_raise]
        if not higher:
            return self._budget(here, "highest rung", load)
        return self._budget(higher[0], "one rung up", load)

    def _budget(self, mean_k: float, what: str, load: Load) -> Budget:
        return Budget(
            mean_k,
            f"{what}: oldest wait {load.oldest_wait_s:.3f}, {self._goals.beside(load)}, "
            f"{load.worst_waiting_tokens or 0} tokens wait",
        )
