"""Documents, their windows, and the measures against models whose answers are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bootstrap import Tally
from runtime.checkpoint import Checkpoint
from runtime.elastic import ExpertDial
from runtime.evaluate import (
    Document,
    TextError,
    Windows,
    cut_windows,
    evaluate,
    evaluate_answers,
    read_documents,
    retention,
    score,
)
from runtime.experts import Backend
from tests.runtime.formula import FormulaModel, checkpoint, counting
from tests.runtime.tiny import tiny_model


def cut(text: str, window: int, limit: int | None = None) -> Windows:
    """The windows of a text, one token a byte."""
    return cut_windows(read_documents(checkpoint(), text), window, limit)


def texts(windows: Windows) -> list[str]:
    return [bytes(ids).decode() for ids in windows.ids]


def windows(*rows: list[int]) -> Windows:
    """Each of a document of its own."""
    return Windows(rows, np.arange(len(rows)), num_bytes=sum(len(row) - 1 for row in rows))


def nll(*means: float) -> Tally:
    """Ten tokens a window, each window a document."""
    return Tally(10 * np.array(means), np.full(len(means), 10), np.arange(len(means)))


def test_windows_follow_each_other_and_leave_out_the_rest() -> None:
    assert texts(cut("abcdefgh", window=3)) == ["abc", "def"]


def test_windows_stay_inside_their_documents() -> None:
    found = cut("abcd\fefghij\fk\f\flm", window=2)
    assert texts(found) == ["ab", "cd", "ef", "gh", "ij", "lm"]
    assert found.documents_W.tolist() == [0, 0, 1, 1, 1, 4]
    assert found.num_documents == 3
    assert found.num_tokens == 6


@pytest.mark.parametrize(
    ("num_tokens", "lengths"),
    [
        (31, []),
        (32, [32]),
        (100, [100]),
        (131, [100]),
        (132, [100, 32]),
        (300, [100, 100, 100]),
        (399, [100, 100, 100, 99]),
    ],
)
def test_a_tail_is_a_window_if_it_has_enough_tokens(num_tokens: int, lengths: list[int]) -> None:
    found = cut("a" * 200 + "\f" + "b" * num_tokens, window=100)
    assert [len(ids) for ids in found.ids] == [100, 100, *lengths]


def test_a_text_of_one_window_is_enough() -> None:
    assert texts(cut("abc", window=3)) == ["abc"]


@pytest.mark.parametrize(
    ("text", "window", "message"),
    [
        ("", 3, "the longest document has 0 tokens; a window takes 3"),
        ("ab", 3, "the longest document has 2 tokens; a window takes 3"),
        ("a\fbc\fd", 3, "the longest document has 2 tokens; a window takes 3"),
        ("a" * 31, 512, "the longest document has 31 tokens; a window takes 32"),
    ],
)
def test_a_text_without_a_window_is_refused_with_both_lengths(
    text: str, window: int, message: str
) -> None:
    with pytest.raises(TextError, match=message):
        cut(text, window)


def test_a_limit_spreads_the_windows_from_the_first_to_the_last() -> None:
    found = cut("abcdef\fghij", window=2, limit=3)
    assert texts(found) == ["ab", "ef", "ij"]
    assert found.documents_W.tolist() == [0, 0, 1]


@pytest.mark.parametrize("limit", [None, 4, 5])
def test_a_limit_that_is_no_limit_takes_all(limit: int | None) -> None:
    assert len(cut("abcdefgh", window=2, limit=limit).ids) == 4


def test_bytes_are_those_of_the_tokens_that_are_predicted() -> None:
    """Of "thé!" the t is given, of "aéro" the a; bytes are counted, not characters."""
    assert cut("thé!\faéro", window=5).num_bytes == 4 + 4
    assert cut("thé!\faéro", window=5).bytes_per_token == 1.0
    assert cut("thé!\faéro", window=5, limit=1).num_bytes == 4


def test_a_token_may_be_many_bytes() -> None:
    """Windows of (ab, cde) and (f, ghi), then a rest."""
    document = Document("abcdefghij", ids=[7, 7, 7, 7, 7], ends=[2, 5, 6, 9, 10])
    found = cut_windows([document], window=2)
    assert found.num_bytes == 3 + 3
    assert found.bytes_per_token == 3.0


@settings(deadline=None)
@given(st.lists(st.text("ab\f", max_size=200), max_size=5), st.integers(2, 80))
def test_windows_are_disjoint_pieces_of_their_documents(parts: list[str], window: int) -> None:
    text = "\f".join([*parts, "c" * window])
    found = cut(text, window)
    documents = text.split("\f")
    for number in set(found.documents_W.tolist()):
        mine = [
            piece
            for piece, owner in zip(texts(found), found.documents_W, strict=True)
            if owner == number
        ]
        assert documents[number].startswith("".join(mine))
        assert len(documents[number]) - len("".join(mine)) < min(window, 32)
        assert all(len(piece) == window for piece in mine[:-1])
        assert min(window, 32) <= len(mine[-1]) <= window


def test_a_model_that_knows_nothing_loses_the_log_of_the_vocabulary() -> None:
    measured = evaluate(checkpoint(), windows([5, 0, 7, 0, 9], [5, 6, 7, 8, 9]), [1])
    assert measured.nll.sums_P == pytest.approx([4 * math.log(256), 4 * math.log(256)])
    assert measured.nll.mean == pytest.approx(math.log(256))
    assert measured.accuracy.sums_P.tolist() == [2, 0]
    assert measured.accuracy.mean == 0.25


def test_a_model_that_knows_the_next_token_loses_nothing() -> None:
    """It is asked for what follows each token, the last one excepted."""
    model = FormulaModel(counting)
    measured = evaluate(checkpoint(model), windows([1, 2, 3, 4], [1, 2, 3, 9]), [1])
    assert measured.accuracy.sums_P.tolist() == [3, 2]
    assert measured.nll.sums_P == pytest.approx([0, 100])


def test_every_token_weighs_the_same_in_long_and_short_windows() -> None:
    measured = evaluate(checkpoint(FormulaModel(counting)), windows([1, 2, 3, 4, 5], [7, 1]), [1])
    assert measured.nll.counts_P.tolist() == [4, 1]
    assert measured.accuracy.mean == 0.8
    assert measured.nll.mean == pytest.approx(20)


def test_every_window_runs_under_the_plan_and_its_tokens_are_announced() -> None:
    announced: list[int] = []
    tiny = checkpoint()
    rows = windows([1, 2], [3, 4, 5], [5, 6])
    evaluate(tiny, rows, [2, 7], announced.append, batch_tokens=4)
    assert tiny.dial.plans == [[2, 7]]  # type: ignore[attr-defined]
    assert announced == [2, 2]
    assert sum(announced) == rows.num_tokens


def test_rows_of_about_one_length_share_a_batch_and_keep_their_order() -> None:
    model = FormulaModel(counting)
    rows = [[1, 2], [1, 2, 3, 9], [1, 9], [1, 2, 9]]
    scores = score(checkpoint(model), rows, [1], batch_tokens=9)
    assert model.shapes == [(2, 4), (2, 2)]
    assert [hits_T.tolist() for _, hits_T in scores] == [
        [True],
        [True, True, False],
        [False],
        [True, False],
    ]


def test_a_row_longer_than_a_batch_runs_alone() -> None:
    model = FormulaModel(counting)
    score(checkpoint(model), [[1, 2, 3], [4, 5, 6]], [1], batch_tokens=2)
    assert model.shapes == [(1, 3), (1, 3)]


def test_a_real_model_measures_the_same_in_any_batch() -> None:
    model = tiny_model()
    real = checkpoint(model, dial=ExpertDial(model))
    text = "It was the best of times, it was the worst of times. " * 4
    found = cut_windows(read_documents(real, f"{text}\f{text[7:100]}"), 60)
    assert sorted({len(ids) for ids in found.ids}) == [32, 33, 60]
    alone = evaluate(real, found, [3, 1], batch_tokens=1)
    for batch_tokens in (120, 180, 4096):
        together = evaluate(real, found, [3, 1], batch_tokens=batch_tokens)
        assert together.nll.sums_P == pytest.approx(alone.nll.sums_P, rel=1e-5)
        assert together.accuracy.sums_P.tolist() == alone.accuracy.sums_P.tolist()


def test_a_real_model_is_better_at_some_plans_than_at_others_and_stays_as_it_was() -> None:
    model = tiny_model()
    real = checkpoint(model, dial=ExpertDial(model))
    found = cut_windows(
        read_documents(real, "It was the best of times, it was the worst of times."), 16
    )
    full = evaluate(real, found, [4, 4])
    assert evaluate(real, found, [4, 1]).nll.mean != full.nll.mean
    assert real.dial.plan == (4, 4)
    assert evaluate(real, found, [4, 4]).nll.sums_P.tolist() == full.nll.sums_P.tolist()


def test_a_plan_as_good_as_full_retains_everything() -> None:
    assert retention(nll(2.0, 5.0), nll(2.0, 5.0)) == (1.0, 1.0, 1.0)


def test_a_bit_more_in_every_window_halves_the_quality() -> None:
    """Paired: the windows differ widely from each other, the plans by the same everywhere."""
    full = nll(1.0, 5.0, 9.0)
    plan = nll(*(each + math.log(2) for each in (1.0, 5.0, 9.0)))
    assert retention(plan, full) == pytest.approx((0.5, 0.5, 0.5))


def test_a_plan_better_than_full_retains_more_than_all() -> None:
    kept, low, high = retention(nll(1.0, 1.0, 1.0), nll(1.1, 1.2, 1.3))
    assert kept == pytest.approx(math.exp(0.2))
    assert math.exp(0.1) - 1e-9 <= low < kept < high <= math.exp(0.3) + 1e-9


def tiny_checkpoint() -> Checkpoint:
    model = tiny_model()
    dial = ExpertDial(model)
    dial.install(Backend.GROUPED_MM, torch.arange(16).reshape(2, 8))
    return checkpoint(model, dial=dial)


ROWS = windows(list(range(3, 25)), list(range(40, 51)), [7, 7, 9])


def test_after_prompts_at_the_plan_of_answers_they_are_as_in_the_whole_window() -> None:
    real = tiny_checkpoint()
    after = evaluate_answers(real, ROWS, [3, 3], [3, 3])
    whole = score(real, ROWS.ids, [3, 3])
    assert after.counts_P.tolist() == [11, 5, 1]
    expected = [nats_T[len(nats_T) // 2 :].sum() for nats_T, _ in whole]
    assert after.sums_P == pytest.approx(expected, rel=1e-5)


def test_lower_prompts_change_the_answers_and_leave_the_dial_as_it_was() -> None:
    real = tiny_checkpoint()
    lower = evaluate_answers(real, ROWS, [4, 4], [1, 1])
    assert not np.allclose(lower.sums_P, evaluate_answers(real, ROWS, [4, 4], [4, 4]).sums_P)
    assert real.dial.plan == (4, 4)
    assert all(elastic.budget_T is None for elastic in real.dial.elastic)


def test_the_last_token_of_a_prompt_runs_with_the_answer() -> None:
    """A prompt of one token has no other: nothing of the window runs lower."""
    real = tiny_checkpoint()
    pair = windows([7, 9])
    alone = evaluate(real, pair, [4, 4]).nll
    assert evaluate_answers(real, pair, [4, 4], [1, 1]).sums_P == pytest.approx(alone.sums_P)


def test_rows_of_different_lengths_measure_after_prompts_as_each_alone() -> None:
    real = tiny_checkpoint()
    together = evaluate_answers(real, ROWS, [4, 4], [1, 2]).sums_P
    alone = [evaluate_answers(real, windows(ids), [4, 4], [1, 2]).sums_P[0] for ids in ROWS.ids]
    assert together == pytest.approx(alone, rel=1e-5)
