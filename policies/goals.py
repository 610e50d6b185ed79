"""What a policy is to keep, and between which k'."""

from dataclasses import dataclass

from controller.config import SloPolicy
from controller.signals import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """The objectives to plan for, margin already taken off, and the bounds of mean k'."""

    ttft_s: float
    tpot_s: float
    floor: float
    ceiling: float
    least_raise: float = 0.0  # smaller raises of mean k' would not be made

    @classmethod
    def of(cls, slo_policy: SloPolicy) -> "Goals":
        slo, experts = slo_policy.slo, slo_policy.experts
        return cls(
            ttft_s=slo.margin * slo.ttft_s,
            tpot_s=slo.margin * slo.tpot_s,
            floor=experts.floor,
            ceiling=experts.ceiling,
            least_raise=slo_policy.guard.tolerance,
        )

    def ttft_share(self, latency_s: float | None) -> float:
        """How much of the objective a latency uses up; none where it is not known."""
        return (latency_s or 0.0) / self.ttft_s

    def tpot_share(self, latency_s: float | None) -> float:
        return (latency_s or 0.0) / self.tpot_s

    def beside(self, load: Load) -> str:
        """The latencies of late beside their objectives, for a reason."""
        ttft = "none" if load.ttft_p95_s is None else f"{load.ttft_p95_s:.3f}"
        tpot = "none" if load.tpot_p95_s is None else f"{load.tpot_p95_s:.3f}"
        return f"TTFT p95 {ttft}/{self.ttft_s:.3f} s, TPOT p95 {tpot}/{self.tpot_s:.3f} s"
