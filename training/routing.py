"""Routing while training: which experts each token runs, drawn anew in every layer and step.

Sits between router and experts through hooks, so the model's code and its own rule of
renormalisation stay in force. Also keeps the router's logits of the last forward for the losses.

Shapes: T tokens, P experts offered by the router, K of them run, E experts of the layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from runtime.elastic import ExpertDial
from runtime.moe_layers import MoeLayer, renormalising
from training.recipe import Elasticity

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Draw:
    """A layer's routing of a batch or of one sequence: k experts a token, from its best `pool`."""

    k: int
    pool: int


def draw_layer(elasticity: Elasticity, num_experts: int, random: np.random.Generator) -> Draw:
    """M-MoE draws k', EMoE widens the pool, `share` mixes either with plain top-k."""
    k, pool = elasticity.k, elasticity.k
    if random.random() < elasticity.share:
        if elasticity.k_range:
            k = _draw_k(elasticity.k_range, elasticity.capacity_temperature, random)
        pool = k
        if elasticity.pool:
            pool = min(round(k * elasticity.pool / elasticity.k), num_experts)
    return Draw(k, pool)


def _draw_k(
    k_range: tuple[int, int], temperature: float | None, random: np.random.Generator
) -> int:
    ks = np.arange(k_range[0], k_range[1] + 1)
    weights = np.ones(len(ks)) if temperature is None else ks ** (1 / temperature)
    return int(random.choice(ks, p=weights / weights.sum()))


def co_activate(
    index_TP: torch.Tensor,
    weight_TP: torch.Tensor,
    k: int,
    *,
    renormalise: bool,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """EMoE's stochastic co-activation sampling: k experts, uniformly from the token's top k~.

    k~ ~ U{k..P} for each token; the offered experts may come in any order. Where the model
    renormalises over what it selected, so does the sample: its weights add up to what all offered
    ones did. For a pool of k~, a pair runs together with probability C(k~-2, k-2) / C(k~, k).
    Shapes (T, K). Source: arXiv 2509.21892; the paper's text does not say whether it renormalises,
    which is what the model does when served.
    """
    num_tokens, offered = index_TP.shape
    size_T1 = torch.randint(k, offered + 1, (num_tokens, 1), generator=generator)
    ranked_TP = weight_TP.detach().argsort(dim=1, descending=True)
    lot_TP = torch.rand(num_tokens, offered, generator=generator)
    lot_TP.masked_fill_(torch.arange(offered) >= size_T1, -1.0)
    chosen_TK = ranked_TP.gather(1, lot_TP.topk(k, dim=1).indices.to(ranked_TP.device))
    weight_TK = weight_TP.gather(1, chosen_TK)
    if renormalise:
        weight_TK = weight_TK / weight_TK.sum(1, keepdim=True) * weight_TP.sum(1, keepdim=True)
    return index_TP.gather(1, chosen_TK), weight_TK


def keep_best(
    index_TP: torch.Tensor,
    weight_TP: torch.Tensor,
    k_T: torch.Tensor,
    *,
    renormalise: bool,
    nowhere: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every token's own k' best of the offered experts; the experts may come in any order.

    Slots beyond go `nowhere`, an id that no expert has, and weigh 0: transformers' experts and ours
    spend no product on them. Shapes (T, P).
    """
    rank_TP = weight_TP.detach().argsort(dim=1, descending=True).argsort(dim=1)
    dropped_TP = rank_TP >= k_T[:, None]
    kept_TP = weight_TP.masked_fill(dropped_TP, 0)
    if renormalise:
        kept_TP = kept_TP / kept_TP.sum(1, keepdim=True) * weight_TP.sum(1, keepdim=True)
    return index_TP.masked_fill(dropped_TP, nowhere), kept_TP


class TrainingRouting:
    """Draws every layer's routing for a step and imposes it on the model's forward passes."""

    def __init__(self, model: nn.Module, elasticity: Elasticity) -> None:
        self.dial = ExpertDial(model)
        self.router_logits: list[torch.Tensor] = []  # (T, E) of every layer, of the last forward
        self.draws: list[list[Draw]] = []  # by layer: one, or one for every sequence
        self._elasticity = elasticity
        self._generator = torch.Generator()
        probe_ids_BS = torch.arange(PROBE_TOKENS, device=model.device)[None]
        self._renormalises = renormalising(model, self.dial.layers, probe_ids_BS)
        for number, layer in enumerate(self.dial.layers):
            layer.router.register_forward_hook(self._keep_logits(layer))
            layer.experts.register_forward_pre_hook(self._resample(number))

    def begin_step(self, seed: int, step: int, batch: int) -> None:
        """Everything drawn until the next call follows from (seed, step); `batch` sequences."""
        random = np.random.default_rng((seed, step, 1))
        self._generator.manual_seed(int(random.integers(2**62)))
        num_draws = batch if self._elasticity.draw_per == "sequence" else 1
        self.draws = [
            [draw_layer(self._elasticity, layer.num_experts, random) for _ in range(num_draws)]
            for layer in self.dial.layers
        ]
        self.dial.set([max(draw.pool for draw in draws) for draws in self.draws])

    @contextmanager
    def served_at(self, k: int) -> Iterator[None]:
        """Plain top-k' in every layer, as when served."""
        draws, self.draws = self.draws, []
        with self.dial.at([k] * len(self.dial.layers)):
            yield
        self.draws = draws

    def _keep_logits(self, layer: MoeLayer):  # noqa: ANN202
        def hook(_router: nn.Module, _args: object, output: tuple[torch.Tensor, ...]) -> None:
            if len(self.router_logits) == len(self.dial.layers):
                self.router_logits = []
            logits = output[0]
            if logits.shape[-1] != layer.num_experts:
                raise ValueError(f"{layer.name}: its router does not give logits of all experts")
            self.router_logits.append(logits.reshape(-1, layer.num_experts))

        return hook

    def _resample(self, number: int):  # noqa: ANN202
        def hook(
            _experts: nn.Module, args: tuple[torch.Tensor, ...]
        ) -> tuple[torch.Tensor, ...] | None:
            if not self.draws:
                return None
            draws, renormalise = self.draws[number], self._renormalises[number]
            hidden_TD, index_TP, weight_TP, *rest = args
            if len(draws) > 1:
                k_B = torch.tensor([draw.k for draw in draws], device=index_TP.device)
                k_T = k_B.repeat_interleave(len(index_TP) // len(k_B))
                nowhere = self.dial.layers[number].num_experts
                sampled = keep_best(
                    index_TP, weight_TP, k_T, renormalise=renormalise, nowhere=nowhere
                )
            elif draws[0].k < draws[0].pool:
                sampled = co_activate(
                    index_TP,
                    weight_TP,
                    draws[0].k,
                    renormalise=renormalise,
                    generator=self._generator,
                )
            else:
                return None
            return (hidden_TD, *sampled, *rest)

        return hook
