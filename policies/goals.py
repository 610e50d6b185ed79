"""What a policy is to keep, and between which k'."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from controller.config import DEFAULT_CLASS, SloClass, SloPolicy
from controller.signals import Load


@dataclass(frozen=True, slots=True)
class Part:
    """What one SLO class sees of a load: with it, the classes that it has to wait for."""

    name: str
    rank: int  # how many lower priorities have requests of late
    ttft_s: float  # objectives
    tpot_s: float
    share: float  # of the tokens, of this class and those that go before it
    worst_waiting_tokens: int  # likewise, of the replica with the most
    running_requests: int  # likewise, of all replicas
    prompt_quantiles: tuple[int, ...]  # tokens, of this class, like the following
    oldest_wait_s: float
    ttft_p95_s: float | None
    tpot_p95_s: float | None

    @property
    def wait_share(self) -> float:
        """How much of its objective a latency uses up; none where it is not known."""
        return self.oldest_wait_s / self.ttft_s

    @property
    def ttft_share(self) -> float:
        return (self.ttft_p95_s or 0.0) / self.ttft_s

    @property
    def tpot_share(self) -> float:
        return (self.tpot_p95_s or 0.0) / self.tpot_s


class Strains(NamedTuple):
    """Shares of their objectives; 0 where nothing is known."""

    wait: float  # of the oldest without a first token
    ttft: float
    tpot: float


@dataclass(frozen=True, kw_only=True)  # no slots: `classes` is kept
class Goals:
    """The objectives to plan for, margin already taken off, and the bounds of mean k'."""

    ttft_s: float  # of requests that name no class
    tpot_s: float
    floor: float
    ceiling: float
    prefill_ceiling: float | None = None  # of prompts; None: they run at the k' of their answers
    least_raise: float = 0.0  # smaller raises of mean k' would not be made
    miss_weight: float = 1.0  # of a request that misses, beside the quality of one at full k'
    others: Mapping[str, SloClass] = field(default_factory=dict)  # classes with a name

    @classmethod
    def of(cls, slo_policy: SloPolicy) -> "Goals":
        slo, experts = slo_policy.slo, slo_policy.experts
        return cls(
            ttft_s=slo.margin * slo.ttft_s,
            tpot_s=slo.margin * slo.tpot_s,
            floor=experts.floor,
            ceiling=experts.ceiling,
            prefill_ceiling=experts.prefill_ceiling,
            least_raise=slo_policy.guard.tolerance,
            miss_weight=slo.miss_weight,
            others={
                name: each.model_copy(
                    update={"ttft_s": slo.margin * each.ttft_s, "tpot_s": slo.margin * each.tpot_s}
                )
                for name, each in slo_policy.classes.items()
            },
        )

    @cached_property
    def classes(self) -> Mapping[str, SloClass]:
        """All of them, that of requests that name none included."""
        return {DEFAULT_CLASS: SloClass(ttft_s=self.ttft_s, tpot_s=self.tpot_s), **self.others}

    def parts(self, load: Load) -> list[Part]:
        """One for every class with requests of late; a load that tells no classes is one's."""
        classes, shares = self.classes, load.shares
        loads = {name: each for name, each in load.classes.items() if name in classes}
        if not loads:
            return [self._whole(load)]
        parts, priorities = [], sorted({classes[name].priority for name in loads})
        for name, each in loads.items():
            mine = classes[name]
            before = [other for other in loads if classes[other].priority >= mine.priority]
            parts.append(
                Part(
                    name,
                    priorities.index(mine.priority),
                    mine.ttft_s,
                    mine.tpot_s,
                    sum(shares.get(other, 0.0) for other in before),
                    sum(loads[other].worst_waiting_tokens for other in before),
                    sum(loads[other].running_requests for other in before),
                    each.prompt_quantiles,
                    each.oldest_wait_s,
                    each.ttft_p95_s,
                    each.tpot_p95_s,
                )
            )
        return parts

    def _whole(self, load: Load) -> Part:
        return Part(
            DEFAULT_CLASS,
            0,
            self.ttft_s,
            self.tpot_s,
            1.0,
            load.worst_waiting_tokens or 0,
            load.running_requests or 0,
            (),
            load.oldest_wait_s or 0.0,
            load.ttft_p95_s,
            load.tpot_p95_s,
        )

    def strains(self, load: Load) -> Strains:
        """Each of the class that is worst off."""
        parts = self.parts(load)
        return Strains(
            max(part.wait_share for part in parts),
            max(part.ttft_share for part in parts),
            max(part.tpot_share for part in parts),
        )

    def beside(self, load: Load) -> str:
        """The latencies of late beside their objectives, of the classes worst off, for a reason."""
        parts = self.parts(load)
        slow = max(parts, key=lambda part: part.ttft_share)
        halting = max(parts, key=lambda part: part.tpot_share)
        ttft = "none" if slow.ttft_p95_s is None else f"{slow.ttft_p95_s:.3f}"
        tpot = "none" if halting.tpot_p95_s is None else f"{halting.tpot_p95_s:.3f}"
        return f"TTFT p95 {ttft}/{slow.ttft_s:.3f} s, TPOT p95 {tpot}/{halting.tpot_s:.3f} s"
