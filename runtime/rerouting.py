"""What a router selects at a smaller k', for routers that do not rank by the weights they give.

DeepSeek-V3 and its like select by a score with a bias and weigh by the score alone: the k' largest
weights of a wider selection are not what the router selects at k'. Their narrower selections come
from the router itself, run once for every k' in the step; it is small beside the experts.

Shapes: T tokens, K experts of the widest selection.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from runtime.moe_layers import MoeLayer, Routing, watch_experts
from runtime.selection import rank

PROBED_KS = 4


class Rerouter:
    """Asks one router again about the tokens it was last given."""

    def __init__(self, layer: MoeLayer) -> None:
        self._layer = layer
        self._call: tuple[tuple, dict] = ((), {})
        self._hook = layer.router.register_forward_pre_hook(self._remember, with_kwargs=True)

    def forget(self) -> None:
        self._hook.remove()

    def _remember(self, _router: nn.Module, args: tuple, kwargs: dict) -> None:
        self._call = (args, kwargs)

    def select(self, k: int) -> Routing:
        """As the router would at `k`. Call it after the layer's own forward pass has begun."""
        widest, self._layer.k = self._layer.k, k
        args, kwargs = self._call
        returned = self._layer.router.forward(*args, **kwargs)
        self._layer.k = widest
        # Families return these, and logits, in different orders; these two alone are (T, k).
        pair = [x for x in returned if x.shape[-1] == k]
        index_TK = next(x for x in pair if not x.is_floating_point())
        weight_TK = next(x for x in pair if x.is_floating_point())
        return Routing(index_TK, weight_TK)

    def merge(
        self, widest: Routing, budget_T: torch.Tensor, ks: Sequence[int], num_experts: int
    ) -> Routing:
        """Each token's own selection; the id E, and no weight, in the slots beyond it."""
        index_TK, weight_TK = widest.index_TK.clone(), widest.weight_TK.clone()
        width = index_TK.shape[1]
        for k in set(ks) - {width}:
            rows = budget_T == k
            narrow = self.select(k)
            index_TK[rows, :k], weight_TK[rows, :k] = narrow.index_TK[rows], narrow.weight_TK[rows]
            index_TK[rows, k:], weight_TK[rows, k:] = num_experts, 0
        return Routing(index_TK, weight_TK)


@torch.inference_mode()
def ranks_by_weight(
    model: nn.Module, layers: Sequence[MoeLayer], input_ids_BS: torch.Tensor
) -> bool:
    """Whether every layer's selection at a smaller k' is the best by weight of its widest one."""
    # A block that routes by itself (Jamba) cannot be asked alone; none of those has a bias.
    layers = [layer for layer in layers if layer.experts not in set(layer.router.modules())]
    trained = [layer.k for layer in layers]
    try:
        for layer in layers:
            layer.k = layer.max_k
        with watch_experts(layers) as seen, _asked(layers) as rerouters:
            model(input_ids_BS)
            return all(
                _same(seen[layer.name], rerouter.select(k))
                for layer, rerouter in zip(layers, rerouters, strict=True)
                for k in _probes(layer.max_k)
            )
    finally:
        for layer, k in zip(layers, trained, strict=True):
            layer.k = k


def _same(widest: Routing, narrow: Routing) -> bool:
    """As `keep_best` ranks, of equal weights the first named.

    In bf16 many are equal, and torch's top-k then names one set at one k and another at the next:
    such a router is asked again as well. The fused ones keep to one order.
    """
    ranked_TK = rank(widest.index_TK, widest.weight_TK)[0]
    expected_TK = ranked_TK[:, : narrow.index_TK.shape[1]]
    return torch.equal(expected_TK.sort(-1).values, narrow.index_TK.sort(-1).values)


def _probes(max_k: int) -> list[int]:
    return sorted({max(1, max_k * part // PROBED_KS) for part in range(PROBED_KS)})


@contextmanager
def _asked(layers: Sequence[MoeLayer]) -> Iterator[list[Rerouter]]:
    rerouters = [Rerouter(layer) for layer in layers]
    try:
        yield rerouters
    finally:
        for rerouter in rerouters:
            rerouter.forget()
