"""A mix gives classes by share and changes nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.mix import parse_mix, with_classes
from simulations.traces import Request

THOUSANDS = tuple(Request(0.1 * number, 10 + number % 7, 5) for number in range(4000))


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("premium", {"premium": 1.0}),
        (" premium ", {"premium": 1.0}),
        ("premium=1", {"premium": 1.0}),
        ("premium=0.3,batch=0.7", {"premium": 0.3, "batch": 0.7}),
        ("a=0.1, b=0.2, c=0.7", {"a": 0.1, "b": 0.2, "c": 0.7}),
    ],
)
def test_a_name_or_shares_that_sum_to_one(text: str, mix: dict[str, float]) -> None:
    assert parse_mix(text) == mix


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a name is missing"),
        ("a,b", "'' is not a share"),
        ("a=0.5,b", "'' is not a share"),
        ("a=0.5,=0.5", "a name is missing"),
        ("a=0.5,a=0.5", "'a' is given twice"),
        ("a=half,b=0.5", "'half' is not a share"),
        ("a=0,b=1", "'0' is not above 0"),
        ("a=-1,b=2", "'-1' is not above 0"),
        ("a=nan,b=0.5", "'nan' is not above 0"),
        ("a=0.5,b=0.4", "the shares sum to 0.9"),
        ("a=0.5", "the shares sum to 0.5"),
    ],
)
def test_what_is_no_mix_is_refused_with_what_is_accepted(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        parse_mix(text)
    assert "expected NAME, or NAME=SHARE,NAME=SHARE with shares above 0" in str(refusal.value)


def test_classes_come_by_their_shares() -> None:
    # 4000 draws of probability 0.3: five standard deviations are 145.
    mixed = with_classes(THOUSANDS, {"premium": 0.3, "batch": 0.7}, seed=1)
    assert abs(sum(request.slo_class == "premium" for request in mixed) - 1200) < 145


def test_one_class_is_for_all() -> None:
    assert {request.slo_class for request in with_classes(THOUSANDS, {"a": 1.0}, 1)} == {"a"}


@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_arrivals_and_lengths_stay_and_the_seed_decides(share: float, seed: int) -> None:
    mix, requests = {"a": share, "b": 1 - share}, THOUSANDS[:50]
    mixed = with_classes(requests, mix, seed)
    assert mixed == with_classes(requests, mix, seed)
    for before, after in zip(requests, mixed, strict=True):
        assert (before.arrival_s, before.input_tokens) == (after.arrival_s, after.input_tokens)
        assert before.output_tokens == after.output_tokens
        assert after.slo_class in mix


def test_another_seed_gives_another_choice() -> None:
    mix = {"a": 0.5, "b": 0.5}
    assert with_classes(THOUSANDS, mix, 1) != with_classes(THOUSANDS, mix, 2)
