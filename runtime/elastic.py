"""The dial: k' (experts per token) of every MoE layer of a transformers model, set in place.

Takes any causal LM whose routers hold an integer `top_k` beside a sibling module `experts`.
Knows nothing of engines, plans or time: the caller decides when a change is safe.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

ROUTER_CLASS = re.compile(r"Router|Gate")


class NotElasticError(ValueError):
    """The model has no MoE layer, or setting k' does not change the experts that run."""


@dataclass(frozen=True)
class MoeLayer:
    """One MoE layer: where it hangs, its router and its experts."""

    name: str
    router: nn.Module
    experts: nn.Module

    @property
    def num_experts(self) -> int:
        return int(self.router.num_experts)


class ExpertDial:
    """k' of every MoE layer, in the order of the layers.

    Sets `router.top_k`: the router's output width is the number of experts that run, and the
    router renormalises over what it selected, as in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = list(_moe_layers(model))
        if not self.layers:
            raise NotElasticError(
                f"{type(model).__name__} has no MoE layer with a top-k router: nothing to turn"
            )
        self.trained_plan = self.plan

    @property
    def plan(self) -> tuple[int, ...]:
        return tuple(int(layer.router.top_k) for layer in self.layers)

    @property
    def max_k(self) -> int:
        return min(layer.num_experts for layer in self.layers)

    def set(self, plan: Sequence[int]) -> None:
        """Set k' layer by layer. Raises ValueError, changing nothing, on a plan that cannot be."""
        self.check(plan)
        for layer, k in zip(self.layers, plan, strict=True):
            layer.router.top_k = k

    def check(self, plan: Sequence[int]) -> None:
        """Raise ValueError, naming the layer, if the model cannot run `plan`."""
        if len(plan) != len(self.layers):
            raise ValueError(
                f"plan {list(plan)} has {len(plan)} layers, the model {len(self.layers)}"
            )
        for layer, k in zip(self.layers, plan, strict=True):
            if not 1 <= k <= layer.num_experts:
                raise ValueError(f"{layer.name}: k'={k} is not in 1..{layer.num_experts}")

    @contextmanager
    def at(self, plan: Sequence[int]) -> Iterator[None]:
        """Run a block under `plan`, then restore what was set before."""
        before = self.plan
        self.set(plan)
        try:
            yield
        finally:
            self.set(before)

    @torch.inference_mode()
    def prove(self, input_ids_BS: torch.Tensor) -> None:
        """Show that k' takes effect: every layer runs k' experts, and restoring is bit-exact.

        Raises NotElasticError naming the first layer that does not follow.
        """
        before = self.model(input_ids_BS).logits
        for k in sorted({1, max(1, self.max_k // 2)}):
            with self.at([k] * len(self.layers)):
                for layer, width in zip(self.layers, self._widths(input_ids_BS), strict=True):
                    if width != k:
                        raise NotElasticError(f"{layer.name}: set k'={k}, but {width} experts ran")
                if k not in self.trained_plan and torch.equal(
                    self.model(input_ids_BS).logits, before
                ):
                    raise NotElasticError(
                        f"k'={k} leaves the output unchanged: the dial has no effect"
                    )
        if not torch.equal(self.model(input_ids_BS).logits, before):
            raise NotElasticError(
                "restoring the trained k' does not restore the output bit for bit"
            )

    def _widths(self, input_ids_BS: torch.Tensor) -> list[int]:
        """Experts that really run a token, by layer, read off one forward pass."""
        seen: dict[str, int] = {}

        def watch(name: str):  # noqa: ANN202
            def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                seen[name] = args[1].shape[-1]  # (hidden, top_k_index, top_k_weights)

            return hook

        with ExitStack() as hooks:
            for layer in self.layers:
                handle = layer.experts.register_forward_pre_hook(watch(layer.name))
                hooks.callback(handle.remove)
            self.model(input_ids_BS)
        return [seen.get(layer.name, 0) for layer in self.layers]


def _moe_layers(model: nn.Module) -> Iterator[MoeLayer]:
    for name, block in model.named_modules():
        experts = getattr(block, "experts", None)
        if not isinstance(experts, nn.Module):
            continue
        for router in block.children():
            if ROUTER_CLASS.search(type(router).__name__) and isinstance(
                getattr(router, "top_k", None), int
            ):
                yield MoeLayer(name, router, experts)
