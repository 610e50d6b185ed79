"""Means of parts, their intervals over documents, and paired differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bootstrap import Estimate, Tally, difference


def tally(
    sums: list[float], counts: list[float] | None = None, documents: list[int] | None = None
) -> Tally:
    """Unless told: every part counts one and is a document of its own."""
    return Tally(
        np.array(sums),
        np.array(counts or [1.0] * len(sums)),
        np.array(documents or range(len(sums))),
    )


def width(counted: Tally) -> float:
    _, low, high = counted.estimate()
    return high - low


PARTS = st.lists(
    st.tuples(st.floats(0, 100), st.integers(1, 1000), st.integers(0, 20)), min_size=1, max_size=40
)


def test_a_part_weighs_what_it_counts() -> None:
    assert tally([30.0, 1.0], [10, 1]).mean == pytest.approx(31 / 11)


def test_an_interval_holds_its_mean_and_shrinks_with_more_documents() -> None:
    mean, low, high = tally([1.0, 3.0] * 8).estimate()
    assert mean == 2.0
    # A mean of 16 has a standard error of 1/4: 95 % lie within about half of 2.
    assert (low, high) == pytest.approx((1.5, 2.5), abs=0.13)
    assert width(tally([1.0, 3.0] * 128)) == pytest.approx((high - low) / 4, rel=0.15)


def test_parts_of_one_document_count_as_one_piece_of_evidence() -> None:
    """Ten parts that say the same are no more certain than one of ten times the size."""
    documents = [number for number in range(16) for _ in range(10)]
    by_part = tally([1.0 + 2 * (number % 2) for number in documents], documents=documents)
    by_document = tally([10.0, 30.0] * 8, [10.0] * 16)
    assert by_part.estimate() == pytest.approx(by_document.estimate())


@pytest.mark.parametrize(("num_documents", "by_document"), [(7, False), (8, True)])
def test_too_few_documents_leave_the_parts_as_units(num_documents: int, by_document: bool) -> None:
    documents = [part % num_documents for part in range(56)]
    counted = tally([float(number) for number in documents], documents=documents)
    assert counted.by_document is by_document
    alone = tally(counted.sums_P.tolist())
    assert (counted.estimate() == alone.estimate()) is not by_document


def test_a_long_document_pulls_the_mean_only_where_it_was_drawn() -> None:
    """A ratio of sums: without the long one, which holds all the 9s, a resample's mean is 1."""
    mean, low, high = tally([900.0] + [1.0] * 9, [100.0] + [1.0] * 9).estimate()
    assert mean == pytest.approx(909 / 109)
    assert low == 1.0
    assert mean < high < 9.0


def test_an_interval_is_the_same_every_time() -> None:
    counted = tally([1.0, 2.0, 4.0, 8.0])
    assert counted.estimate() == counted.estimate()


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5], [2.5] * 9])
def test_parts_that_agree_leave_no_doubt(values: list[float]) -> None:
    assert tally(values).estimate() == (2.5, 2.5, 2.5)


def test_a_difference_is_paired() -> None:
    """The documents differ widely from each other, the plans by the same in all of them."""
    reference = tally([1.0, 5.0, 9.0] * 3)
    plan = tally([1.5, 5.5, 9.5] * 3)
    assert difference(plan, reference) == (0.5, 0.5, 0.5)
    assert difference(reference, plan) == (-0.5, -0.5, -0.5)


def test_results_on_other_parts_cannot_be_compared() -> None:
    with pytest.raises(AssertionError):
        difference(tally([1.0, 2.0], [1, 2]), tally([1.0, 2.0], [2, 1]))
    with pytest.raises(AssertionError):
        difference(tally([1.0, 2.0], documents=[0, 1]), tally([1.0, 2.0], documents=[1, 1]))


@settings(deadline=None)
@given(PARTS)
def test_an_interval_holds_its_mean_and_stays_inside_what_was_measured(
    parts: list[tuple[float, int, int]],
) -> None:
    counted = tally(*map(list, zip(*parts, strict=True)))
    mean, low, high = counted.estimate()
    assert low - 1e-9 <= mean <= high + 1e-9
    means = counted.sums_P / counted.counts_P
    assert means.min() - 1e-9 <= low
    assert high <= means.max() + 1e-9


@settings(deadline=None)
@given(PARTS)
def test_the_difference_to_itself_is_nothing(parts: list[tuple[float, int, int]]) -> None:
    counted = tally(*map(list, zip(*parts, strict=True)))
    assert difference(counted, counted) == (0.0, 0.0, 0.0)


def test_an_estimate_is_written_with_its_interval_in_the_format_of_one_number() -> None:
    assert f"{Estimate(0.5, -0.25, 1.0):+.2f}" == "+0.50 (-0.25 .. +1.00)"
