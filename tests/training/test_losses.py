"""The losses equal their formulas, and so do their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from training.losses import (
    ROWS_AT_ONCE,
    balance_loss,
    distillation_loss,
    hierarchical_router_loss,
    next_token_loss,
)


def logits(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).requires_grad_()


@pytest.mark.parametrize("window", [5, ROWS_AT_ONCE + 3])
def test_the_next_token_loss_and_its_gradient_are_those_of_cross_entropy(window: int) -> None:
    ours_BSV, theirs_BSV = logits(1, 2, window, 11), logits(1, 2, window, 11)
    ids_BS = torch.randint(11, (2, window), generator=torch.Generator().manual_seed(2))
    ours = next_token_loss(ours_BSV, ids_BS)
    theirs = functional.cross_entropy(theirs_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten())
    (3 * ours).backward()
    (3 * theirs).backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.allclose(ours_BSV.grad, theirs_BSV.grad, atol=1e-8)
    assert not ours_BSV.grad[:, -1].any()  # the last token has no next


@pytest.mark.parametrize("window", [5, ROWS_AT_ONCE + 3])
def test_the_distillation_loss_and_its_gradient_are_those_of_the_divergence(window: int) -> None:
    ours_BSV, theirs_BSV = logits(1, 2, window, 11), logits(1, 2, window, 11)
    teacher_BSV = logits(2, 2, window, 11)
    ours = distillation_loss(ours_BSV, teacher_BSV)
    theirs = functional.kl_div(
        theirs_BSV.log_softmax(-1).flatten(0, 1),
        teacher_BSV.detach().softmax(-1).flatten(0, 1),
        reduction="batchmean",
    )
    (3 * ours).backward()
    (3 * theirs).backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert torch.allclose(ours_BSV.grad, theirs_BSV.grad, atol=1e-8)
    assert teacher_BSV.grad is None


def test_a_model_learns_nothing_from_its_equal() -> None:
    student_BSV = logits(1, 2, 5, 11)
    loss = distillation_loss(student_BSV, student_BSV.detach())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert torch.allclose(student_BSV.grad, torch.zeros(()), atol=1e-8)


def test_a_router_without_opinion_has_no_router_loss() -> None:
    assert hierarchical_router_loss(torch.zeros(3, 16)).item() == pytest.approx(0.0, abs=1e-6)


def test_a_router_that_knows_one_expert_has_the_lowest_router_loss() -> None:
    certain = 100.0 * functional.one_hot(torch.tensor([0, 3]), 16)
    assert hierarchical_router_loss(certain).item() == pytest.approx(-math.log(16))


def test_the_router_loss_is_the_negative_divergence_from_uniform() -> None:
    logits_TE = logits(3, 5, 8)
    q_TE = logits_TE.detach().softmax(-1)
    divergence_T = (q_TE * (q_TE * 8).log()).sum(-1)
    loss = hierarchical_router_loss(logits_TE)
    assert loss.item() == pytest.approx(-divergence_T.mean().item(), rel=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 64), st.floats(0.01, 5))
def test_the_gradient_of_the_router_loss_is_the_closed_form(
    seed: int, num_experts: int, scale: float
) -> None:
    """dL/dh_j = -q_j (log q_j + H(q)) for one token; descending makes q sharper."""
    logits_TE = logits(seed, 1, num_experts, scale=scale).double().detach().requires_grad_()
    hierarchical_router_loss(logits_TE).backward()
    log_q_E = functional.log_softmax(logits_TE.detach()[0], dim=-1)
    q_E = log_q_E.exp()
    entropy = -(q_E * log_q_E).sum()
    assert torch.allclose(logits_TE.grad[0], -q_E * (log_q_E + entropy), atol=1e-6)


def test_the_balance_loss_is_k_when_every_expert_is_used_alike() -> None:
    # Eight tokens, each of which likes two neighbours of a ring of eight best.
    ring_TE = sum(functional.one_hot((torch.arange(8) + shift) % 8, 8) for shift in (0, 1))
    assert balance_loss(5.0 * ring_TE, k=2).item() == pytest.approx(2.0)


def test_the_balance_loss_is_number_of_experts_when_all_tokens_pick_one() -> None:
    assert balance_loss(100.0 * functional.one_hot(torch.zeros(9, dtype=int), 8), k=1).item() == (
        pytest.approx(8.0)
    )


def test_the_balance_loss_pulls_probability_from_the_expert_that_is_used_most() -> None:
    logits_TE = torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 4, requires_grad=True)
    balance_loss(logits_TE, k=1).backward()
    assert (logits_TE.grad[:, 0] > 0).all()
    assert (logits_TE.grad[:, 1:] < 0).all()
