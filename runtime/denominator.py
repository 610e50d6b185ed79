"""What the weights of the selected experts are divided by once more run than in training.

A router that renormalises divides them by their sum, S(k'): every expert beyond the trained k takes
weight from those before it. Anchored, they are divided by S(k): the best k keep the weights they
were trained with, and the others add to them (arXiv 2609.04575). Which of the two is better depends
on the weights; `python -m benchmarks.renormalisation` measures it. A checkpoint says it in its
config.json, `"kprime": {"above_k": "anchored"}`; without a word its router's own rule holds.

Shapes: T tokens, K experts selected for each.
"""

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import nn
from transformers import PreTrainedConfig

from runtime.elastic import ExpertDial, MoeLayer, NotElasticError

CONFIG_KEY, RULE_KEY = "kprime", "above_k"


class AboveK(StrEnum):
    """The rule above the trained k; at it and below, the router's own always holds."""

    RENORMALISED = "renormalised"
    ANCHORED = "anchored"


def rule_of(config: PreTrainedConfig) -> AboveK:
    """What the checkpoint says. Raises ValueError, naming the place, for what is not accepted."""
    ours = getattr(config, CONFIG_KEY, {})
    accepted = f'accepted: {{"{RULE_KEY}": {" | ".join(AboveK)}}}'
    if not isinstance(ours, dict) or set(ours) - {RULE_KEY}:
        raise ValueError(f"config.json: {CONFIG_KEY}: {ours!r}; {accepted}")
    rule = ours.get(RULE_KEY, AboveK.RENORMALISED)
    if rule not in list(AboveK):
        raise ValueError(f"config.json: {CONFIG_KEY}.{RULE_KEY}: {rule!r}; {accepted}")
    return AboveK(rule)


def anchor(dial: ExpertDial) -> None:
    """Impose the anchored rule on every layer of the model, for good.

    Raises NotElasticError for a router that does not renormalise: its weights are anchored as it
    is.
    """
    for layer, trained_k in zip(dial.layers, dial.trained_plan, strict=True):
        if not renormalises(layer):
            raise NotElasticError(
                f"{layer.name}: its router does not renormalise; "
                f'"{RULE_KEY}": "{AboveK.ANCHORED}" does not apply'
            )
        layer.experts.register_forward_pre_hook(_anchored_at(trained_k))


def _anchored_at(
    trained_k: int,
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...] | None]:
    def hook(
        _experts: nn.Module, args: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        hidden_TD, index_TK, weight_TK, *rest = args
        if weight_TK.shape[-1] <= trained_k:
            return None
        ours_TK = weight_TK.float()
        best_T1 = ours_TK.topk(trained_k, dim=-1).values.sum(-1, keepdim=True)
        anchored_TK = ours_TK * (ours_TK.sum(-1, keepdim=True) / best_T1)
        return (hidden_TD, index_TK, anchored_TK.to(weight_TK.dtype), *rest)

    return hook


@torch.inference_mode()
def renormalises(layer: MoeLayer, num_tokens: int = 8) -> bool:
    """Whether the router's weights add up to the same whatever its top_k: asked, not looked up."""
    width = layer.router.weight.shape[-1]
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(num_tokens, width, generator=generator).to(layer.router.weight)
    sums, trained_k = [], layer.router.top_k
    for k in (1, layer.num_experts):
        layer.router.top_k = k
        _logits, weight_TK, _index = layer.router(hidden_TD)
        sums.append(weight_TK.float().sum(-1))
    layer.router.top_k = trained_k
    return torch.allclose(sums[0], sums[1], rtol=1e-2)
