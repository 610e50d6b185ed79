"""The experts of a layer, run at each token's own k'. Registered with transformers as "kprime".

Takes what the router selected at the widest k' of the step, narrows it to each token's budget, and
hands it to a backend; counts which experts ran. Knows nothing of plans or requests.

Shapes: T tokens, K experts that the router selected, E experts, D hidden features.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import nn
from transformers.integrations.moe import (
    ALL_EXPERTS_FUNCTIONS,
    batched_mm_experts_forward,
    grouped_mm_experts_forward,
)

from runtime.moe_layers import MoeLayer, Routing
from runtime.packed import PackedExperts, can_pack
from runtime.rerouting import Rerouter
from runtime.selection import Rule, anchor, keep_best, keep_shared

NAME = "kprime"


class Backend(StrEnum):
    """What multiplies. Slots that hold no expert cost nothing in the first two."""

    NATIVE = "native"  # our kernel: CPU, gated SiLU experts; the layer is packed for good
    GROUPED_MM = "grouped_mm"  # CUDA and everything else; fixed shapes, graph-safe
    BATCHED_MM = "batched_mm"
    EAGER = "eager"  # the model's own loop: the reference


def best_backend(layers: list[MoeLayer]) -> Backend:
    return Backend.NATIVE if all(can_pack(x.experts) for x in layers) else Backend.GROUPED_MM


class ElasticExperts:
    """What stands between one layer's router and its matrices. Hangs on the experts module."""

    def __init__(
        self,
        layer: MoeLayer,
        rule: Rule,
        backend: Backend,
        load_E: torch.Tensor,
        ranks_by_weight: bool,
    ) -> None:
        """Adds to `load_E` (int32) the slots that every expert runs.

        Raises ValueError if the backend cannot run this layer.
        """
        if backend is Backend.NATIVE and not can_pack(layer.experts):
            raise ValueError(
                f"{layer.name}: {type(layer.experts).__name__} cannot be run by the compiled "
                "kernel here; accepted: grouped_mm | batched_mm | eager"
            )
        self.rule = rule
        self.budget_T: torch.Tensor | None = None  # None: all run what the router selected
        self._ks: Sequence[int] = ()  # that stand in it
        self.cap: int | None = None  # on the distinct experts of the batch
        self._rerouter = None if ranks_by_weight else Rerouter(layer)
        self.load_E = load_E
        self._num_experts = layer.num_experts
        self._backend = backend
        self.packed = PackedExperts.replacing(layer.experts) if backend is Backend.NATIVE else None
        layer.experts.elastic = self
        # Makes transformers' own implementations skip the slots that hold no expert.
        layer.experts._is_expert_parallel = True

    @property
    def ranks_by_weight(self) -> bool:
        return self._rerouter is None

    def set_budgets(
        self, ks: Sequence[int], choice_T: torch.Tensor, cap: int | None = None
    ) -> None:
        """Token t of the next forward pass runs `ks[choice_T[t]]` experts.

        With a `cap`, of those that serve the whole batch best; the router then ranks all experts.
        """
        self._ks, self.cap = ks, cap
        self.budget_T = torch.tensor(ks, device=choice_T.device)[choice_T]

    def clear_budgets(self) -> None:
        self.budget_T = self.cap = None

    def run(
        self,
        experts: nn.Module,
        hidden_TD: torch.Tensor,
        index_TK: torch.Tensor,
        weight_TK: torch.Tensor,
    ) -> torch.Tensor:
        index_TK, weight_TK = self.narrow(index_TK, weight_TK)
        if self.packed is not None:
            return self.packed(hidden_TD, index_TK, weight_TK, self.load_E)
        ids_S = index_TK.flatten()
        live_S = (ids_S < self._num_experts).to(torch.int32)
        self.load_E.index_add_(0, ids_S.clamp(max=self._num_experts - 1), live_S)
        if self._backend is Backend.EAGER:
            # Some loops cannot skip. A slot that holds no expert has no weight either.
            index_TK = index_TK.masked_fill(index_TK == self._num_experts, 0)
            return type(experts).forward.__wrapped__(experts, hidden_TD, index_TK, weight_TK)
        return _TRANSFORMERS[self._backend](experts, hidden_TD, index_TK, weight_TK)

    def narrow(
        self, index_TK: torch.Tensor, weight_TK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the router selected, cut to each token's budget and weighed by the model's rule."""
        if self.cap is not None:
            return keep_shared(
                index_TK, weight_TK, self.budget_T, self.cap, self._num_experts, self.rule
            )
        if self.budget_T is not None and self._rerouter is None:
            return keep_best(index_TK, weight_TK, self.budget_T, self._num_experts, self.rule)
        if self.budget_T is not None:
            widest = Routing(index_TK, weight_TK)
            index_TK, weight_TK = self._rerouter.merge(
                widest, self.budget_T, self._ks, self._num_experts
            )
        if self.rule.anchor_k is not None and weight_TK.shape[1] > self.rule.anchor_k:
            weight_TK = anchor(weight_TK, self.rule.anchor_k)
        return index_TK, weight_TK


_TRANSFORMERS = {
    Backend.GROUPED_MM: grouped_mm_experts_forward,
    Backend.BATCHED_MM: batched_mm_experts_forward,
}


def _forward(
    experts: nn.Module, hidden_TD: torch.Tensor, index_TK: torch.Tensor, weight_TK: torch.Tensor
) -> torch.Tensor:
    elastic = getattr(experts, "elastic", None)
    if elastic is None:  # of a layer that is fixed by design
        return grouped_mm_experts_forward(experts, hidden_TD, index_TK, weight_TK)
    return elastic.run(experts, hidden_TD, index_TK, weight_TK)


def use(model: nn.Module) -> None:
    """Make `model` run the ElasticExperts that its layers hold."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)
    model.set_experts_implementation(NAME)
