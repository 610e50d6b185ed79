"""Multipliers learnt from steps. Parts are seconds as the profile has them."""

import math
import random
from dataclasses import astuple

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from controller.correction import RecursiveCorrection
from controller.signals import Correction
from controller.step_time import Parts

DECODE = Parts(0.001, 0.002, 0.001, 4)
PREFILL = Parts(0.001, 0.015, 0.004, 0)


def seconds(parts: Parts, base: float, experts: float, rest: float, token: float = 0.0) -> float:
    told = base * parts.base_s + experts * parts.experts_s + rest * parts.rest_s
    return told + token * parts.decode_tokens


def expected_s(correction: RecursiveCorrection, parts: Parts) -> float:
    return seconds(parts, *astuple(correction.value))


def are(base: float, experts: float, rest: float, **within: float) -> object:
    """Multipliers, where decoding tokens take nothing besides."""
    return approx((base, experts, rest, 0.0), **({"abs": 1e-5} | within))


def varied(random_: random.Random) -> Parts:
    """A step as plans and batches come: 1 to 160 tokens, few experts or many."""
    tokens = random_.choice([1, 4, 16, 64, 160])
    experts = random_.choice([1, 2, 4, 8])
    decoded = min(tokens, 16) if experts in (1, 4) else 0
    return Parts(0.001, 0.0005 * experts * math.sqrt(tokens), 0.00005 * tokens, decoded)


def learnt(steps: list[tuple[Parts, float]]) -> RecursiveCorrection:
    correction = RecursiveCorrection()
    for parts, duration_s in steps:
        correction.learn([(parts, duration_s)])
    return correction


def test_before_the_first_step_nothing_is_corrected() -> None:
    correction = RecursiveCorrection()
    assert correction.value == Correction(1.0, 1.0, 1.0)
    assert expected_s(correction, PREFILL) == approx(0.02)


def test_steps_as_predicted_correct_nothing() -> None:
    assert astuple(learnt([(DECODE, 0.004), (PREFILL, 0.02)] * 1000).value) == are(1, 1, 1)


def test_known_multipliers_come_out_of_noisy_steps() -> None:
    random_ = random.Random(0)
    correction = RecursiveCorrection()
    for _ in range(5000):
        parts = varied(random_)
        noise = math.exp(random_.gauss(0, 0.05))
        correction.learn([(parts, noise * seconds(parts, 2.0, 1.5, 0.8))])
    assert astuple(correction.value) == are(2.0, 1.5, 0.8, rel=0.1)


def test_what_decoding_tokens_take_besides_comes_out_of_noisy_steps() -> None:
    """Live, sending a token took 1.4 ms from the engine; no multiplier would say so."""
    random_ = random.Random(0)
    correction = RecursiveCorrection()
    for _ in range(5000):
        parts = varied(random_)
        noise = math.exp(random_.gauss(0, 0.05))
        correction.learn([(parts, noise * seconds(parts, 2.0, 1.5, 0.8, token=0.0014))])
    assert correction.value.decode_token_s == approx(0.0014, rel=0.05)
    assert expected_s(correction, PREFILL) == approx(seconds(PREFILL, 2.0, 1.5, 0.8), rel=0.03)


def test_prompts_alone_say_nothing_of_what_decoding_tokens_take() -> None:
    correction = learnt([(PREFILL, 0.03)] * 3000)
    assert correction.value.decode_token_s == 0
    assert expected_s(correction, DECODE) == approx(1.5 * 0.004, rel=0.001)


def test_a_change_is_learnt_within_seconds_of_engine_time() -> None:
    random_ = random.Random(0)
    correction = RecursiveCorrection()
    for multiplier, num_steps in ((1.0, 2000), (3.0, 3000)):
        for _ in range(num_steps):
            parts = varied(random_)
            correction.learn([(parts, multiplier * sum(parts[:3]))])
    assert astuple(correction.value) == are(3.0, 3.0, 3.0, abs=0.1)


def test_steps_that_wait_for_a_core_count_as_long_as_they_took() -> None:
    """Queues wait with them: counted as twice as long at the most, 8 % was missing live."""
    heartbeat = [(DECODE, 0.004)] * 9 + [(DECODE, 5 * 0.004)]
    correction = RecursiveCorrection()
    for _ in range(1000):
        correction.learn(heartbeat)
    assert expected_s(correction, DECODE) == approx(1.4 * 0.004, rel=0.001)


