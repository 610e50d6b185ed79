"""The step-time model, by hand-reckoned numbers and by what has to hold for all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pytest import approx

from controller.signals import Correction, Phased, Step, Work
from controller.step_time import Layer, Parts, StepTime
from tests.fakes import profile

# In seconds: 1 a step, 0.1 a token, 0.01 an expert touched, 0.001 a token-expert pair, and so on.
MODEL = StepTime(
    base_s=1.0,
    token_s=0.1,
    expert_s=0.01,
    slot_s=0.001,
    prefill_key_s=0.0001,
    decode_key_s=0.00001,
    layers=(
        Layer(num_experts=4, size=1.0, spread=1.0),
        Layer(num_experts=8, size=0.5, spread=1.0),
    ),
)


def test_strangers_touch_as_many_experts_as_chance_has_it() -> None:
    layer = Layer(num_experts=8, size=1.0, spread=1.0)
    assert layer.distinct(2, 1) == approx(2.0)
    assert layer.distinct(2, 2) == approx(3.5)  # 8 (1 - (3/4)^2)
    assert layer.distinct(2, 3) == approx(4.625)
    assert layer.distinct(8, 1) == approx(8.0)
    assert layer.distinct(2, 0) == 0.0


def test_tokens_of_one_text_touch_fewer() -> None:
    alike = Layer(num_experts=8, size=1.0, spread=0.5)
    assert alike.distinct(2, 9) == approx(4.625)  # as 3 strangers
    assert alike.distinct(2, 1) == approx(2.0)


def test_no_more_than_all_experts_are_touched_by_a_k_that_is_larger() -> None:
    assert Layer(num_experts=4, size=1.0, spread=1.0).distinct(8, 1) == 4.0


layers = st.builds(
    Layer, num_experts=st.integers(1, 256), size=st.floats(0.1, 1), spread=st.floats(0.1, 1)
)
ks, tokens = st.integers(1, 16), st.floats(1, 1e4)


@settings(deadline=None)
@given(layers, ks, tokens)
def test_at_least_k_and_never_more_than_all_experts_are_touched(
    layer: Layer, k: int, n: float
) -> None:
    touched = layer.distinct(k, n)
    assert min(k, layer.num_experts) <= touched * (1 + 1e-9)
    assert touched <= layer.num_experts


def test_a_step_to_come_by_hand() -> None:
    work = Work(prefill_tokens=2, decode_tokens=1, prefill_keys=100, decode_keys=1000)
    # 1 + 3 tokens + layers of 4 (1 - (3/4)^3) = 2.3125 and 8 (1 - (3/4)^3) = 4.625 experts
    experts_s = 0.01 * 2.3125 + 0.001 * 3 + 0.5 * (0.01 * 4.625 + 0.001 * 6)
    assert MODEL.step_s((1, 2), work) == approx(1 + 0.3 + experts_s + 0.01 + 0.01)


def test_a_step_that_ran_goes_by_what_was_counted() -> None:
    work = Work(prefill_tokens=2, decode_tokens=1, prefill_keys=100, decode_keys=1000)
    step = Step(work, 9.9, expert_slots=(3, 6), distinct_experts=(2, 4))
    # 1 + 0.3 + (0.02 + 0.003) + 0.5 * (0.04 + 0.006) + 0.01 + 0.01
    parts = Parts(base_s=1.0, experts_s=0.046, rest_s=0.32, decode_tokens=1)
    assert MODEL.ran_parts(step) == approx(parts)


def test_a_corrected_model_multiplies_its_parts() -> None:
    step = Step(Work(2, 1, 100, 1000), 9.9, expert_slots=(3, 6), distinct_experts=(2, 4))
    corrected = MODEL.corrected(Correction(base=2.0, experts=3.0, rest=0.5))
    assert corrected.ran_parts(step) == approx(Parts(2.0, 0.138, 0.16, 1))
    assert MODEL.corrected(Correction()) == MODEL


def test_a_corrected_model_adds_what_decoding_tokens_take_besides() -> None:
    prompts, both = Work(3, 0, 100, 0), Work(3, 5, 100, 0)
    sends = MODEL.corrected(Correction(decode_token_s=0.5))
    assert sends.step_s((1, 2), prompts) == MODEL.step_s((1, 2), prompts)
    assert sends.step_s((1, 2), both) == approx(MODEL.step_s((1, 2), both) + 2.5)
    assert sends.corrected(Correction(decode_token_s=0.1)).decode_token_s == approx(0.6)


def test_a_step_has_to_have_as_many_layers_as_the_model() -> None:
    with pytest.raises(ValueError, match="zip"):
        MODEL.step_s((1, 2, 3), Work(1, 0, 1, 0))
    with pytest.raises(ValueError, match="zip"):
        MODEL.ran_parts(Step(Work(1, 0, 1, 0), 1.0))


def test_a_layers_share_is_what_its_experts_take() -> None:
    assert MODEL.layer_s(0, 2, 1) == approx(0.022)
    assert MODEL.layer_s(1, 2, 1) == approx(0.011)  # experts of half the size
    alone = Work(1, 0, 0, 0)
    assert MODEL.step_s((2, 2), alone) == approx(1 + 0.1 + 0.022 + 0.011)


def test_a_prompt_takes_full_chunks_and_of_the_last_its_share() -> None:
    model = profile().step_time
    best = (8, 8, 8, 8)
    assert model.prompt_s(best, 100, 100) == approx(0.09)
    assert model.prompt_s(best, 250, 100) == approx(0.225)
    assert model.prompt_s(best, 0, 100) == 0


def test_a_prompts_tokens_read_those_before_them() -> None:
    model = MODEL.model_copy(update={"base_s": 0.0, "token_s": 0.0, "expert_s": 0.0, "slot_s": 0.0})
    assert model.prompt_s((1, 1), 4, 4) == approx(0.001)  # 1 + 2 + 3 + 4 keys
    assert model.prompt_s((1, 1), 4, 2) == approx(0.001)


def test_requests_that_decode_read_their_context() -> None:
    # 10 ms, 0.8 ms for each of 10 requests
    assert profile().step_time.decode_s((8, 8, 8, 8), 500, 10) == approx(0.018)
    keys_s = MODEL.decode_s((1, 1), 200, 2) - MODEL.decode_s((1, 1), 100, 2)
    assert keys_s == approx(0.002)  # 200 keys more


def test_a_request_costs_as_many_full_steps_as_its_tokens_fill() -> None:
    model = profile().step_time
    # Two steps of 100 tokens, of 90 and of 20 ms; then three quarters of one.
    assert model.request_s((8, 8, 8, 8), 100, 100, 100) == approx(0.18)
    assert model.request_s((1, 1, 1, 1), 100, 100, 100) == approx(0.04)
    assert model.request_s((8, 8, 8, 8), 50, 25, 100) == approx(0.0675)


def test_a_full_step_has_prompt_and_decoding_tokens_as_requests_have_them() -> None:
    # 6 tokens fill two steps of 3: 2 of prompts, each of which reads 2.5 keys in the mean (1, 2, 3
    # or 4), and one that decodes and reads the prompt's 4 keys and half of the answer's 2.
    experts_s = 0.01 * 2.3125 + 0.001 * 3 + 0.5 * (0.01 * 4.625 + 0.001 * 6)  # as of the step above
    step_s = 1 + 0.3 + experts_s + 0.0001 * 5 + 0.00001 * 5
    assert MODEL.request_s((1, 2), 4, 2, 3) == approx(2 * step_s)


def test_a_requests_tokens_share_the_experts_of_full_steps() -> None:
    # 8 tokens at k' 1 touch of layers of 4 and 8 experts nearly all, whatever kind they are of.
    touched = 4 * (1 - 0.75**8) + 0.5 * 8 * (1 - 0.875**8)
    step_s = 1 + 0.8 + 0.01 * touched + 0.001 * 8 * 1.5
    keys_s = 0.0001 * 4 * 2.5 + 0.00001 * 4 * 6
    assert MODEL.request_s((1, 1), 4, 4, 8) == approx(step_s + keys_s)
    # A request of a quarter of the tokens pays for a quarter of them.
    keys_s = 0.0001 * 4 * 1 + 0.00001 * 4 * 1.5
    assert MODEL.request_s((1, 1), 1, 1, 8) == approx((step_s + keys_s) / 4)


def test_a_request_of_a_prompt_alone_costs_its_chunks() -> None:
    assert profile().step_time.request_s((8, 8, 8, 8), 250, 0, 100) == approx(0.225)
    # Two chunks of two tokens, whose 10 keys are read in half of either.
    step_s = MODEL.step_s((1, 2), Work(2, 0, 5, 0))
    assert MODEL.request_s((1, 2), 4, 0, 2) == approx(2 * step_s)
    assert MODEL.request_s((1, 2), 4, 0, 2) == approx(MODEL.prompt_s((1, 2), 4, 2))


def test_a_request_of_an_answer_alone_costs_its_share_of_steps_that_decode() -> None:
    # Two steps of 3 requests, which are half done in the mean: 3 keys each.
    step_s = MODEL.step_s((1, 2), Work(0, 3, 0, 9))
    assert MODEL.request_s((1, 2), 0, 6, 3) == approx(2 * step_s)
    assert MODEL.request_s((1, 2), 0, 6, 3) == approx(2 * MODEL.decode_s((1, 2), 3, 3))


def test_a_request_of_nothing_costs_nothing() -> None:
    assert MODEL.request_s((1, 2), 0, 0, 3) == 0.0


plans = st.tuples(st.integers(1, 4), st.integers(1, 8))
works = st.builds(Work, *[st.floats(0, 1e4)] * 4)
positive = st.floats(0, 1)
models = st.builds(
    StepTime,
    **dict.fromkeys(
        ("base_s", "token_s", "expert_s", "slot_s", "prefill_key_s", "decode_key_s"), positive
    ),
    layers=st.tuples(layers, layers),
)
a_little = 1 + 1e-9


@settings(deadline=None)
@given(models, plans, works, st.integers(0, 4), st.integers(0, 4))
def test_more_experts_never_give_a_faster_step(
    model: StepTime, plan: tuple[int, int], work: Work, more: int, other: int
) -> None:
    larger = (plan[0] + more, plan[1] + other)
    assert model.step_s(plan, work) <= model.step_s(larger, work) * a_little


@settings(deadline=None)
@given(models, plans, works, works)
def test_more_to_compute_never_gives_a_faster_step(
    model: StepTime, plan: tuple[int, int], work: Work, more: Work
) -> None:
    larger = Work(
        work.prefill_tokens + more.prefill_tokens,
        work.decode_tokens + more.decode_tokens,
        work.prefill_keys + more.prefill_keys,
        work.decode_keys + more.decode_keys,
    )
    assert model.step_s(plan, work) <= model.step_s(plan, larger) * a_little


lengths = st.floats(0, 1e4)


@settings(deadline=None)
@given(models, plans, lengths, lengths, lengths, lengths, st.integers(1, 1000))
def test_a_longer_request_never_costs_less(
    model: StepTime,
    plan: tuple[int, int],
    prompt: float,
    output: float,
    more_prompt: float,
    more_output: float,
    chunk: int,
) -> None:
    longer_s = model.request_s(plan, prompt + more_prompt, output + more_output, chunk)
    assert model.request_s(plan, prompt, output, chunk) <= longer_s * a_little


@settings(deadline=None)
@given(models, plans, tokens)
def test_the_layers_add_up_to_the_part_of_the_experts(
    model: StepTime, plan: tuple[int, int], n: float
) -> None:
    alone = model.model_copy(update={"base_s": 0.0, "token_s": 0.0})
    layers_s = sum(model.layer_s(layer, k, n) for layer, k in enumerate(plan))
    assert alone.step_s(plan, Work(n, 0, 0, 0)) == approx(layers_s)


@pytest.mark.parametrize(
    ("key", "value"),
    [("base_s", -1.0), ("slot_s", float("inf")), ("layers", ()), ("expert_s", "fast"), ("x", 1)],
)
def test_what_is_no_model_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        StepTime(**(dict(MODEL) | {key: value}))


def test_a_step_of_lower_prompts_takes_what_its_tokens_take_in_the_mean() -> None:
    phased = Phased((1.0, 2.0), (4.0, 6.0))
    work = Work(30, 10, 300, 200)
    assert phased.over(work) == approx((1.75, 3.0))
    assert MODEL.step_s(phased, work) == approx(MODEL.step_s((1.75, 3.0), work))
    assert MODEL.step_s(phased, Work(30, 0, 300, 0)) == MODEL.step_s((1, 2), Work(30, 0, 300, 0))
    assert MODEL.step_s(phased, Work(0, 10, 0, 9)) == MODEL.step_s((4, 6), Work(0, 10, 0, 9))
    assert MODEL.step_s(phased, Work(0, 0, 0, 0)) == MODEL.base_s
