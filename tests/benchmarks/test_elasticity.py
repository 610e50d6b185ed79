"""The elasticity table pools seeds, pairs rows with the baseline and marks what is better."""

import json

import numpy as np
import pytest

from benchmarks.elasticity import (
    KS,
    Tallies,
    as_json,
    dial_table,
    measure_table,
    pool,
    specialist_table,
)
from runtime.bootstrap import Tally

DOCUMENTS_P = np.arange(10)


def tallies(nll: float, ks: tuple[int, ...] = KS) -> Tallies:
    """Ten documents of ten tokens, each a little worse than the one before."""
    sums_P = 10 * (nll + 0.1 * DOCUMENTS_P)
    tally = Tally(sums_P, np.full(10, 10), DOCUMENTS_P)
    return {k: dict.fromkeys(("nll", "choice"), tally) for k in ks}


def test_seeds_are_pooled_into_their_mean() -> None:
    pooled = pool([tallies(3.0), tallies(4.0)])
    assert pooled[8]["nll"].mean == pytest.approx(3.5 + 0.45)
    assert pooled[8]["nll"].counts_P.tolist() == [20] * 10


def test_a_row_is_paired_with_the_baseline_and_bold_where_it_is_better() -> None:
    runs = {"topk": [tallies(3.0)], "mmoe": [tallies(2.9)], "topk-4": [tallies(3.1, (4,))]}
    table = measure_table(runs, "nll", KS, lower_is_better=True)
    header, _rule, *rows = table.splitlines()
    assert header == "| nll, k' | topk | mmoe |"
    assert rows[0] == "| 1 | 3.4500 | **-0.1000 (-0.1000 .. -0.1000)** |"
    assert len(rows) == len(KS)
    of_choices = measure_table(runs, "choice", (1, 4)).splitlines()[2:]
    assert of_choices[0] == "| 1 | 3.4500 | -0.1000 (-0.1000 .. -0.1000) |"
    more_solved = {"topk": [tallies(3.0)], "mmoe": [tallies(3.1)]}
    of_choices = measure_table(more_solved, "choice", (1, 4)).splitlines()[2:]
    assert of_choices[1].endswith("| **+0.1000 (+0.1000 .. +0.1000)** |")


def test_a_row_that_is_better_with_some_seeds_only_is_not_bold() -> None:
    runs = {"topk": [tallies(3.0), tallies(3.0)], "mmoe": [tallies(2.8), tallies(3.1)]}
    rows = measure_table(runs, "nll", (8,), lower_is_better=True).splitlines()
    assert rows[-1] == "| 8 | 3.4500 | -0.0500 (-0.0500 .. -0.0500) |"


def test_a_method_is_paired_with_the_model_trained_at_one_k() -> None:
    runs = {"topk": [tallies(3.2)], "mmoe": [tallies(3.0)], "topk-4": [tallies(3.1, (4,))]}
    header, _rule, *rows = specialist_table(runs).splitlines()
    assert header == "| nll less the specialist's, k' | its own | topk | mmoe |"
    assert rows == [
        "| 4 | 3.5500 | +0.1000 (+0.1000 .. +0.1000) | **-0.1000 (-0.1000 .. -0.1000)** |"
    ]


def test_the_figures_keep_every_seed_apart() -> None:
    figures = json.loads(json.dumps(as_json({"topk": [tallies(3.0), tallies(4.0)]})))
    row = figures["topk"]["8"]["nll"]
    assert row["by_seed"] == pytest.approx([3.45, 4.45])
    assert row["mean"] == pytest.approx(3.95)
    assert row["low"] < row["mean"] < row["high"]


def test_the_dial_of_a_method_is_relative_to_its_own_full_k_with_the_range_of_seeds() -> None:
    flat, steep = tallies(2.55), tallies(3.55)  # 0.45 more on average: 3 and 4
    steep[1] = {"nll": tallies(4.05)[1]["nll"]}
    lines = dial_table({"topk": [flat, steep]}).splitlines()
    assert lines[0] == "| nll over that at 8, %, k' | topk |"
    assert lines[2] == "| 1 | +6.25 (+0.00 .. +12.50) |"
    assert lines[-1] == "| 24 | +0.00 (+0.00 .. +0.00) |"
