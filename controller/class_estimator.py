"""What the samples of one SLO class add up to."""

import math
from collections import deque
from collections.abc import Collection, Sequence

from controller.averages import DecayingMean, RecentQuantiles
from controller.signals import PROMPT_SHARES, ClassLoad, ClassSample, Sample

LATENCY_WINDOW_S = 10.0
MIX_S = 10.0  # the mix of classes follows so many seconds
NUM_PROMPTS = 256  # whose lengths are remembered


class ClassEstimator:
    def __init__(self) -> None:
        self._new_tokens = 0
        self._new_shed = 0
        self._tokens = DecayingMean(MIX_S)  # a second
        self._shed = DecayingMean(MIX_S)  # requests a second
        self._prompts: deque[int] = deque(maxlen=NUM_PROMPTS)
        self._prompt_quantiles: tuple[int, ...] | None = ()  # None: to be found anew
        self.ttfts_s = RecentQuantiles(LATENCY_WINDOW_S)
        self.tpots_s = RecentQuantiles(LATENCY_WINDOW_S)

    def record(self, part: ClassSample, now_s: float) -> None:
        self._new_tokens += part.arrived_tokens + part.arrived_output_tokens
        self._new_shed += part.refused_requests + part.shed_requests
        if part.arrived_prompts:
            self._prompts.extend(part.arrived_prompts)
            self._prompt_quantiles = None
        for ttft_s in part.ttfts_s:
            self.ttfts_s.add(ttft_s, now_s)
        for tpot_s in part.tpots_s:
            self.tpots_s.add(tpot_s, now_s)

    def estimate(
        self, slo_class: str, fresh: Sequence[Sample], now_s: float, dt_s: float
    ) -> ClassLoad:
        """Over the last samples of the replicas; rates advance by `dt_s`."""
        if dt_s > 0:
            self._tokens.add(self._new_tokens / dt_s, dt_s)
            self._shed.add(self._new_shed / dt_s, dt_s)
            self._new_tokens = self._new_shed = 0
        if self._prompt_quantiles is None:  # once a tick, however many replicas told something
            self._prompt_quantiles = _quantiles(self._prompts)
        parts = [sample.classes[slo_class] for sample in fresh if slo_class in sample.classes]
        return ClassLoad(
            share=self._tokens.value or 0.0,
            waiting_requests=sum(part.waiting_requests for part in parts),
            waiting_tokens=sum(part.waiting_tokens for part in parts),
            worst_waiting_tokens=max((part.waiting_tokens for part in parts), default=0),
            running_requests=sum(part.running_requests for part in parts),
            oldest_wait_s=max((part.oldest_wait_s for part in parts), default=0.0),
            standing_wait_s=max((part.standing_wait_s for part in parts), default=0.0),
            shed_rps=self._shed.value,
            prompt_quantiles=self._prompt_quantiles,
            ttft_p95_s=self.ttfts_s.quantile(0.95, now_s),
            tpot_p95_s=self.tpots_s.quantile(0.95, now_s),
        )


def _quantiles(prompts: Collection[int]) -> tuple[int, ...]:
    """The least that so large a share of them does not exceed."""
    rising = sorted(prompts)
    last = [max(1, math.ceil(share * len(rising))) for share in PROMPT_SHARES]
    return tuple(rising[number - 1] for number in last)
