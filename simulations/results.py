"""What became of each offered request, and what that amounts to.

Takes records and latency objectives by SLO class, gives one arm of the comparison. Knows nothing of
how the requests were sent; what the records cannot tell is None, never 0.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from controller.config import DEFAULT_CLASS, SloClass

Status = Literal["completed", "shed", "failed"]


@dataclass(frozen=True, slots=True)
class Record:
    """One offered request. Latencies count from the scheduled arrival, so a late send shows."""

    index: int
    scheduled_s: float  # from the start of the replay
    lateness_s: float  # of the send
    input_tokens: int
    output_tokens: int  # generated
    ttft_s: float | None
    tpot_s: float | None  # None too where one token leaves nothing to average
    e2e_s: float | None
    status: Status
    error: str | None
    quality: float | None  # token mean of the retention served, full k' = 1.0
    mean_k: float | None  # token mean
    epoch: int | None  # of the plan of the last token
    # Not in files of before there were classes, which can be read all the same.
    slo_class: str | None = None  # None where the request named none
    retry_after_s: float | None = None  # of a refusal, where it said
    took_s: float | None = None  # until the answer ended, whatever it was

    @property
    def completed(self) -> bool:
        return self.status == "completed"

    @property
    def judged_as(self) -> str:
        """The class whose objectives count."""
        return self.slo_class or DEFAULT_CLASS

    def met(self, slo: SloClass) -> bool:
        if not self.completed or self.ttft_s is None:
            return False
        return self.ttft_s <= slo.ttft_s and (self.tpot_s is None or self.tpot_s <= slo.tpot_s)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in records)


def read_records(path: Path) -> list[Record]:
    with path.open(encoding="utf-8") as file:
        return [Record(**json.loads(line)) for line in file]


def summarise(
    records: Sequence[Record], slo_classes: Mapping[str, SloClass], full_k: float | None = None
) -> dict[str, Any]:
    """The fields of an arm, and under `classes` the same ones of every class that has requests.

    Each request is held to the objectives of its own class, in the total as well; a KeyError where
    `slo_classes` lacks that class. `full_k` is what a server that never speaks of k' runs at, None
    where the caller does not know.
    """
    by_class = {
        name: [record for record in records if record.judged_as == name] for name in slo_classes
    }
    return {
        **_fields(records, slo_classes, full_k),
        "classes": {
            name: _fields(own, slo_classes, full_k) for name, own in by_class.items() if own
        },
    }


def _fields(
    records: Sequence[Record], slo_classes: Mapping[str, SloClass], full_k: float | None
) -> dict[str, Any]:
    completed = [record for record in records if record.completed]
    met = [record for record in records if record.met(slo_classes[record.judged_as])]
    violating, windows = _windows(records, met, window_s=2.0)
    return {
        "offered": len(records),
        "completed": len(completed),
        "shed": sum(record.status == "shed" for record in records),
        "failed": sum(record.status == "failed" for record in records),
        **_retry_after([record for record in records if record.status == "shed"]),
        "attainment": len(met) / len(records) if records else None,
        **_quality(records, completed, met),
        **_percentiles("ttft", [record.ttft_s for record in completed]),
        **_percentiles("tpot", [record.tpot_s for record in completed]),
        "violating_windows_2s": violating,
        "windows_2s": windows,
        "mean_k": _mean_k(completed, full_k),
        "lateness_p99_s": _percentile([record.lateness_s for record in records], 99),
        "longest_s": max((r.took_s for r in records if r.took_s is not None), default=None),
    }


def _retry_after(shed: Sequence[Record]) -> dict[str, float | None]:
    waits_s = [record.retry_after_s for record in shed if record.retry_after_s is not None]
    return {
        "shed_with_retry_after": len(waits_s),
        "retry_after_p50_s": _percentile(waits_s, 50),
        "retry_after_max_s": max(waits_s, default=None),
    }


def _quality(
    records: Sequence[Record], completed: Sequence[Record], met: Sequence[Record]
) -> dict[str, float | None]:
    return {
        "served_quality": _served_quality(completed),
        "effective_quality": _effective_quality(met, len(records)),
        "served_quality_p5": _percentile(_known([record.quality for record in completed]), 5),
        "worst_minute_quality": _worst_quality(completed, window_s=60.0),
    }


def _known(values: Sequence[float | None]) -> list[float]:
    """The values when every one is known, else none: a mean over some would pass for all."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _served_quality(completed: Sequence[Record]) -> float | None:
    return _token_mean(completed, _known([record.quality for record in completed]))


def _effective_quality(met: Sequence[Record], num_offered: int) -> float | None:
    qualities = _known([record.quality for record in met])
    if not num_offered or len(qualities) < len(met):
        return None
    return sum(qualities) / num_offered


def _worst_quality(completed: Sequence[Record], window_s: float) -> float | None:
    by_window: dict[int, list[Record]] = defaultdict(list)
    for record in completed:
        by_window[int(record.scheduled_s // window_s)].append(record)
    means = _known([_served_quality(window) for window in by_window.values()])
    return min(means, default=None)


def _mean_k(completed: Sequence[Record], full_k: float | None) -> float | None:
    if completed and all(record.mean_k is None for record in completed):
        return full_k
    return _token_mean(completed, _known([record.mean_k for record in completed]))


def _token_mean(records: Sequence[Record], values: Sequence[float]) -> float | None:
    weights = [record.output_tokens for record in records]
    if not values or not sum(weights):
        return None
    return float(np.average(values, weights=weights))


def _windows(records: Sequence[Record], met: Sequence[Record], window_s: float) -> tuple[int, int]:
    """How many windows had a miss, of those in which a request was due."""
    due, kept = (
        Counter(int(record.scheduled_s // window_s) for record in some) for some in (records, met)
    )
    return sum(due[window] > kept[window] for window in due), len(due)


def _percentiles(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"{name}_p{rank}_s": _percentile(known, rank) for rank in (50, 95, 99)}


def _percentile(values: Sequence[float], rank: float) -> float | None:
    return float(np.percentile(values, rank)) if values else None
