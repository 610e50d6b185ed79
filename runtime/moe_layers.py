"""The MoE layers of a transformers model: where k' of each is set, and why some have no dial.

Takes a model whose experts go through transformers' experts interface, gives its layers in order,
or refuses it with the reason. Knows nothing of plans: `runtime.elastic` turns all layers together.

Shapes: B sequences of S tokens, T tokens in all, K experts selected for each.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

ROUTER_CLASS = re.compile(r"Router|Gate")

# Found by name, because nothing in their structure tells; tests/runtime holds each to its reason.
REFUSED_CLASSES = {
    "Llama4TextExperts": "computes every expert for every token: a smaller k' saves nothing",
    "LongcatFlashExperts": "has experts that compute nothing: k' is not the number that runs",
    "OpenAIPrivacyFilterTopKRouter": "divides by k what its block multiplies by the k it was built "
    "with, so that another k' scales the output",
    "PhimoeTopKRouter": "selects by a sparsemixer, which is written for two experts and ignores k",
    "ZayaRouter": "is made for one expert a token: a second choice may be its skip expert",
}


class NotElasticError(ValueError):
    """The model has no MoE layer, or setting k' does not change the experts that run."""


@dataclass(eq=False)
class MoeLayer:
    """One MoE layer: where it hangs, its router and its experts."""

    name: str
    router: nn.Module
    experts: nn.Module

    @property
    def k_attribute(self) -> str:
        """What the router reads k from when it runs."""
        return "top_k" if _has_top_k(self.router) else "config.top_k_experts"

    @property
    def k(self) -> int:
        """Experts per token of this layer alone."""
        return self.router.top_k if _has_top_k(self.router) else self.router.config.top_k_experts

    @k.setter
    def k(self, k: int) -> None:
        if _has_top_k(self.router):
            self.router.top_k = k
            return
        # The whole model shares this config: give the router a copy before changing it.
        config = copy.copy(self.router.config)
        config.top_k_experts = k
        self.router.config = config

    @property
    def num_experts(self) -> int:
        # Gemma's routers do not say it, their experts do.
        owner = self.router if hasattr(self.router, "num_experts") else self.experts
        return int(owner.num_experts)

    @property
    def max_k(self) -> int:
        """The largest k' at which every selected expert is one that the router may select.

        Routing limited to groups masks the experts of all but `topk_group` of them.
        """
        num_groups = getattr(self.router, "num_group", None)
        open_groups = getattr(self.router, "topk_group", None)
        # DeepSeek-V2 has groups in its config also where it does not route by them.
        by_group = getattr(self.router, "topk_method", "") != "greedy"
        if num_groups and open_groups and by_group:
            return min(open_groups, num_groups) * (self.num_experts // num_groups)
        return self.num_experts


class Routing(NamedTuple):
    """The experts selected for each token, and what their outputs are weighted by."""

    index_TK: torch.Tensor
    weight_TK: torch.Tensor


def find_moe_layers(model: nn.Module) -> list[MoeLayer]:
    """The layers that have a dial, in the order of the model.

    Raises NotElasticError with the reason if there is none, or if one is of a kind that kprime
    cannot turn. Beside others, `fixed_layers` are passed over: they run as they were trained.
    """
    layers, fixed = [], fixed_layers(model)
    for name, block in _moe_blocks(model):
        if name in fixed:
            continue
        if reason := _refusal(block):
            raise NotElasticError(f"{type(model).__name__}: {name}: {reason}")
        layers.append(MoeLayer(name, _router_of(block), block.experts))
    if layers:
        return layers
    if fixed:
        name, reason = next(iter(fixed.items()))
        raise NotElasticError(
            f"{type(model).__name__}: all {len(fixed)} MoE layers are fixed: {name}: {reason}"
        )
    raise NotElasticError(
        f"{type(model).__name__} has no MoE layer with a top-k router: nothing to turn"
    )


def fixed_layers(model: nn.Module) -> dict[str, str]:
    """Name -> reason of the MoE layers with a fixed k, in a model where others have a dial."""
    reasons = {name: _fixed(name, block) for name, block in _moe_blocks(model)}
    return {name: reason for name, reason in reasons.items() if reason}


@contextmanager
def watch_experts(layers: Iterable[MoeLayer]) -> Iterator[dict[str, Routing]]:
    """Layer name -> what its experts were last told to run, for forward passes in the block."""
    seen: dict[str, Routing] = {}

    def watch(name: str):  # noqa: ANN202
        def hook(_experts: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen[name] = Routing(index_TK=args[1], weight_TK=args[2])

        return hook

    with ExitStack() as hooks:
        for layer in layers:
            handle = layer.experts.register_forward_pre_hook(watch(layer.name))
            hooks.callback(handle.remove)
        yield seen


@torch.inference_mode()
def renormalising(
    model: nn.Module, layers: Sequence[MoeLayer], input_ids_BS: torch.Tensor
) -> list[bool]:
    """By layer: whether the weights of a token's experts add up to the same at k'=1 as at k.

    Asked of the experts, since routers differ in what they take and give.
    """
    trained = [layer.k for layer in layers]
    # A layer trained at one expert is asked about its widest selection instead.
    wider = [layer.max_k if layer.k == 1 else layer.k for layer in layers]
    try:
        sums = [_sums(model, layers, plan, input_ids_BS) for plan in ([1] * len(layers), wider)]
    finally:
        _set(layers, trained)
    return [torch.allclose(one, more, rtol=1e-2) for one, more in zip(*sums, strict=True)]


def _sums(
    model: nn.Module, layers: Sequence[MoeLayer], plan: Sequence[int], input_ids_BS: torch.Tensor
) -> list[torch.Tensor]:
    _set(layers, plan)
    with watch_experts(layers) as seen:
        model(input_ids_BS)
    return [seen[layer.name].weight_TK.float().sum(-1) for layer in layers]


def _set(layers: Sequence[MoeLayer], plan: Sequence[int]) -> None:
    for layer, k in zip(layers, plan, strict=True):
        layer.k = k


def _fixed(name: str, block: nn.Module) -> str:
    router = _router_of(block)
    if hasattr(router, "tid2eid"):
        return f"{type(router).__name__} takes its experts from a fixed table of token ids"
    if name.endswith(".vision_moe"):
        return f"{type(block).__name__} runs on image tokens alone, and kprime serves text"
    return ""


def _refusal(block: nn.Module) -> str:
    """Why this MoE block has no dial; empty if it has one."""
    router, experts = _router_of(block), getattr(block, "experts", None)
    for part in (router, experts):
        if reason := REFUSED_CLASSES.get(type(part).__name__):
            return f"{type(part).__name__} {reason}"
    if not isinstance(experts, nn.Module):
        return f"{type(block).__name__} selects experts outside transformers' experts interface"
    if not _on_experts_interface(experts):
        return f"{type(experts).__name__} is outside transformers' experts interface"
    if router is None:
        return f"{type(block).__name__} has no router with a top-k that could be set"
    return ""


def _moe_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with experts beside a router, and those that are an MoE layer by themselves."""
    routers = set()
    for name, block in model.named_modules():
        if isinstance(getattr(block, "experts", None), nn.Module):
            routers.add(_router_of(block))
            yield name, block
        elif _has_top_k(block) and hasattr(block, "num_experts") and block not in routers:
            yield name, block


def _router_of(block: nn.Module) -> nn.Module | None:
    """What selects the experts: a module inside the block or, as in Jamba, the block itself."""
    for child in block.children():
        named_so = ROUTER_CLASS.search(type(child).__name__)
        if named_so and (_has_top_k(child) or _reads_config(child)):
            return child
    # In other families a `top_k` of the block beside that of its router is dead.
    selects = hasattr(block, "route_tokens_to_experts") and _has_top_k(block)
    return block if selects else None


def _reads_config(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return isinstance(getattr(config, "top_k_experts", None), int)


def _has_top_k(module: nn.Module) -> bool:
    return isinstance(getattr(module, "top_k", None), int)


def _on_experts_interface(experts: nn.Module) -> bool:
    """Whether `use_experts_implementation` decorated the class: it sets these on every instance."""
    return hasattr(experts, "is_transposed") and hasattr(experts, "has_gate")
