"""Next-token loss, distillation and router losses.

Shapes: B, S batch and window, T tokens, V vocabulary, E experts.
"""

import math

import torch
from torch.nn import functional

ROWS_AT_ONCE = 512


def next_token_loss(logits_BSV: torch.Tensor, ids_BS: torch.Tensor) -> torch.Tensor:
    """Mean nats of every token but the first of its window."""
    logits_TV = logits_BSV[:, :-1].flatten(0, 1)
    return _CrossEntropy.apply(logits_TV, ids_BS[:, 1:].flatten())


def distillation_loss(logits_BSV: torch.Tensor, teacher_BSV: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher || model) in nats over all tokens; no gradient reaches the teacher."""
    return _Divergence.apply(logits_BSV.flatten(0, 1), teacher_BSV.flatten(0, 1))


class _ByRows(torch.autograd.Function):
    """A loss in fp32, some rows at a time: no fp32 copy of all logits is ever made.

    The forward saves the gradient of the sum over all tokens.
    """

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, d_loss: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        (gradient_TV,) = ctx.saved_tensors
        return gradient_TV * (d_loss / len(gradient_TV)).to(gradient_TV.dtype), None


class _CrossEntropy(_ByRows):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits_TV: torch.Tensor, target_T: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=logits_TV.device)
        gradient_TV = torch.empty_like(logits_TV)
        for start in range(0, len(target_T), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_p = functional.log_softmax(logits_TV[rows].float(), dim=-1)
            target = target_T[rows, None]
            total -= log_p.gather(1, target).sum()
            ones = torch.ones_like(target, dtype=log_p.dtype)
            gradient_TV[rows] = log_p.exp_().scatter_add_(1, target, -ones)
        ctx.save_for_backward(gradient_TV)
        return total / len(target_T)


class _Divergence(_ByRows):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, logits_TV: torch.Tensor, teacher_TV: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=logits_TV.device)
        gradient_TV = torch.empty_like(logits_TV)
        for start in range(0, len(logits_TV), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_p = functional.log_softmax(logits_TV[rows].float(), dim=-1)
            log_q = functional.log_softmax(teacher_TV[rows].float(), dim=-1)
            q = log_q.exp()
            total += (q * log_q.sub_(log_p)).sum()
            gradient_TV[rows] = log_p.exp_().sub_(q)
        ctx.save_for_backward(gradient_TV)
        return total / len(logits_TV)


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
