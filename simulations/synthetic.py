"""Reads the load that a command names: a trace file, or a rate shape and an arrival process.

`NAME:KEY=VALUE,KEY=VALUE` stands where a file may. Rates are in requests/s, times in seconds.

- `constant`, `poisson`, `gamma` (with `cv`) and `negbin` (with `dispersion`) have one `rate` for a
  `duration`: the processes of `simulations.arrivals`.
- `step`, `ramp`, `spike`, `sine` and `day` are the shapes of `simulations.shapes`, Poisson unless
  `arrivals=` names another process. `day` takes its shape from the rates of `model` in the file
  `rates`, from `start` (seconds in that file) on and `speed` times as fast.
- Every prompt has `prompt` tokens and every output `output`, or both come from the trace `lengths`
  in its order. `seed` draws the arrivals.

Gives the same Trace that a file gives, its arrivals counted from the start of the load. Anything
wrong is a TraceError that says what is accepted.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from simulations import shapes
from simulations.arrivals import constant, gamma, negative_binomial, poisson, sent_at
from simulations.rate_windows import SHIPPED, read_rate_windows
from simulations.rates import FloatArray
from simulations.schedule import Requests
from simulations.shapes import Phases
from simulations.traces import Request, Trace, TraceError, read_trace

PROMPT_TOKENS, OUTPUT_TOKENS = 512.0, 64.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Values:
    """What follows the name, by key."""

    texts: Mapping[str, str]

    def number(self, key: str, default: float | None = None) -> float:
        if key not in self.texts and default is not None:
            return float(default)
        try:
            number = float(self.texts[key])
        except ValueError:
            number = np.nan
        if not isfinite(number):
            raise ValueError(f"{key}={self.texts[key]} is not a number")
        return number

    def whole(self, key: str, default: float, least: int) -> int:
        number = self.number(key, default)
        if not (number.is_integer() and number >= least):
            raise ValueError(f"{key}={self.texts[key]} is not a whole number from {least}")
        return int(number)

    def file(self, key: str, default: Path) -> Path:
        return Path(self.texts[key]) if key in self.texts else default


@dataclass(frozen=True, slots=True)
class Form:
    """The keys of one name, and the shape they say."""

    required: tuple[str, ...]
    shape: Callable[[Values], Phases]
    optional: tuple[str, ...] = ()


def _numbers(shape: Callable[..., Phases], *keys: str) -> Form:
    return Form(keys, lambda values: shape(*(values.number(key) for key in keys)))


def _day(values: Values) -> Phases:
    windows = read_rate_windows(values.file("rates", SHIPPED), values.texts["model"])
    start_s, speed = values.number("start", 0.0), values.number("speed", 1.0)
    if not speed > 0:
        raise ValueError(f"speed={speed:g} is not above 0")
    if not 0 <= start_s < windows.span_s:
        raise ValueError(f"start={start_s:g} is not in the {windows.span_s:g} s of the rates")
    duration_s = values.number("duration", min(DAY_S, windows.span_s - start_s) / speed)
    return shapes.day(windows, values.number("rate"), start_s, duration_s, speed)


STEADY = _numbers(shapes.steady, "rate", "duration")
SHAPES = {
    "step": _numbers(shapes.step, "base", "peak", "before", "step", "after"),
    "ramp": _numbers(shapes.ramp, "base", "peak", "before", "ramp", "after"),
    "spike": _numbers(shapes.spike, "base", "peak", "before", "spike", "after"),
    "sine": _numbers(shapes.sine, "base", "peak", "period", "duration"),
    "day": Form(("rate", "model"), _day, ("start", "duration", "speed", "rates")),
}
# A process, by the key that it needs besides its rates.
PROCESSES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "poisson": (),
    "gamma": ("cv",),
    "negbin": ("dispersion",),
}
COMMON = ("prompt", "output", "lengths", "seed")
NAMES = (*PROCESSES, *SHAPES)
ACCEPTED = (
    f"or a load NAME:KEY=VALUE,... with a NAME of {', '.join(NAMES)}, "
    "such as step:base=4,peak=8,before=40,step=60,after=40"
)


def read_load(text: str, seed: int = 0) -> Trace:
    """The trace file of that name, or the load that the text describes.

    The seed is used where the text gives none.
    """
    name, _, rest = text.partition(":")
    exists = os.path.exists(text)  # unlike Path's, also of names too long for a file
    if name in NAMES and not exists:
        try:
            return _synthetic(text, name, rest, seed)
        except ValueError as error:
            raise TraceError(f"{text}: {error}; expected {_usage(name)}") from None
    try:
        return read_trace(Path(text))
    except TraceError as error:
        if exists:
            raise
        raise TraceError(f"{error}, {ACCEPTED}") from None


def _synthetic(text: str, name: str, rest: str, seed: int) -> Trace:
    texts = split_keys(rest)
    process = texts.get("arrivals", "poisson") if name in SHAPES else name
    if process not in PROCESSES:
        raise ValueError(f"arrivals={process} is not a process")
    form = SHAPES.get(name, STEADY)
    required = (*form.required, *PROCESSES[process])
    known = {*required, *form.optional, *COMMON} | ({"arrivals"} if name in SHAPES else set())
    for key in texts:
        if key not in known:
            raise ValueError(f"no key {key!r} here")
    for key in required:
        if key not in texts:
            raise ValueError(f"{key!r} is missing")
    values = Values(texts)
    arrivals_s = _arrivals(process, form.shape(values), values, values.whole("seed", seed, 0))
    requests = sent_at(_lengths(values), arrivals_s)
    if not requests:
        raise ValueError("no request was drawn")
    return Trace(text, requests, {}, sorted_input=True, sha256=_sha256(requests))


def split_keys(rest: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for part in rest.split(",") if rest.strip() else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"{part!r} is not KEY=VALUE")
        if key in texts:
            raise ValueError(f"{key!r} is given twice")
        texts[key] = value
    return texts


def _arrivals(process: str, phases: Phases, values: Values, seed: int) -> FloatArray:
    if process == "gamma":
        return gamma(phases, values.number("cv"), seed)
    if process == "negbin":
        return negative_binomial(phases, values.number("dispersion"), seed)
    return poisson(phases, seed) if process == "poisson" else constant(phases)


def _lengths(values: Values) -> Requests:
    if "lengths" not in values.texts:
        prompt_tokens = values.whole("prompt", PROMPT_TOKENS, 1)
        return (Request(0.0, prompt_tokens, values.whole("output", OUTPUT_TOKENS, 1)),)
    if "prompt" in values.texts or "output" in values.texts:
        raise ValueError("lengths and prompt or output both set lengths")
    return read_trace(Path(values.texts["lengths"])).requests


def _sha256(requests: Requests) -> str:
    rows = [(each.arrival_s, each.input_tokens, each.output_tokens) for each in requests]
    return hashlib.sha256(np.array(rows).tobytes()).hexdigest()


def _usage(name: str) -> str:
    form = SHAPES.get(name, STEADY)
    keys = [f"{key}=" for key in (*form.required, *PROCESSES.get(name, ()))]
    optional = [f"{key}=" for key in form.optional]
    if name in SHAPES:
        processes = [
            f"{process} with {' and '.join(f'{key}=' for key in needed)}" if needed else process
            for process, needed in PROCESSES.items()
        ]
        optional.append(f"arrivals= ({', '.join(processes)})")
    optional += ["prompt= and output=, or lengths=FILE", "seed="]
    return f"{name}:{','.join(keys)} and, if wanted, {', '.join(optional)}"
