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
    ranked_TK, order_TK = weight_TK.float().sort(dim=-1, descending=True, stable=True)
    budget_T1 = budget_T[:, None]
    kept_TK = torch.arange(index_TK.shape[1], device=index_TK.device) < budget_T1
    return keep(
        index_TK.gather(1, order_TK), ranked_TK, kept_TK, num_experts, rule, weight_TK.dtype
    )


def keep(
    index_TK: torch.Tensor,
    ranked_TK: torch.Tensor,
    kept_TK: torch.Tensor,
    num_experts: int,
    rule: Rule,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slots of `kept_TK` under the model's rule. Slots are in the order of their weight."""
    index_TK = index_TK.masked_fill(~kept_TK, num_experts)
    weight_TK = ranked_TK.masked_fill(~kept_TK, 0)
    if rule.renormalises:
        divisor_T1 = _first(weight_TK, rule.anchor_k).sum(-1, keepdim=True).clamp_min(SMALLEST)
        weight_TK = weight_TK * (ranked_TK.sum(-1, keepdim=True) / divisor_T1)
    return index_TK, weight_TK.to(dtype)


def anchor(weight_TK: torch.Tensor, k: int) -> torch.Tensor:
    """Weights of a router that renormalised over more than the trained k, as if over the k best."""
    ours_TK = weight_TK.float()
    best_T1 = ours_TK.topk(k, dim=-1).values.sum(-1, keepdim=True).clamp_min(SMALLEST)
    return (ours_TK * (ours_TK.sum(-1, keepdim=True) / best_T1)).to(weight_TK.dtype)


def _first(weight_TK: torch.Tensor, k: int | None) -> torch.Tensor:
    return weight_TK if k is None else weight_TK[:, :k]
