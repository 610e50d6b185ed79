"""How a rate changes over time: steady, step, ramp, spike, sine, and the shape of real days.

Takes rates in requests/s and times in seconds; gives phases, which every process of
`simulations.arrivals` can follow. Nothing here is random.
"""

from collections.abc import Callable
from math import ceil, cos, pi

import numpy as np

from simulations.arrivals import Phase
from simulations.rate_windows import RateWindows

SLICES = 100  # of a ramp or a period: a slice of it is all but constant
MOST_PERIODS = 10_000

Phases = tuple[Phase, ...]


def steady(rate_rps: float, duration_s: float) -> Phases:
    """One rate throughout."""
    return (Phase(duration_s, rate_rps),)


def step(
    base_rps: float, peak_rps: float, before_s: float, step_s: float, after_s: float
) -> Phases:
    """At once to the peak, and at once back."""
    return _lasting((before_s, base_rps), (step_s, peak_rps), (after_s, base_rps))


def ramp(
    base_rps: float, peak_rps: float, before_s: float, ramp_s: float, after_s: float
) -> Phases:
    """Linearly to the peak, where it stays."""
    return (
        *_lasting((before_s, base_rps)),
        *_line(base_rps, peak_rps, ramp_s),
        *_lasting((after_s, peak_rps)),
    )


def spike(
    base_rps: float, peak_rps: float, before_s: float, spike_s: float, after_s: float
) -> Phases:
    """Linearly to the peak in the first half of the spike, and as fast back."""
    return (
        *_lasting((before_s, base_rps)),
        *_line(base_rps, peak_rps, spike_s / 2),
        *_line(peak_rps, base_rps, spike_s / 2),
        *_lasting((after_s, base_rps)),
    )


def sine(base_rps: float, peak_rps: float, period_s: float, duration_s: float) -> Phases:
    """Between base and peak and back once a period, from the base."""
    if not (period_s > 0 and 0 < duration_s <= MOST_PERIODS * period_s):
        raise ValueError(
            f"{duration_s:g} s in periods of {period_s:g} s: expected both above 0 and at most "
            f"{MOST_PERIODS:,} periods"
        )
    periods = duration_s / period_s
    half_rps = (peak_rps - base_rps) / 2

    def rate_at(share: float) -> float:
        return base_rps + half_rps * (1 - cos(2 * pi * share * periods))

    return _sliced(rate_at, duration_s, ceil(SLICES * periods))


def day(
    windows: RateWindows, rate_rps: float, start_s: float, duration_s: float, speed: float
) -> Phases:
    """The windows from `start_s` on, played `speed` times as fast, for `duration_s` as played.

    Scaled to `rate_rps` in the mean over what is played.
    """
    if not (start_s >= 0 and duration_s > 0 and speed > 0):
        raise ValueError(
            f"start {start_s:g} s, duration {duration_s:g} s, speed {speed:g}: expected a start "
            "from 0, the others above 0"
        )
    edges_s = windows.window_s * np.arange(len(windows.rates_rps) + 1)
    end_s = start_s + duration_s * speed
    if end_s > windows.span_s * (1 + 1e-9):  # rounding of what was divided by the speed
        raise ValueError(
            f"{duration_s:g} s at speed {speed:g} from {start_s:g} s on end at {end_s:g} s; "
            f"the rates of {windows.model} end at {windows.span_s:g} s"
        )
    lasting_s = np.diff(np.clip(edges_s, start_s, end_s))
    mean_rps = float(lasting_s @ windows.rates_rps / lasting_s.sum())
    if not mean_rps:
        raise ValueError(f"{windows.model} has no requests from {start_s:g} s to {end_s:g} s")
    scaled_rps = windows.rates_rps * (rate_rps / mean_rps)
    return _lasting(*zip(lasting_s / speed, scaled_rps, strict=True))


def _lasting(*parts: tuple[float, float]) -> Phases:
    """Of durations and rates; a part that does not last is left out."""
    return tuple(Phase(float(last_s), float(rate)) for last_s, rate in parts if last_s != 0)


def _line(from_rps: float, to_rps: float, duration_s: float) -> Phases:
    return _sliced(lambda share: from_rps + (to_rps - from_rps) * share, duration_s, SLICES)


def _sliced(rate_at: Callable[[float], float], duration_s: float, slices: int) -> Phases:
    """Each slice at the rate of its middle, which of a line is the mean.

    `rate_at` takes the share of the duration that has passed.
    """
    return tuple(
        Phase(duration_s / slices, rate_at((number + 0.5) / slices)) for number in range(slices)
    )
