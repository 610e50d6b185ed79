"""Which SLO class each request of a schedule has.

Takes shares by class, as an operator writes them; gives the same schedule with classes. Random only
by the seed it is given. Knows no objectives, and not which classes a server has.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isclose

import numpy as np

from simulations.schedule import Requests
from simulations.traces import Request

# Draws of their own: the seed's plain stream thins the schedule and cuts the prompts.
STREAM = 1

Mix = Mapping[str, float]  # share of the requests by class, 1 together


def parse_mix(text: str) -> Mix:
    """`premium` for all requests, or `premium=0.3,batch=0.7`; a ValueError for anything else."""
    if "=" not in text and "," not in text and text.strip():
        return {text.strip(): 1.0}
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        if not name or name in mix:
            raise _refusal(text, f"{name!r} is given twice" if name else "a name is missing")
        mix[name] = _share(share, text)
    total = sum(mix.values())
    if not isclose(total, 1.0, abs_tol=1e-6):
        raise _refusal(text, f"the shares sum to {total:g}")
    return mix


def require_known(mix: Mix, known: Iterable[str]) -> None:
    """A ValueError for the first class that is none."""
    classes = list(known)
    for name in mix:
        if name not in classes:
            raise ValueError(f"{name!r} is not a class of the policy, use: {', '.join(classes)}")


def with_classes(requests: Sequence[Request], mix: Mix, seed: int) -> Requests:
    """Gives every request a class by the shares; its arrival and lengths stay as they are."""
    draws = np.random.default_rng([seed, STREAM]).random(len(requests))
    names, ends = list(mix), np.cumsum(list(mix.values()))
    # The last class takes what rounding of the sum leaves.
    chosen = np.searchsorted(ends[:-1], draws, side="right")
    return tuple(
        replace(request, slo_class=names[number])
        for request, number in zip(requests, chosen, strict=True)
    )


def _share(text: str, whole: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise _refusal(whole, f"{text!r} is not a share") from None
    if not 0 < share <= 1:
        raise _refusal(whole, f"{text!r} is not above 0 and at most 1")
    return share


def _refusal(text: str, why: str) -> ValueError:
    forms = "NAME, or NAME=SHARE,NAME=SHARE with shares above 0 that sum to 1"
    return ValueError(f"{text!r}: {why}; expected {forms}")
