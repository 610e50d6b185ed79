"""What the weights of the selected experts are divided by once more run than in training.

A router that renormalises divides them by their sum, S(k'): every expert beyond the trained k takes
weight from those before it. Anchored, they are divided by S(k): the best k keep the weights they
were trained with, and the others add to them (arXiv 2609.04575). Which of the two is better depends
on the weights; `python -m benchmarks.renormalisation` measures it. A checkpoint says it in its
config.json, `"kprime": {"above_k": "anchored"}`; without a word its router's own rule holds.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import nn
from transformers import PreTrainedConfig

from runtime.moe_layers import MoeLayer, NotElasticError, renormalising
from runtime.selection import Rule

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


def rules(
    model: nn.Module, layers: Sequence[MoeLayer], input_ids_BS: torch.Tensor, above_k: AboveK
) -> list[Rule]:
    """How each layer's weights follow its k'; every k is still the trained one.

    Raises NotElasticError if they are to be anchored though a router does not renormalise: its
    weights are anchored as it is.
    """
    renormalise = renormalising(model, layers, input_ids_BS)
    if above_k is AboveK.RENORMALISED:
        return [Rule(each) for each in renormalise]
    for layer, each in zip(layers, renormalise, strict=True):
        if not each:
            raise NotElasticError(
                f"{layer.name}: its router does not renormalise; "
                f'"{RULE_KEY}": "{AboveK.ANCHORED}" does not apply'
            )
    return [Rule(True, layer.k) for layer in layers]
