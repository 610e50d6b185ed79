"""The elasticity table pools seeds, pairs rows with the baseline and marks what is better."""

import json

import numpy as np
import pytest

from benchmarks.elasticity import KS, MEASURES, Tallies, as_json, nll_table, pool
from runtime.bootstrap import Tally

DOCUMENTS_P = np.arange(10)


def tallies(nll: float, ks: tuple[int, ...] = KS) -> Tallies:
    """Ten documents of ten tokens, each a little worse than the one before."""
    sums_P = 10 * (nll + 0.1 * DOCUMENTS_P)
    tally = Tally(sums_P, np.full(10, 10), DOCUMENTS_P)
    return {k: dict.fromkeys(MEASURES, tally) for k in ks}


def test_seeds_are_pooled_into_their_mean() -> None:
    pooled = pool([tallies(3.0), tallies(4.0)])
    assert pooled[8]["nll"].mean == pytest.approx(3.5 + 0.45)
    assert pooled[8]["nll"].counts_P.tolist() == [20] * 10


def test_a_row_is_paired_with_the_baseline_and_bold_where_it_is_better() -> None:
    table = nll_table({"topk": tallies(3.0), "mmoe": tallies(2.9), "topk-4": tallies(3.1, (4,))})
    header, _rule, *rows = table.splitlines()
    assert header == "| NLL, nats/token, k' | topk | mmoe | specialist |"
    assert rows[0] == "| 1 | 3.4500 | **-0.1000 (-0.1000 .. -0.1000)** |  |"
    assert rows[KS.index(4)].endswith("| +0.1000 (+0.1000 .. +0.1000) |")
    assert len(rows) == len(KS)


def test_the_figures_keep_every_seed_apart() -> None:
    figures = json.loads(json.dumps(as_json({"topk": [tallies(3.0), tallies(4.0)]})))
    row = figures["topk"]["8"]["nll"]
    assert row["by_seed"] == pytest.approx([3.45, 4.45])
    assert row["mean"] == pytest.approx(3.95)
    assert row["low"] < row["mean"] < row["high"]
