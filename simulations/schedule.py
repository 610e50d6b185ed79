"""Turns a trace into what is replayed: cuts it, scales its rate, fits its lengths to a model.

Takes and gives requests in order of arrival. Random only by the seed it is given. Knows nothing of
servers; a request that is impossible to schedule is a ValueError.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import floor, inf, isfinite

import numpy as np

from simulations.traces import Request, Trace

BISECTIONS = 20
SHIFT_S = 10.0  # at most, of a copy
SHIFT_STREAM = 5  # draws of their own, as in `simulations.machine`

Requests = tuple[Request, ...]


def cut(trace: Trace, start_s: float = 0.0, duration_s: float | None = None) -> Requests:
    """The requests of [start, start + duration), their arrivals counted from the start."""
    end_s = inf if duration_s is None else duration_s
    kept = tuple(
        replace(request, arrival_s=request.arrival_s - start_s)
        for request in trace.requests
        if 0 <= request.arrival_s - start_s < end_s
    )
    if not kept:
        span_s = trace.requests[-1].arrival_s
        raise ValueError(
            f"no request of {trace.name} in the {end_s:g} s after {start_s:g} s; "
            f"it spans 0 to {span_s:g} s"
        )
    return kept


def scale_rate(requests: Sequence[Request], factor: float, seed: int) -> Requests:
    """Keeps each request `factor` times on average: slow bursts stay where they are and as long.

    What is above 1 is copies of the whole, each shifted by up to ten seconds. Copies of one request
    that came within a second would make every second a burst: the variance of counts over their
    mean, which is 1 of users who know nothing of each other, would grow with the factor
    (docs/log.md). With one seed, a higher factor keeps every request that a lower one keeps.
    """
    if not (isfinite(factor) and factor > 0):
        raise ValueError(f"rate factor {factor:g}: expected a number above 0")
    if factor == 1:
        return tuple(requests)
    whole = floor(factor)
    part = np.random.default_rng(seed).random(len(requests)) < factor - whole
    thinned = [request for request, is_kept in zip(requests, part, strict=True) if is_kept]
    scaled = [
        request
        for copy in range(whole + 1)
        for request in _shifted(requests if copy < whole else thinned, copy, seed)
    ]
    if not scaled:
        raise ValueError(f"rate factor {factor:g}: none of {len(requests)} requests is left")
    return tuple(sorted(scaled, key=lambda request: request.arrival_s))


def _shifted(requests: Sequence[Request], copy: int, seed: int) -> Iterator[Request]:
    """The first copy stays. What would leave the span is mirrored at its end: no load is lost, and
    none is heaped up.
    """
    if copy == 0:
        yield from requests
        return
    shift_s = float(np.random.default_rng([seed, SHIFT_STREAM, copy]).uniform(-SHIFT_S, SHIFT_S))
    last_s = requests[-1].arrival_s if requests else 0.0
    for request in requests:
        there_and_back_s = abs(request.arrival_s + shift_s) % (2 * last_s) if last_s else 0.0
        arrival_s = min(there_and_back_s, 2 * last_s - there_and_back_s)
        yield replace(request, arrival_s=arrival_s)


def scale_to_peak(
    requests: Sequence[Request], peak: float, window_s: float, seed: int
) -> tuple[Requests, float]:
    """Scales the rate until the peak over `window_s` is as high as `peak` (requests/s) allows.

    Gives the factor too. Found by bisection: with one seed, more is kept at every higher factor.
    """
    low, high = 0.0, 2 * peak / peak_rps(requests, window_s)
    for _ in range(BISECTIONS):
        factor = (low + high) / 2
        try:
            too_high = peak_rps(scale_rate(requests, factor, seed), window_s) > peak
        except ValueError:  # no request is left: too low
            too_high = False
        low, high = (low, factor) if too_high else (factor, high)
    return scale_rate(requests, low, seed), low


def fit_lengths(requests: Sequence[Request], context_tokens: int) -> tuple[Requests, float]:
    """Shrinks prompts and outputs by one factor until the longest request fits the context.

    One factor keeps the trace's balance of prefill and decode, which two would distort.
    """
    if context_tokens < 2:
        raise ValueError(f"context of {context_tokens} tokens: expected 2 or more")
    longest = max(request.input_tokens + request.output_tokens for request in requests)
    factor = min(1.0, context_tokens / longest)
    return tuple(_fitted(request, factor, context_tokens) for request in requests), factor


def _fitted(request: Request, factor: float, context_tokens: int) -> Request:
    # Rounding both up could pass the context by one token: the prompt gives way.
    output_tokens = min(max(1, round(request.output_tokens * factor)), context_tokens - 1)
    input_tokens = min(max(1, round(request.input_tokens * factor)), context_tokens - output_tokens)
    return replace(request, input_tokens=input_tokens, output_tokens=output_tokens)


def mean_lengths(requests: Sequence[Request]) -> tuple[float, float]:
    """Of prompts and of outputs, in tokens."""
    prompts = sum(request.input_tokens for request in requests)
    outputs = sum(request.output_tokens for request in requests)
    return prompts / len(requests), outputs / len(requests)


def peak_rps(requests: Sequence[Request], window_s: float) -> float:
    """The highest arrival rate over any trailing window."""
    return max(_trailing_counts(requests, window_s), default=0) / window_s


def burst_end_s(
    requests: Sequence[Request], capacity_rps: float, window_s: float = 5.0
) -> float | None:
    """The last arrival with more in its trailing window than capacity allows; None: never."""
    ends_s = [
        request.arrival_s
        for request, count in zip(requests, _trailing_counts(requests, window_s), strict=True)
        if count > capacity_rps * window_s
    ]
    return ends_s[-1] if ends_s else None


def _trailing_counts(requests: Sequence[Request], window_s: float) -> Iterator[int]:
    """At each arrival, itself included: how many arrived in (now - window, now]."""
    oldest = 0
    for last, request in enumerate(requests):
        while requests[oldest].arrival_s <= request.arrival_s - window_s:
            oldest += 1
        yield last - oldest + 1
