"""Samples of single replicas in, one Load of them all out: aggregate, smooth, mark the stale."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from controller.averages import DecayingRatio, RecentQuantiles, RecentRatio, quantile_of
from controller.class_estimator import ClassEstimator
from controller.correction import RecursiveCorrection
from controller.forecast import ArrivalForecast
from controller.profiles import Profile
from controller.signals import Device, Load, Plan, Sample, Step
from controller.step_time import Parts, StepTime

SOON_S, SUSTAINED_S = 1.0, 4.0  # what arrivals are foretold of
ERROR_WINDOW_S = 60.0
ERROR_NEEDS_S = 1.0  # of engine time

_experts_of = attrgetter("expert_slots", "distinct_experts")


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
        self._arrivals = ArrivalForecast()
        self._prompt_tokens = DecayingRatio(memory=20.0)  # requests
        self._output_tokens = DecayingRatio(memory=20.0)
        self._correction = RecursiveCorrection()
        self._step_time_error = RecentRatio(ERROR_WINDOW_S)
        self._classes: dict[str, ClassEstimator] = {}
        self._seen_at_s: dict[str, float] = {}  # the newest of what a field rests on

    def record(self, sample: Sample, now_s: float) -> None:
        """Take one replica's heartbeat."""
        self._last[sample.replica] = (now_s, sample)
        for name, part in sample.classes.items():
            self._classes.setdefault(name, ClassEstimator()).record(part, now_s)
            self._new_requests += part.arrived_requests + part.refused_requests
            if part.arrived_requests:
                self._prompt_tokens.add(part.arrived_tokens, part.arrived_requests)
                self._output_tokens.add(part.arrived_output_tokens, part.arrived_requests)
                self._seen_at_s["arrivals"] = now_s
            if part.ttfts_s:
                self._seen_at_s["ttft"] = now_s
            if part.tpots_s:
                self._seen_at_s["tpot"] = now_s
        if sample.steps:
            self._compare(sample.steps, now_s)
            self._seen_at_s["steps"] = now_s

    def fresh(self, now_s: float) -> list[Sample]:
        """The last samples that are still believed."""
        return [s for at_s, s in self._last.values() if now_s - at_s <= self.stale_s]

    def estimate(self, now_s: float, plan: Plan) -> Load:
        """What is believed now, `plan` being what runs. Arrival rates advance with each call."""
        self._last = {
            name: (at_s, sample)
            for name, (at_s, sample) in self._last.items()
            if now_s - at_s <= self.forget_s
        }
        fresh = self.fresh(now_s)
        stale = len(self._last) - len(fresh)
        dt_s = self._advance_rates(now_s, heard=bool(fresh))
        if not fresh:
            return Load(now_s, plan.mean_k, replicas=0, stale_replicas=stale, epoch=plan.epoch)
        soon, later = self._arrivals.ahead(SOON_S), self._arrivals.ahead(SUSTAINED_S)
        devices = [sample.device for sample in fresh]
        parts = [part for sample in fresh for part in sample.classes.values()]
        classes = {
            name: each.estimate(name, fresh, now_s, dt_s) for name, each in self._classes.items()
        }
        ttfts_s = [each.ttfts_s for each in self._classes.values()]
        tpots_s = [each.tpots_s for each in self._classes.values()]
        load = Load(
            at_s=now_s,
            mean_k=plan.mean_k,
            replicas=len(fresh),
            stale_replicas=stale,
            waiting_requests=sum(part.waiting_requests for part in parts),
            waiting_tokens=sum(part.waiting_tokens for part in parts),
            worst_waiting_tokens=max(
                sum(part.waiting_tokens for part in sample.classes.values()) for sample in fresh
            ),
            running_requests=sum(part.running_requests for part in parts),
            oldest_wait_s=max((part.oldest_wait_s for part in parts), default=0.0),
            arrival_rps=soon.mean_per_s if soon else None,
            arrival_rps_sustained=later.mean_per_s if later else None,
            arrival_rps_upper=later.upper_per_s if later else None,
            prompt_tokens=self._prompt_tokens.value,
            output_tokens=self._output_tokens.value,
            correction=self._correction.value,
            step_time_error=self._step_time_error.value(now_s, at_least=ERROR_NEEDS_S),
            ttft_p95_s=_p95_s([c.ttft_p95_s for c in classes.values()], ttfts_s, now_s),
            tpot_p95_s=_p95_s([c.tpot_p95_s for c in classes.values()], tpots_s, now_s),
            gpu_busy=_highest([device.gpu_busy for device in devices]),
            gpu_throttled=_any_throttled(devices),
            host_cpu_busy=_highest([device.host_cpu_busy for device in devices]),
            epoch=plan.epoch,
            classes=classes,
            ages_s=self._ages_s(now_s, fresh),
        )
        return replace(load, mean_k=plan.mean_k_over(load.shares)) if plan.class_k else load

    def _ages_s(self, now_s: float, fresh: Sequence[Sample]) -> dict[str, float]:
        """Of the evidence: the oldest sample that counts, and the newest of each kind within it."""
        oldest_s = max(now_s - self._last[sample.replica][0] for sample in fresh)
        newest = {name: now_s - at_s for name, at_s in self._seen_at_s.items()}
        return {"queue": oldest_s, **newest}

    def _compare(self, steps: Sequence[Step], now_s: float) -> None:
        """Steps of one heartbeat with what the corrected profile expected of them; then correct it.

        Their time together, since decisions are made of sums: how steps scatter around the model
        says how busy the host is, and would hide whether the model is right.
        """
        # Without counts nobody knows what a step ran.
        counted = _ran(self._profile.step_time, [step for step in steps if step.expert_slots])
        took_s = sum(duration_s for _, duration_s in counted)
        expected_s = self._correction.learn(counted)
        self._step_time_error.add(abs(expected_s - took_s), took_s, now_s)

    def _advance_rates(self, now_s: float, heard: bool) -> float:
        """Silence is not a rate of zero: without a fresh replica the rates stay as they were.

        Gives the seconds by which they advanced.
        """
        dt_s = 0.0 if self._estimated_at_s is None else now_s - self._estimated_at_s
        if dt_s > 0 and heard:
            self._arrivals.add(self._new_requests, dt_s)
        if dt_s > 0 or self._estimated_at_s is None:
            self._new_requests = 0
            self._estimated_at_s = now_s
        return dt_s if heard else 0.0


def _ran(model: StepTime, steps: Sequence[Step]) -> list[tuple[Parts, float]]:
    """What each step should have taken, as `model.ran_parts` has it, and what it took."""
    ran: list[tuple[Parts, float]] = []
    # Experts are most of the reckoning. While the same requests decode, steps in a row often have
    # the same ones, and differ by the keys that they read.
    for _, group in groupby(steps, _experts_of):
        alike = list(group)
        base_s, experts_s, *_ = model.ran_parts(alike[0])
        for step in alike:
            work = step.work
            parts = Parts(base_s, experts_s, model.rest_s(work), work.decode_tokens)
            ran.append((parts, step.duration_s))
    return ran


def _p95_s(
    of_classes: Sequence[float | None], windows: Sequence[RecentQuantiles], now_s: float
) -> float | None:
    """Of all classes together: what each of them has seen has to be merged, unless there is one."""
    return of_classes[0] if len(of_classes) == 1 else quantile_of(windows, 0.95, now_s)


def _highest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _any_throttled(devices: list[Device]) -> bool | None:
    known = [device.gpu_throttled for device in devices if device.gpu_throttled is not None]
    return any(known) if known else None
