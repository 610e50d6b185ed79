"""The choice task: where its items come from, and who solves them."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.choices import Item, choose, make_items, num_tokens
from runtime.elastic import ExpertDial
from runtime.evaluate import Document, TextError
from tests.runtime.formula import FormulaModel, checkpoint, counting
from tests.runtime.tiny import VOCAB, tiny_model

LEAST = 96 + 4 * 24


def document(num_tokens: int) -> Document:
    """Each token is its own place."""
    return Document("", range(num_tokens), range(num_tokens))


def item(*continuations: list[int], document: int = 0) -> Item:
    """After a context of 96 zeros."""
    return Item(document, [0] * 96, continuations)


def run_of(start: int) -> list[int]:
    return list(range(start, start + 24))


def test_the_truth_comes_first_and_follows_the_context() -> None:
    for each in make_items([document(1000)], 30):
        assert len(each.context) == 96
        assert [len(continuation) for continuation in each.continuations] == [24] * 4
        follows = each.context[0] + 96
        assert each.rows[0] == list(range(each.context[0], follows + 24))


@settings(deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=12), st.integers(1, 100), st.integers(0))
def test_wrong_continuations_share_no_token_with_context_truth_or_each_other(
    lengths: list[int], num_items: int, seed: int
) -> None:
    documents = [document(length) for length in [*lengths, LEAST]]
    for each in make_items(documents, num_items, seed):
        places = list(each.context) + [place for c in each.continuations for place in c]
        assert len(set(places)) == LEAST
        assert max(places) < len(documents[each.document].ids)


def test_items_are_spread_evenly_over_the_documents() -> None:
    documents = [document(length) for length in (3000, 500, 800)]
    assert Counter(each.document for each in make_items(documents, 12)) == {0: 4, 1: 4, 2: 4}
    assert sorted(Counter(each.document for each in make_items(documents, 4)).values()) == [1, 1, 2]


def test_a_document_that_has_no_more_items_leaves_the_rest_to_the_others() -> None:
    """The shortest that will do has four places for a truth, those after the first context."""
    counts = Counter(each.document for each in make_items([document(LEAST), document(3000)], 40))
    assert counts[0] == 4
    assert counts[1] == 36


def test_no_truth_is_asked_for_twice() -> None:
    items = make_items([document(600)], 1000)
    assert len({each.continuations[0][0] for each in items}) == len(items) == 600 // 24 - 4


def test_documents_too_short_for_three_wrong_continuations_give_none() -> None:
    items = make_items([document(LEAST - 1), document(500), document(0)], 50)
    assert {each.document for each in items} == {1}


@pytest.mark.parametrize("length", [0, 100, LEAST - 1])
def test_a_text_without_an_item_is_refused_with_what_one_takes(length: int) -> None:
    message = f"the longest document has {length} tokens; a choice item takes 96 of context and 4"
    with pytest.raises(TextError, match=message):
        make_items([document(0), document(length)], 200)


def test_the_same_seed_makes_the_same_items_and_fewer_are_the_first_of_more() -> None:
    documents = [document(length) for length in (3000, 500, 800)]
    items = make_items(documents, 50, seed=1)
    assert make_items(documents, 50, seed=1) == items
    assert make_items(documents, 20, seed=1) == items[:20]
    assert make_items(documents, 50, seed=2) != items


def test_who_knows_what_follows_solves_every_item() -> None:
    """The model counts; only the truth goes on from the context."""
    documents = [document(256)] * 9
    solved = choose(checkpoint(FormulaModel(counting)), make_items(documents, 18), [1])
    assert solved.mean == 1.0
    assert solved.sums_P.tolist() == [1.0] * 18
    assert sorted(solved.documents_P.tolist()) == sorted([*range(9)] * 2)


def test_who_knows_nothing_solves_as_many_as_a_guess() -> None:
    """All four are equally likely: none is preferred for coming first."""
    assert choose(checkpoint(), make_items([document(256)], 4), [1]).mean == 0.25


def test_the_lowest_nll_wins_and_the_context_counts_for_nothing() -> None:
    """A break in counting costs 100 nats; all four begin with one, after the context."""
    broken = [*range(30, 42), *range(60, 72)]
    items = [
        item(run_of(50), broken, broken, broken, document=3),
        item(broken, run_of(50), broken, broken, document=5),
        item(run_of(50), run_of(90), broken, broken, document=5),
    ]
    solved = choose(checkpoint(FormulaModel(counting)), items, [1])
    assert solved.sums_P.tolist() == [1.0, 0.0, 0.5]
    assert solved.counts_P.tolist() == [1, 1, 1]
    assert solved.documents_P.tolist() == [3, 5, 5]


def test_items_run_under_the_plan_and_their_tokens_are_announced() -> None:
    announced: list[int] = []
    tiny = checkpoint()
    items = make_items([document(256)], 3)
    choose(tiny, items, [2, 7], announced.append)
    assert tiny.dial.plans == [[2, 7]]  # type: ignore[attr-defined]
    assert sum(announced) == num_tokens(items) == 3 * 4 * 119


def test_a_real_model_solves_what_it_wrote_itself() -> None:
    """Greedy text is what the model holds most likely after its context."""
    model = tiny_model()
    written = []
    for seed in range(3):
        ids_1S = torch.tensor(np.random.default_rng(seed).integers(0, VOCAB, (1, 96)))
        ids_S = model.generate(ids_1S, max_new_tokens=120, do_sample=False)[0].tolist()
        others = [ids_S[start : start + 24] for start in (120, 144, 168)]
        written.append(Item(seed, ids_S[:96], [ids_S[96:120], *others]))
    assert choose(checkpoint(model, dial=ExpertDial(model)), written, [4, 4]).mean == 1.0
