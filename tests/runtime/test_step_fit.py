"""The fit finds the model that made the steps, and says when noise hides it."""

import numpy as np
import pytest
from pytest import approx

from controller.signals import Step, Work
from controller.step_time import Layer, StepTime
from runtime.step_fit import Shape, TimedStep, Timings

EXPERTS = [(16, 1.0), (16, 0.5)]
TRUE = StepTime(
    base_s=0.002,
    token_s=1e-5,
    expert_s=4e-5,
    slot_s=3e-6,
    prefill_key_s=5e-8,
    decode_key_s=4e-7,
    layers=(
        Layer(num_experts=16, size=1.0, spread=0.8),
        Layer(num_experts=16, size=0.5, spread=0.95),
    ),
)
PLANS = [(1, 1), (4, 4), (8, 8), (8, 1), (1, 8)]
HELD_OUT = (2, 6)
WORKS = [
    *(Work(n, 0, n * context, 0) for n in (8, 40, 160) for context in (20, 300)),
    *(Work(0, n, 0, n * context) for n in (1, 4, 16) for context in (64, 256)),
    Work(100, 8, 12_800, 1_024),
]


def step(plan: tuple[int, int], work: Work, noise: float) -> Step:
    distinct = [
        round(layer.distinct(k, work.tokens)) for layer, k in zip(TRUE.layers, plan, strict=True)
    ]
    slots = [int(k * work.tokens) for k in plan]
    ran = Step(work, 1.0, tuple(slots), tuple(distinct))
    base_s, experts_s, rest_s, _ = TRUE.ran_parts(ran)
    seconds = (base_s + experts_s + rest_s) * noise
    return Step(work, seconds, tuple(slots), tuple(distinct))


def timed(noise: float, rounds: int = 4, drift: float = 0.0) -> list[TimedStep]:
    """`noise`: of every step, `drift`: of every round, as shares of the time."""
    random = np.random.default_rng(1)
    return [
        TimedStep(plan, number, step(plan, work, slower * random.lognormal(0, noise)))
        for number in range(rounds)
        for slower in [random.lognormal(0, drift)]
        for plan in [*PLANS, HELD_OUT]
        for work in WORKS
    ]


def held_out(shape: Shape) -> bool:
    return shape.plan == HELD_OUT


def fitted(timings: Timings) -> StepTime:
    return timings.fit(timings.points(lambda shape: not held_out(shape)))


def test_without_noise_the_model_is_found_as_it_was() -> None:
    model = fitted(Timings(timed(noise=0.0), EXPERTS))
    names = ("base_s", "token_s", "expert_s", "slot_s", "prefill_key_s", "decode_key_s")
    for name in names:
        assert getattr(model, name) == approx(getattr(TRUE, name), rel=1e-6), name


def test_the_spread_of_each_layer_is_found_from_counted_experts() -> None:
    layers = Timings(timed(noise=0.0), EXPERTS).layers
    assert [layer.spread for layer in layers] == approx([0.8, 0.95], abs=0.03)
    assert [layer.size for layer in layers] == [1.0, 0.5]


def test_a_moment_of_trouble_in_one_round_is_outvoted() -> None:
    steps = timed(noise=0.0)
    stalled = [
        each._replace(step=Step(each.step.work, 0.5, *_counts(each.step)))
        if each.round == 2
        else each
        for each in steps
    ]
    assert fitted(Timings(stalled, EXPERTS)).base_s == approx(TRUE.base_s, rel=1e-6)


def _counts(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return step.expert_slots, step.distinct_experts


def test_the_error_is_that_of_points_the_fit_has_not_seen() -> None:
    timings = Timings(timed(noise=0.0), EXPERTS)
    slower = TRUE.model_copy(
        update={
            name: 1.25 * getattr(TRUE, name)
            for name in ("base_s", "token_s", "expert_s", "slot_s", "prefill_key_s", "decode_key_s")
        }
    )
    fit = timings.describe(slower, held_out, [(HELD_OUT, WORKS[0])])
    assert fit.mape_held_out == approx(0.25, abs=1e-6)
    assert fit.p95_held_out == approx(0.25, abs=1e-6)
    assert fit.points_held_out == len(WORKS)
    assert fit.points == len(PLANS) * len(WORKS)


@pytest.mark.parametrize(("drift", "low", "high"), [(0.0, 0.0, 0.001), (0.3, 0.1, 0.6)])
def test_rounds_that_differ_leave_the_model_open(drift: float, low: float, high: float) -> None:
    timings = Timings(timed(noise=0.0, drift=drift), EXPERTS)
    fit = timings.describe(fitted(timings), held_out, [((8, 8), WORKS[4]), ((1, 1), WORKS[8])])
    assert low <= fit.interval <= high


def test_the_planned_distinct_experts_are_held_against_the_counted() -> None:
    timings = Timings(timed(noise=0.0), EXPERTS)
    fit = timings.describe(fitted(timings), held_out, [((8, 8), WORKS[0])])
    assert 0 < fit.distinct_experts_error < 0.06  # the counts are whole numbers


def test_what_never_happened_costs_nothing() -> None:
    prompts = [each for each in timed(noise=0.0) if not each.step.work.decode_tokens]
    assert fitted(Timings(prompts, EXPERTS)).decode_key_s == 0.0
