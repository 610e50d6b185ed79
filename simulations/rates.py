"""How many requests a second replicas complete at each rung, by a profile or as measured.

Takes a profile and mean lengths; gives rates in the profile's order of rungs, cheapest first.
Knows no schedule.
"""

import numpy as np
from numpy.typing import NDArray

from controller.profiles import Profile

FloatArray = NDArray[np.float64]


def rung_rates(
    profile: Profile,
    prompt_tokens: float,
    output_tokens: float,
    replicas: int,
    prefill_ceiling: float | None = None,
) -> FloatArray:
    """Requests/s of busy replicas, (C,): `replicas / StepTime.request_s` of every rung's plan."""
    request_s = [
        profile.step_time.request_s(
            profile.served(rung, prefill_ceiling).layers,
            prompt_tokens,
            output_tokens,
            profile.max_batch_tokens,
        )
        for rung in profile.rungs
    ]
    return replicas / np.array(request_s)


def full_rate(
    profile: Profile,
    prompt_tokens: float,
    output_tokens: float,
    replicas: int,
    prefill_ceiling: float | None = None,
) -> float:
    """The same at full k'."""
    rates_C = rung_rates(profile, prompt_tokens, output_tokens, replicas, prefill_ceiling)
    return float(rates_C[profile.rungs.index(profile.full)])


def anchored(rates_C: FloatArray, low: int, high: int, measured: tuple[float, float]) -> FloatArray:
    """The rates, moved so that rungs `low` and `high` have what was measured there.

    A request's time is stretched and shifted: 1 / rate = a + b / rate by the profile, for all
    rungs. Between the two the profile thus only says where a rung lies. A ValueError where what was
    measured and the profile disagree about which of the two is faster.
    """
    request_s_C = 1 / rates_C
    low_s, high_s = (1 / rate for rate in measured)
    span_s = request_s_C[high] - request_s_C[low]
    if span_s * (high_s - low_s) <= 0:
        raise ValueError(
            f"measured {measured[0]:g} and {measured[1]:g} requests/s where the profile has "
            f"{rates_C[low]:g} and {rates_C[high]:g}: not the same order"
        )
    anchored_s_C: FloatArray = low_s + (request_s_C - request_s_C[low]) * (high_s - low_s) / span_s
    return np.reciprocal(anchored_s_C)
