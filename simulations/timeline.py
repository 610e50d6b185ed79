"""What a controller's journal says about one run: k' and the queue over time, switches, recovery.

Takes journal lines (dated by the machine's monotonic clock) and the moment the run's schedule
counts from; knows no server.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.signals import Correction

SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class Tick:
    """One decision, dated from the start of the schedule."""

    at_s: float
    mean_k: float  # of SLO classes without a k' of their own
    epoch: int
    waiting_requests: int | None
    reason: str
    step_time_error: float | None = None  # of the last minute
    class_k: Mapping[str, float] = field(default_factory=dict)  # mean k' of those that have one
    class_waiting: Mapping[str, int] = field(default_factory=dict)
    correction: Correction | None = None  # of the profile's step times, as lately found

    def of(self, slo_class: str) -> "Tick":
        """As that class had it; its queue is unknown where no replica spoke of it."""
        return replace(
            self,
            mean_k=self.class_k.get(slo_class, self.mean_k),
            waiting_requests=self.class_waiting.get(slo_class),
        )


def read_ticks(lines: Iterable[str], start_s: float, end_s: float) -> list[Tick]:
    """The ticks decided between two monotonic times."""
    ticks = []
    for line in lines:
        row = json.loads(line)
        if "load" not in row:  # an adoption
            continue
        load, plan = row["load"], row["plan"]
        if start_s <= load["at_s"] < end_s:
            ticks.append(
                Tick(
                    at_s=load["at_s"] - start_s,
                    mean_k=_mean(plan["k"]),
                    epoch=plan["epoch"],
                    waiting_requests=load["waiting_requests"],
                    reason=row["budget"]["reason"],
                    step_time_error=load["step_time_error"],
                    class_k={name: _mean(k) for name, k in plan.get("class_k", {}).items()},
                    class_waiting={
                        name: each["waiting_requests"]
                        for name, each in load.get("classes", {}).items()
                    },
                    correction=_correction(load.get("correction")),
                )
            )
    return ticks


def _correction(factors: Mapping[str, float] | None) -> Correction | None:
    return None if factors is None else Correction(**factors)


def _mean(k: Sequence[int]) -> float:
    return sum(k) / len(k)


def switches_per_min(ticks: list[Tick]) -> float | None:
    """Plan changes a minute; None without two ticks."""
    if len(ticks) < 2:
        return None
    num_switches = ticks[-1].epoch - ticks[0].epoch
    return 60 * num_switches / (ticks[-1].at_s - ticks[0].at_s)


def step_time_error(ticks: list[Tick]) -> float | None:
    """How far the profile, as corrected online, was off; the mean of what each tick says."""
    known = [tick.step_time_error for tick in ticks if tick.step_time_error is not None]
    return sum(known) / len(known) if known else None


def recovery_s(ticks: list[Tick], burst_end_s: float, full_k: float) -> float | None:
    """From the burst's end until k' is at full and stays there for `SETTLED_S`; None if never."""
    since_s: float | None = None
    for tick in ticks:
        if tick.mean_k < full_k:
            since_s = None
            continue
        since_s = tick.at_s if since_s is None else since_s
        if tick.at_s - max(since_s, burst_end_s) >= SETTLED_S:
            return max(0.0, since_s - burst_end_s)
    return None
