"""The compiled choice of experts is the one in runtime/selection.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.native.library import kernels
from runtime.selection import Rule, anchor, keep_best, keep_shared

pytestmark = pytest.mark.skipif(kernels() is None, reason="needs g++ at install")
E = 16
RULES = st.builds(Rule, st.just(True), st.none() | st.integers(1, 9)) | st.just(Rule(False))


@st.composite
def routings(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct experts of each token and their weights, the best first, no two of a weight."""
    tokens, width = draw(st.integers(1, 6)), draw(st.integers(1, E))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    weight_TE = torch.rand(tokens, E) + 0.01
    weight_TK, index_TK = weight_TE.topk(width)
    return index_TK, weight_TK


def narrowed(
    index_TK: torch.Tensor,
    weight_TK: torch.Tensor,
    budget_T: torch.Tensor | None,
    cap: int,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor]:
    index_TK, weight_TK = index_TK.clone(), weight_TK.clone()
    kernels().kprime_narrow(
        index_TK.data_ptr(),
        weight_TK.data_ptr(),
        *index_TK.shape,
        None if budget_T is None else budget_T.data_ptr(),
        cap,
        E,
        rule.renormalises,
        rule.anchor_k or 0,
    )
    return index_TK, weight_TK


@given(routings(), RULES, st.data())
def test_each_token_keeps_its_budget(routing, rule: Rule, data: st.DataObject) -> None:  # noqa: ANN001
    index_TK, weight_TK = routing
    budgets = st.lists(st.integers(1, E), min_size=len(index_TK), max_size=len(index_TK))
    budget_T = torch.tensor(data.draw(budgets))
    ours = narrowed(index_TK, weight_TK, budget_T, 0, rule)
    theirs = keep_best(index_TK, weight_TK, budget_T, E, rule)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-7)


@given(routings(), RULES, st.integers(1, E), st.data())
def test_a_cap_shares_the_experts_of_most_use(routing, rule, cap, data) -> None:  # noqa: ANN001
    index_TK, weight_TK = routing
    budgets = st.lists(st.integers(1, E), min_size=len(index_TK), max_size=len(index_TK))
    budget_T = torch.tensor(data.draw(budgets))
    ours = narrowed(index_TK, weight_TK, budget_T, cap, rule)
    theirs = keep_shared(index_TK, weight_TK, budget_T, cap, E, rule)
    use_E = torch.zeros(E).index_add_(
        0,
        index_TK.flatten(),
        weight_TK.masked_fill(torch.arange(index_TK.shape[1]) >= budget_T[:, None], 0).flatten(),
    )
    if len(use_E.unique()) < E:  # equal use: either choice is right
        assert len(set(ours[0].flatten().tolist()) - {E}) <= cap + len(index_TK)
        return
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-7)


@given(routings(), RULES)
def test_without_budgets_only_an_anchor_changes_the_weights(routing, rule: Rule) -> None:  # noqa: ANN001
    index_TK, weight_TK = routing
    index, weight = narrowed(index_TK, weight_TK, None, 0, rule)
    assert torch.equal(index, index_TK)
    if rule.anchor_k is None or rule.anchor_k >= index_TK.shape[1]:
        assert torch.equal(weight, weight_TK)
    else:
        torch.testing.assert_close(weight, anchor(weight_TK, rule.anchor_k), rtol=1e-5, atol=0)