def test_a_stalled_step_hardly_moves_it() -> None:
    correction = learnt([(DECODE, 0.004)] * 1000)
    correction.learn([(DECODE, 0.05)])
    assert expected_s(correction, DECODE) == approx(0.004, rel=0.002)
    assert astuple(correction.value) == are(1, 1, 1, abs=0.01)


def test_a_stalled_first_step_is_not_believed_either() -> None:
    assert astuple(learnt([(DECODE, 0.05)]).value) == are(1, 1, 1, abs=0.05)


def test_parts_that_never_ran_are_expected_to_be_as_slow_as_those_that_did() -> None:
    # Minutes of decoding on a machine 1.5 times slower, and then a prompt comes.
    correction = learnt([(DECODE, 1.5 * 0.004)] * 30_000)
    assert expected_s(correction, PREFILL) == approx(1.5 * 0.02, rel=0.001)
    assert astuple(correction.value) == are(1.5, 1.5, 1.5, rel=0.001)


def test_what_steady_steps_cannot_tell_apart_stays_near_the_common_ratio() -> None:
    # Only the experts are slow, which no mean of decode steps that are all alike shows.
    correction = learnt([(DECODE, seconds(DECODE, 1.0, 2.0, 1.0))] * 30_000)
    assert expected_s(correction, DECODE) == approx(0.006, rel=0.001)
    assert expected_s(correction, PREFILL) == approx(0.03, rel=0.05)


def test_what_no_longer_runs_goes_back_to_the_common_ratio() -> None:
    random_ = random.Random(0)
    correction = RecursiveCorrection()
    for _ in range(3000):
        parts = varied(random_)
        correction.learn([(parts, seconds(parts, 3.0, 1.0, 1.0))])
    assert correction.value.base > 2.0
    without_base = Parts(0.0, 0.003, 0.001, 0)
    for _ in range(20_000):
        correction.learn([(without_base, 0.004)])
    assert astuple(correction.value) == are(1, 1, 1, abs=0.01)


def test_steady_load_does_not_wind_it_up() -> None:
    # An hour of steps that are all alike but for noise, and then the same noise still moves little.
    random_ = random.Random(0)
    correction = RecursiveCorrection()
    seen = []
    for number in range(100_000):
        correction.learn([(DECODE, 0.004 * math.exp(random_.gauss(0, 0.2)))])
        if number >= 90_000:
            seen.append(astuple(correction.value))
    for multipliers in zip(*seen, strict=True):
        assert max(multipliers) - min(multipliers) < 0.1


def test_a_step_of_nothing_teaches_nothing() -> None:
    assert learnt([(Parts(0.0, 0.0, 0.0, 0), 1.0)]).value == Correction()


def test_long_steps_do_not_drown_short_ones() -> None:
    # A slow base makes decode steps 1.5 times as long, and prefill steps only 1.1 times.
    slow_base = [(each, seconds(each, 3.0, 1.0, 1.0)) for each in [DECODE] * 5 + [PREFILL]]
    correction = learnt(slow_base * 500)
    assert expected_s(correction, DECODE) == approx(0.006, rel=0.03)
    assert expected_s(correction, PREFILL) == approx(0.022, rel=0.03)


parts_s = st.floats(0, 10).filter(lambda s: s == 0 or s > 1e-9)
parts = st.builds(Parts, parts_s, parts_s, parts_s, st.integers(0, 200))
durations = st.floats(0, 1e3)
histories = st.lists(st.tuples(parts, durations), max_size=30)


@settings(deadline=None)
@given(histories)
def test_multipliers_stay_in_bounds_whatever_happens(history: list[tuple[Parts, float]]) -> None:
    *multipliers, decode_token_s = astuple(learnt(history).value)
    assert all(0.25 <= m <= 4.0 for m in multipliers)
    assert 0 <= decode_token_s <= 0.004


@settings(deadline=None)
@given(histories)
def test_the_same_steps_give_the_same_multipliers(history: list[tuple[Parts, float]]) -> None:
    assert learnt(history).value == learnt(history).value


@settings(deadline=None)
@given(histories, st.floats(0.4, 2.5))
def test_steps_that_are_all_as_much_slower_lead_to_that_ratio(
    before: list[tuple[Parts, float]], ratio: float
) -> None:
    correction = learnt(before)
    for _ in range(1000):  # 200 s of prefill, in heartbeats of ten steps
        correction.learn([(PREFILL, ratio * 0.02)] * 10)
    assert expected_s(correction, PREFILL) == approx(ratio * 0.02, rel=0.01)
