"""A checkpoint and its twin are compared on the same parts, each also with its own full k'."""

import numpy as np
import pytest

from benchmarks.twin import compare
from runtime.bootstrap import Tally


def tallies(by_k: dict[int, float]) -> dict[int, dict[str, Tally]]:
    """Ten documents of ten tokens, all alike but for a slope that both models share."""
    documents_P = np.arange(10)
    return {
        k: {"nll": Tally(10 * (nll + 0.1 * documents_P), np.full(10, 10), documents_P)}
        for k, nll in by_k.items()
    }


def test_what_both_share_leaves_no_width_in_the_paired_differences() -> None:
    rows = compare(tallies({1: 3.65, 8: 3.55}), tallies({1: 3.95, 8: 3.55}), trained_k=8)
    assert rows[8].nll.high - rows[8].nll.low > 0.1
    assert rows[8].nll_difference == pytest.approx((0, 0, 0))
    assert rows[1].nll_difference == pytest.approx((-0.3, -0.3, -0.3))


def test_the_dial_is_in_percent_of_the_own_loss_at_full_k() -> None:
    rows = compare(tallies({1: 3.75, 8: 3.55}), tallies({1: 3.95, 8: 3.55}), trained_k=8)
    assert rows[1].own == pytest.approx((5, 5, 5))
    assert rows[1].twins_own == pytest.approx((10, 10, 10))
    assert rows[8].own == pytest.approx((0, 0, 0))


def test_choices_are_compared_where_both_were_asked() -> None:
    ours, twins = tallies({8: 3.0}), tallies({8: 3.0})
    documents_P = np.arange(10)
    ours[8]["choice"] = Tally(np.full(10, 0.75), np.ones(10), documents_P)
    twins[8]["choice"] = Tally(np.full(10, 0.5), np.ones(10), documents_P)
    assert compare(ours, twins, 8)[8].choice_difference == pytest.approx((0.25, 0.25, 0.25))
    assert compare(tallies({8: 3.0}), twins, 8)[8].choice_difference is None
