"""Averages over time and windows of values: the arithmetic, nothing else. Time is an argument."""

import math
from collections import deque
from collections.abc import Iterable

from ddsketch import DDSketch

RELATIVE_ERROR = 0.01  # of a quantile


class DecayingMean:
    """Exponentially weighted mean of values that stand for stretches of time.

    A stretch of dt seconds moves the mean by 1 - exp(-dt / tau) of the way to its value. During
    warm-up it is the true mean of what was seen, so that the first values are neither over- nor
    under-weighted.
    """

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self._weighted = 0.0
        self._weight = 0.0

    def add(self, value: float, dt_s: float) -> None:
        keep = math.exp(-dt_s / self._tau_s)
        self._weighted = keep * self._weighted + (1 - keep) * value
        self._weight = keep * self._weight + (1 - keep)

    @property
    def value(self) -> float | None:
        return self._weighted / self._weight if self._weight > 0 else None


class DecayingRatio:
    """Sum of numerators over sum of denominators; each denominator unit fades with its successors.

    The memory is counted in denominator units, so idleness neither adds nor forgets anything.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._numerator = 0.0
        self._denominator = 0.0

    def add(self, numerator: float, denominator: float) -> None:
        keep = math.exp(-denominator / self._memory)
        self._numerator = keep * self._numerator + numerator
        self._denominator = keep * self._denominator + denominator

    @property
    def value(self) -> float | None:
        return self._numerator / self._denominator if self._denominator > 0 else None


class RecentRatio:
    """Sum of numerators over sum of denominators of the last `span_s` seconds, to the second."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._seconds: deque[tuple[float, float, float]] = deque()  # when, and both sums

    def add(self, numerator: float, denominator: float, now_s: float) -> None:
        second = math.floor(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            _, before, beneath = self._seconds.pop()
            numerator, denominator = before + numerator, beneath + denominator
        self._seconds.append((second, numerator, denominator))

    def value(self, now_s: float, at_least: float) -> float | None:
        """None while the denominators do not add up to `at_least`."""
        while self._seconds and self._seconds[0][0] < now_s - self._span_s:
            self._seconds.popleft()
        denominator = sum(beneath for _, _, beneath in self._seconds)
        if denominator < at_least:
            return None
        return sum(above for _, above, _ in self._seconds) / denominator


class RecentMinimum:
    """The least of the values of late, in constant time a value.

    Of a queue's waits it tells a standing queue from a burst that drains (CoDel, RFC 8289).
    """

    def __init__(self) -> None:
        self._rising: deque[tuple[float, float]] = deque()  # what can still become the least

    def add(self, value: float, now_s: float) -> None:
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((now_s, value))

    def value(self, now_s: float, span_s: float) -> float | None:
        """Of the last `span_s` seconds; what is older is forgotten. None where there was none."""
        while self._rising and self._rising[0][0] < now_s - span_s:
            self._rising.popleft()
        return self._rising[0][1] if self._rising else None


class RecentQuantiles:
    """Quantiles of the values of the last `span_s` seconds, to the second, each within 1 %.

    A DDSketch a second (Masson et al., VLDB 2019) and one of them all: the cost of asking does not
    grow with the number of values. Values enter both; since no sketch gives values back, that of
    all is merged anew once a second has left.
    """

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._seconds: deque[tuple[float, DDSketch]] = deque()
        self._all: DDSketch | None = None  # None: to be merged
        self._found: dict[float, float | None] = {}  # quantiles, until what is seen changes

    def add(self, value: float, now_s: float) -> None:
        second = math.floor(now_s)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, DDSketch(RELATIVE_ERROR)))
        self._seconds[-1][1].add(value)
        if self._all is not None:
            self._all.add(value)
        self._found.clear()

    def quantile(self, share: float, now_s: float) -> float | None:
        """The value that `share` of them does not exceed; None when there is none."""
        sketch = self.sketch(now_s)
        if share not in self._found:
            self._found[share] = _quantile(sketch, share)
        return self._found[share]

    def sketch(self, now_s: float) -> DDSketch:
        """Of all of them, to be read only."""
        while self._seconds and self._seconds[0][0] < now_s - self._span_s:
            self._seconds.popleft()
            self._all = None
        if self._all is None:
            self._all = _merged(sketch for _, sketch in self._seconds)
            self._found.clear()
        return self._all


def quantile_of(several: Iterable[RecentQuantiles], share: float, now_s: float) -> float | None:
    """The value that `share` of the values of all does not exceed; None when there is none."""
    return _quantile(_merged(each.sketch(now_s) for each in several), share)


def _merged(sketches: Iterable[DDSketch]) -> DDSketch:
    merged = DDSketch(RELATIVE_ERROR)
    for sketch in sketches:
        merged.merge(sketch)
    return merged


def _quantile(sketch: DDSketch, share: float) -> float | None:
    found = sketch.get_quantile_value(share)
    return None if found is None else float(found)
