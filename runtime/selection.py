"""Which of its router's choices each token runs, and with what weights.

Shapes are fixed by the router's width and nothing is read back from the device, so that one CUDA
graph, captured at the widest k', replays under every budget. (There is no GPU in the tests: they
run the same functions on the CPU, and on torch's meta device, which refuses to be read.)

Shapes: T tokens, K experts that the router selected, E experts, G groups of tokens.
"""

from dataclasses import dataclass

import torch

SMALLEST = torch.finfo(torch.float32).tiny  # a divisor, where a router gave nothing any weight


@dataclass(frozen=True, slots=True)
class Rule:
    """How a model weighs a selection narrower or wider than the trained k.

    A router that renormalises makes the weights of what it selected add up to a constant, whatever
    their number. Anchored at k, experts beyond the k best add to it instead: they take no weight
    from those the model was trained with (arXiv 2609.04575).
    """

    renormalises: bool
    anchor_k: int | None = None


def keep_best(
    index_TK: torch.Tensor,
    weight_TK: torch.Tensor,
    budget_T: torch.Tensor,
    num_experts: int,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's `budget_T` best by weight; the id E, which costs nothing, in the other slots.

    By weight, since some routers give their selection in no order; of equals the first.
    """
    index_TK, ranked_TK = rank(index_TK, weight_TK)
    kept_TK = _ranks(index_TK) < budget_T[:, None]
    return _keep(index_TK, ranked_TK, kept_TK, num_experts, rule, weight_TK.dtype)


def keep_shared(
    index_TK: torch.Tensor,
    weight_TK: torch.Tensor,
    budget_T: torch.Tensor,
    cap: int,
    num_experts: int,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's `budget_T` best among the `cap` experts that serve the whole batch best.

    An expert's use to the batch is the weight that it has among the tokens' own best (XShare, arXiv
    2602.07265). A token's very best always runs, so there may be more experts than the cap. Takes
    the router's ranking of all experts, not only of the best k'.
    """
    index_TK, ranked_TK = rank(index_TK, weight_TK)
    own_TK = _ranks(index_TK) < budget_T[:, None]
    use_E = torch.zeros(num_experts, device=index_TK.device)
    use_E.index_add_(0, index_TK.flatten(), ranked_TK.masked_fill(~own_TK, 0).flatten())
    shared_E = torch.zeros(num_experts, dtype=torch.bool, device=index_TK.device)
    shared_E[use_E.topk(min(cap, num_experts)).indices] = True
    shared_E[index_TK[:, 0]] = True
    shared_TK = shared_E[index_TK]
    kept_TK = shared_TK & (shared_TK.cumsum(-1) <= budget_T[:, None])
    return _keep(index_TK, ranked_TK, kept_TK, num_experts, rule, weight_TK.dtype)


def anchor(weight_TK: torch.Tensor, k: int) -> torch.Tensor:
    """Weights of a router that renormalised over more than the trained k, as if over the k best."""
    ours_TK = weight_TK.float()
    best_T1 = ours_TK.topk(k, dim=-1).values.sum(-1, keepdim=True).clamp_min(SMALLEST)
    return (ours_TK * (ours_TK.sum(-1, keepdim=True) / best_T1)).to(weight_TK.dtype)


def rank(index_TK: torch.Tensor, weight_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts and weights, the heaviest first."""
    ranked_TK, order_TK = weight_TK.float().sort(dim=-1, descending=True, stable=True)
    return index_TK.gather(1, order_TK), ranked_TK


def _ranks(index_TK: torch.Tensor) -> torch.Tensor:
    return torch.arange(index_TK.shape[1], device=index_TK.device)


def _keep(
    index_TK: torch.Tensor,
    ranked_TK: torch.Tensor,
    kept_TK: torch.Tensor,
    num_experts: int,
    rule: Rule,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slots of `kept_TK` alone, weighed by the model's rule."""
    index_TK = index_TK.masked_fill(~kept_TK, num_experts)
    weight_TK = ranked_TK.masked_fill(~kept_TK, 0)
    if rule.renormalises:
        counted_TK = kept_TK
        if rule.anchor_k is not None:
            counted_TK = kept_TK & (kept_TK.cumsum(-1) <= rule.anchor_k)
        divisor_T1 = ranked_TK.masked_fill(~counted_TK, 0).sum(-1, keepdim=True)
        whole_T1 = ranked_TK.sum(-1, keepdim=True)
        weight_TK = weight_TK * (whole_T1 / divisor_T1.clamp_min(SMALLEST))
    return index_TK, weight_TK.to(dtype)
