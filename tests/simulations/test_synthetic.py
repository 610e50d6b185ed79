"""A load is named where a file may stand, and a mistake is answered with what is accepted."""

from pathlib import Path

import numpy as np
import pytest

from simulations.arrivals import Phase, gamma, poisson
from simulations.shapes import step
from simulations.synthetic import PROCESSES, SHAPES, read_load
from simulations.traces import Request, TraceError, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = "2023-11-16 18:00:00,10,1\n2023-11-16 18:00:09,20,2\n"
STEP = "step:base=4,peak=8,before=40,step=60,after=40"
LOADS = {
    "constant": "constant:rate=8,duration=100",
    "poisson": "poisson:rate=8,duration=100",
    "gamma": "gamma:rate=8,cv=3,duration=100",
    "negbin": "negbin:rate=8,dispersion=4,duration=100",
    "step": STEP,
    "ramp": "ramp:base=4,peak=8,before=10,ramp=60,after=30",
    "spike": "spike:base=4,peak=30,before=10,spike=60,after=30",
    "sine": "sine:base=4,peak=12,period=50,duration=100",
    "day": "day:model=deepseek-r1,rate=8,speed=864",
}


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.csv"
    path.write_text(AZURE + ROWS)
    return path


def arrivals_s(text: str, seed: int = 0) -> list[float]:
    return [request.arrival_s for request in read_load(text, seed).requests]


def test_a_file_is_read_as_a_trace(lengths: Path) -> None:
    assert read_load(str(lengths)) == read_trace(lengths)


def test_a_file_goes_before_a_load_of_its_name(
    lengths: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lengths.parent)
    lengths.rename("sine")
    assert read_load("sine").requests == (Request(0, 10, 1), Request(9, 20, 2))


def test_every_name_is_tried_here() -> None:
    assert LOADS.keys() == {*PROCESSES, *SHAPES}


@pytest.mark.parametrize("text", LOADS.values(), ids=LOADS.keys())
def test_every_load_is_a_trace_of_its_seed(text: str) -> None:
    trace = read_load(text)
    assert trace.name == text
    assert trace.dropped == {}
    assert trace == read_load(text)
    times_s = [request.arrival_s for request in trace.requests]
    assert times_s == sorted(times_s)
    assert times_s[0] >= 0
    assert times_s[-1] < 141
    assert len(times_s) > 300
    assert {(each.input_tokens, each.output_tokens) for each in trace.requests} == {(512, 64)}
    if not text.startswith("constant"):
        assert read_load(text, seed=1).sha256 != trace.sha256


def test_a_shape_is_poisson_unless_it_says_otherwise() -> None:
    phases = step(4, 8, 40, 60, 40)
    assert arrivals_s(STEP, seed=3) == poisson(phases, seed=3).tolist()
    assert arrivals_s(f"{STEP},arrivals=gamma,cv=2", 3) == gamma(phases, 2, seed=3).tolist()


def test_a_process_by_name_has_one_rate() -> None:
    assert arrivals_s("gamma:rate=8,cv=3,duration=60", 5) == gamma([Phase(60, 8)], 3, 5).tolist()


def test_the_seed_of_the_text_goes_before_the_other() -> None:
    assert arrivals_s(f"{STEP},seed=4", seed=1) == arrivals_s(STEP, seed=4)


def test_lengths_are_numbers_or_those_of_a_trace(lengths: Path) -> None:
    base = "constant:rate=1,duration=3"
    numbers = read_load(f"{base},prompt=7,output=3").requests
    assert numbers == (Request(0, 7, 3), Request(1, 7, 3), Request(2, 7, 3))
    traced = read_load(f"{base}, lengths={lengths}").requests
    assert traced == (Request(0, 10, 1), Request(1, 20, 2), Request(2, 10, 1))


def test_a_day_is_compressed_and_may_begin_anywhere() -> None:
    whole_day = arrivals_s("day:model=deepseek-r1,rate=20,speed=864,arrivals=constant")
    assert len(whole_day) == 2000
    assert whole_day[-1] < 100
    part = "day:model=deepseek-r1,rate=20,start=43200,duration=10,speed=864,arrivals=constant"
    assert len(arrivals_s(part)) == 200
    # The second half of this day is the busier one, at whatever rate the whole is.
    counts, _ = np.histogram(whole_day, [0, 50, 100])
    assert counts[0] != pytest.approx(counts[1], rel=0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gamma", "gamma: 'rate' is missing; expected gamma:rate=,duration=,cv= and, if wanted,"),
        ("gamma:rate=1,duration=5", "'cv' is missing"),
        ("negbin:rate=1,duration=5", "'dispersion' is missing"),
        ("poisson:rate=1,duration=5,cv=2", "no key 'cv' here; expected poisson:rate=,duration="),
        ("poisson:rate=1,duration=5,arrivals=gamma", "no key 'arrivals' here"),
        ("step:base=4", "'peak' is missing; expected step:base=,peak=,before=,step=,after= and"),
        (f"{STEP},arrivals=gamma", "'cv' is missing; expected step:base=,"),
        (f"{STEP},arrivals=weibull", "arrivals=weibull is not a process; expected"),
        (f"{STEP},arrivals=weibull", "(constant, poisson, gamma with cv=, negbin with dispersion="),
        (f"{STEP},speed=2", "no key 'speed' here"),
        (f"{STEP},base=2", "'base' is given twice"),
        (f"{STEP},seed", "'seed' is not KEY=VALUE"),
        (f"{STEP},seed=", "'seed=' is not KEY=VALUE"),
        (f"{STEP},seed=1.5", "seed=1.5 is not a whole number from 0"),
        (f"{STEP},prompt=0", "prompt=0 is not a whole number from 1"),
        (f"{STEP},prompt=5,lengths=a.csv", "lengths and prompt or output both set lengths"),
        (f"{STEP},lengths=a.csv", "a.csv: No such file or directory; accepted: Azure LLM CSV"),
        (STEP.replace("peak=8", "peak=high"), "peak=high is not a number"),
        (STEP.replace("peak=8", "peak=inf"), "peak=inf is not a number"),
        (STEP.replace("step=60", "step=-60"), "expected a rate from 0 and a duration above 0"),
        ("gamma:rate=1,duration=5,cv=0", "cv 0: expected a number from 0.001 to 100"),
        ("constant:rate=1e9,duration=1000", "expected at most 10,000,000"),
        ("constant:rate=0,duration=5", "no request was drawn"),
        ("day:rate=1,model=m-huge", "no windows of model 'm-huge'; it has m-small, m-mid,"),
        ("day:rate=1,model=m-mid,speed=0", "speed=0 is not above 0"),
        ("day:rate=1,model=deepseek-r1,start=86400", "start=86400 is not in the 86400 s of the"),
        ("day:rate=1,model=deepseek-r1,rates=a.csv", "a.csv: No such file or directory"),
    ],
)
def test_a_mistake_is_answered_with_what_is_accepted(text: str, expected: str) -> None:
    with pytest.raises(TraceError) as raised:
        read_load(text)
    message = str(raised.value)
    assert message.startswith(f"{text}: ")
    assert expected in message
    assert "expected" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["none.csv", "stp:base=4,peak=8", "x" * 300])
def test_what_is_neither_file_nor_load_is_told_of_both(text: str) -> None:
    with pytest.raises(TraceError) as raised:
        read_load(text)
    message = str(raised.value)
    assert message.startswith(f"{text}: ")
    assert "accepted: Azure LLM CSV" in message
    assert (
        "with a NAME of constant, poisson, gamma, negbin, step, ramp, spike, sine, day" in message
    )
