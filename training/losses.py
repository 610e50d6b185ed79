"""Next-token loss, distillation and router losses.

Shapes: B, S batch and window, T tokens, V vocabulary, E experts.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional

ROWS_AT_ONCE = 512


def next_token_loss(logits_BSV: torch.Tensor, ids_BS: torch.Tensor) -> torch.Tensor:
    """Mean nats of every token but the first of its window."""
    logits_TV = logits_BSV[:, :-1].flatten(0, 1)
    return _MeanByRows.apply(logits_TV, ids_BS[:, 1:].flatten(), _cross_entropy)


def distillation_loss(logits_BSV: torch.Tensor, teacher_BSV: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher || model) in nats over all tokens; no gradient reaches the teacher."""
    return _MeanByRows.apply(logits_BSV.flatten(0, 1), teacher_BSV.flatten(0, 1), _divergence)


class _MeanByRows(torch.autograd.Function):
    """A loss in fp32, some rows at a time: no fp32 copy of all logits is ever made.

    `loss_of` takes log probabilities, which it may overwrite, and the rows' targets; it gives the
    sum of their losses and its gradient with respect to the logits.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        logits_TV: torch.Tensor,
        target: torch.Tensor,
        loss_of: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        total = torch.zeros((), device=logits_TV.device)
        gradient_TV = torch.empty_like(logits_TV)
        for start in range(0, len(logits_TV), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_p = functional.log_softmax(logits_TV[rows].float(), dim=-1)
            loss, gradient_TV[rows] = loss_of(log_p, target[rows])
            total += loss
        ctx.save_for_backward(gradient_TV)
        return total / len(logits_TV)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, d_loss: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (gradient_TV,) = ctx.saved_tensors
        return gradient_TV * (d_loss / len(gradient_TV)).to(gradient_TV.dtype), None, None


def _cross_entropy(
    log_p_TV: torch.Tensor, target_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    target_T1 = target_T[:, None]
    loss = -log_p_TV.gather(1, target_T1).sum()
    ones = torch.ones_like(target_T1, dtype=log_p_TV.dtype)
    return loss, log_p_TV.exp_().scatter_add_(1, target_T1, -ones)


def _divergence(
    log_p_TV: torch.Tensor, teacher_TV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_q_TV = functional.log_softmax(teacher_TV.float(), dim=-1)
    q_TV = log_q_TV.exp()
    loss = (q_TV * log_q_TV.sub_(log_p_TV)).sum()
    return loss, log_p_TV.exp_().sub_(q_TV)


def balance_loss(logits_TE: torch.Tensor, k: int) -> torch.Tensor:
    """Load balancing over the batch: E sum_e f_e P_e, k when all experts are used alike.

    f_e: share of tokens with e among their top k, P_e: mean router probability of e. The form of
    transformers' `load_balancing_loss_func`, but of one layer: averaged over layers, one layer's
    imbalance could hide another's. Source: Switch Transformer, arXiv 2101.03961, equation 4.
    """
    probabilities_TE = logits_TE.float().softmax(-1)
    index_TK = logits_TE.detach().topk(k, dim=-1).indices
    num_tokens, num_experts = logits_TE.shape
    share_E = torch.bincount(index_TK.flatten(), minlength=num_experts) / num_tokens
    return num_experts * (share_E * probabilities_TE.mean(0)).sum()


def hierarchical_router_loss(logits_TE: torch.Tensor) -> torch.Tensor:
    """EMoE's L_HR = -KL(q || uniform), averaged over tokens; 0 for a router without opinion.

    As KL(q || uniform) = log E - H(q), this is H(q) - log E: it sharpens every token's ranking,
    against the balance loss, which evens out the batch. Its gradient with respect to logit j is
    -q_j (log q_j + H(q)). Source: arXiv 2509.21892.
    """
    log_q_TE = functional.log_softmax(logits_TE.float(), dim=-1)
    entropy_T = -(log_q_TE.exp() * log_q_TE).sum(-1)
    return (entropy_T - math.log(logits_TE.shape[-1])).mean()
