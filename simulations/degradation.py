"""Over-degradation: how much was served below full k' where full k' would have done.

Takes records and ticks of a run, and the records of another one of the same requests at full k'.
When a token was made is reckoned from TTFT and TPOT, and its k' is that decided by then: a plan
that is under way counts as served, for some hundredths of a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.config import SloClass
from simulations.results import Record
from simulations.timeline import Tick

WINDOW_S = 2.0
SAME_K = 1e-9

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Made:
    """The tokens of a run's completed requests."""

    total: int
    below_T: Counts  # those below full k', by window

    def over_degraded(self, met: "Met") -> float | None:
        """The share of all that are below full k' in windows where full k' would have done."""
        if not self.total:
            return None
        return float(self.below_T[met.judge(len(self.below_T))].sum()) / self.total


@dataclass(frozen=True, slots=True)
class Met:
    """Whether every request due in a window met its objectives; W windows with any due."""

    due_W: NDArray[np.int64]  # their numbers
    all_met_W: NDArray[np.bool_]

    @classmethod
    def of(cls, records: Sequence[Record], slo_classes: Mapping[str, SloClass]) -> "Met":
        due_N = np.array([record.scheduled_s // WINDOW_S for record in records], dtype=np.int64)
        met_N = np.array([record.met(slo_classes[record.judged_as]) for record in records])
        due_W, window_N = np.unique(due_N, return_inverse=True)
        return cls(due_W, np.bincount(window_N, ~met_N, len(due_W)) == 0)

    def judge(self, num_windows: int) -> NDArray[np.bool_]:
        """The first so many windows; one in which nothing is due as the last before it."""
        last_T = np.searchsorted(self.due_W, np.arange(num_windows), side="right") - 1
        return (last_T >= 0) & self.all_met_W[np.maximum(last_T, 0)]


def made_by(records: Sequence[Record], ticks: Sequence[Tick], full_k: float) -> Made:
    completed = [record for record in records if record.completed]
    total = sum(record.output_tokens for record in completed)
    lower = [each for each in completed if each.mean_k is None or each.mean_k < full_k - SAME_K]
    if not lower or not ticks:
        return Made(total, np.zeros(0, dtype=np.int64))
    tick_s = np.array([tick.at_s for tick in ticks])
    windows = []
    for name in {record.judged_as for record in lower}:
        own = [record for record in lower if record.judged_as == name]
        below = np.array([tick.of(name).mean_k < full_k - SAME_K for tick in ticks])
        made_s = _made_s(own)
        decided = np.maximum(np.searchsorted(tick_s, made_s, side="right") - 1, 0)
        windows.append(made_s[below[decided]] // WINDOW_S)
    return Made(total, np.bincount(np.concatenate(windows).astype(np.int64)))


def _made_s(records: Sequence[Record]) -> NDArray[np.float64]:
    """When each of their tokens was made, evenly from the first on."""
    tokens = np.array([record.output_tokens for record in records])
    first_s = np.array([record.scheduled_s + (record.ttft_s or 0.0) for record in records])
    gap_s = np.array([record.tpot_s or 0.0 for record in records])
    nth = np.arange(tokens.sum()) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    made_s: NDArray[np.float64] = np.repeat(first_s, tokens) + nth * np.repeat(gap_s, tokens)
    return made_s
