"""What a step costs is what the profile's model says of it."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from controller.signals import Work
from simulations.step_cost import StepCost
from tests.simulations.cluster_fakes import profile_with

LAYERS = [{"num_experts": 16, "size": 0.5, "spread": 0.9}] * 4
MODEL = profile_with(step_time={"expert_s": 0.0002, "token_s": 1e-5, "layers": LAYERS}).step_time
ks = st.tuples(*[st.integers(1, 8)] * 4)


@given(ks, st.integers(1, 200), st.integers(0, 9999))
def test_of_one_k_it_is_the_models_to_the_last_bit(
    k: tuple[int, ...], tokens: int, keys: int
) -> None:
    cost, work = StepCost(MODEL), Work(tokens, 0, keys, 0)
    experts = cost.uniform(k, tokens)
    assert cost.step_s(work, experts) == MODEL.step_s(k, work)
    assert experts.slots == tuple(each * tokens for each in k)


@given(ks, ks, st.integers(1, 100), st.integers(1, 100))
def test_where_tokens_differ_in_k_it_is_that_of_their_mean(
    one: tuple[int, ...], other: tuple[int, ...], ones: int, others: int
) -> None:
    cost, work = StepCost(MODEL), Work(ones, others, 500, 700)
    mean = [(a * ones + b * others) / (ones + others) for a, b in zip(one, other, strict=True)]
    tokens_by_k = {one: ones + others} if one == other else {one: ones, other: others}
    found = cost.step_s(work, cost.mixed(tokens_by_k))
    assert found == approx(MODEL.step_s(mean, work))


def test_what_would_have_been_counted_is_a_whole_number_of_experts() -> None:
    # 16 (1 - (1 - 2/16)^(3^0.9)) = 4.83
    assert StepCost(MODEL).uniform((2, 2, 2, 2), 3).distinct == (5, 5, 5, 5)
