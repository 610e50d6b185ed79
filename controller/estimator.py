"""Samples of single replicas in, one Load of them all out: aggregate, smooth, mark the stale."""

from collections.abc import Sequence

from controller.averages import DecayingMean, DecayingRatio, RecentQuantiles, RecentRatio
from controller.correction import RecursiveCorrection
from controller.profiles import Profile
from controller.signals import Device, Load, Sample, Step

ARRIVALS_FAST_S = 1.0
ARRIVALS_SUSTAINED_S = 4.0
LATENCY_WINDOW_S = 10.0
ERROR_WINDOW_S = 60.0
ERROR_NEEDS_S = 1.0  # of engine time


class Estimator:
    """Keeps the last sample of every replica and what it adds up to.

    A sample older than `stale_s` is not believed: its replica counts as stale. A replica silent
    for `forget_s` is gone. All clocks are the governor's: samples are dated on receipt.
    """

    def __init__(self, profile: Profile, *, stale_s: float, forget_s: float) -> None:
        self._profile = profile
        self.stale_s = stale_s
        self.forget_s = forget_s
        self._last: dict[str, tuple[float, Sample]] = {}
        self._estimated_at_s: float | None = None
        self._new_requests = 0
        self._rate_fast = DecayingMean(ARRIVALS_FAST_S)
        self._rate_sustained = DecayingMean(ARRIVALS_SUSTAINED_S)
        self._prompt_tokens = DecayingRatio(memory=20.0)  # requests
        self._output_tokens = DecayingRatio(memory=20.0)
        self._correction = RecursiveCorrection()
        self._step_time_error = RecentRatio(ERROR_WINDOW_S)
        self._ttfts_s = RecentQuantiles(LATENCY_WINDOW_S)
        self._tpots_s = RecentQuantiles(LATENCY_WINDOW_S)

    def record(self, sample: Sample, now_s: float) -> None:
        """Take one replica's heartbeat."""
        self._last[sample.replica] = (now_s, sample)
        self._new_requests += sample.arrived_requests
        if sample.arrived_requests:
            self._prompt_tokens.add(sample.arrived_tokens, sample.arrived_requests)
            self._output_tokens.add(sample.arrived_output_tokens, sample.arrived_requests)
        self._compare(sample.steps, now_s)
        for ttft_s in sample.ttfts_s:
            self._ttfts_s.add(ttft_s, now_s)
        for tpot_s in sample.tpots_s:
            self._tpots_s.add(tpot_s, now_s)

    def fresh(self, now_s: float) -> list[Sample]:
        """The last samples that are still believed."""
        return [s for at_s, s in self._last.values() if now_s - at_s <= self.stale_s]

    def estimate(self, now_s: float, mean_k: float) -> Load:
        """What is believed now, `mean_k` being what runs. Arrival rates advance with each call."""
        self._last = {
            name: (at_s, sample)
            for name, (at_s, sample) in self._last.items()
            if now_s - at_s <= self.forget_s
        }
        fresh = self.fresh(now_s)
        stale = len(self._last) - len(fresh)
        self._advance_rates(now_s, heard=bool(fresh))
        if not fresh:
            return Load(at_s=now_s, mean_k=mean_k, replicas=0, stale_replicas=stale)
        devices = [sample.device for sample in fresh]
        return Load(
            at_s=now_s,
            mean_k=mean_k,
            replicas=len(fresh),
            stale_replicas=stale,
            waiting_requests=sum(sample.waiting_requests for sample in fresh),
            waiting_tokens=sum(sample.waiting_tokens for sample in fresh),
            worst_waiting_tokens=max(sample.waiting_tokens for sample in fresh),
            running_requests=sum(sample.running_requests for sample in fresh),
            oldest_wait_s=max(sample.oldest_wait_s for sample in fresh),
            arrival_rps=self._rate_fast.value,
            arrival_rps_sustained=self._rate_sustained.value,
            prompt_tokens=self._prompt_tokens.value,
            output_tokens=self._output_tokens.value,
            correction=self._correction.value,
            step_time_error=self._step_time_error.value(now_s, at_least=ERROR_NEEDS_S),
            ttft_p95_s=self._ttfts_s.quantile(0.95, now_s),
            tpot_p95_s=self._tpots_s.quantile(0.95, now_s),
            gpu_busy=_highest([device.gpu_busy for device in devices]),
            gpu_throttled=_any_throttled(devices),
            host_cpu_busy=_highest([device.host_cpu_busy for device in devices]),
        )

    def _compare(self, steps: Sequence[Step], now_s: float) -> None:
        """Steps of one heartbeat with what the corrected profile expected of them; then correct it.

        Their time together, since decisions are made of sums: how steps scatter around the model
        says how busy the host is, and would hide whether the model is right.
        """
        # Without counts nobody knows what a step ran.
        counted = [
            (self._profile.step_time.ran_parts(step), step.duration_s)
            for step in steps
            if step.expert_slots
        ]
        expected_s = sum(self._correction.expected_s(parts) for parts, _ in counted)
        took_s = sum(duration_s for _, duration_s in counted)
        self._step_time_error.add(abs(expected_s - took_s), took_s, now_s)
        self._correction.learn(counted)

    def _advance_rates(self, now_s: float, heard: bool) -> None:
        """Silence is not a rate of zero: without a fresh replica the rates stay as they were."""
        dt_s = 0.0 if self._estimated_at_s is None else now_s - self._estimated_at_s
        if dt_s > 0 and heard:
            self._rate_fast.add(self._new_requests / dt_s, dt_s)
            self._rate_sustained.add(self._new_requests / dt_s, dt_s)
        if dt_s > 0 or self._estimated_at_s is None:
            self._new_requests = 0
            self._estimated_at_s = now_s


def _highest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _any_throttled(devices: list[Device]) -> bool | None:
    known = [device.gpu_throttled for device in devices if device.gpu_throttled is not None]
    return any(known) if known else None
