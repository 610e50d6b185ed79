"""The dial: k' (experts per token) of every MoE layer of a transformers model, set in place.

Takes any causal LM whose MoE layers `runtime.moe_layers` finds. Knows nothing of engines, plans or
time: the caller decides when a change is safe.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from runtime import experts
from runtime.denominator import AboveK, rules
from runtime.experts import Backend, ElasticExperts
from runtime.moe_layers import MoeLayer, NotElasticError, find_moe_layers, watch_experts
from runtime.rerouting import ranks_by_weight

# A token among others of another k' may differ by the rounding of its weights.
BY_TOKEN_ERROR = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


class ExpertDial:
    """k' of every MoE layer, in the order of the layers.

    Sets the k that each router reads: the router's output width is the number of experts that run,
    and the router renormalises over what it selected, as in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: list[MoeLayer] = find_moe_layers(model)
        self.trained_plan = self.plan
        self.elastic: list[ElasticExperts] = []

    def install(
        self,
        backend: Backend,
        input_ids_BS: torch.Tensor,
        above_k: AboveK = AboveK.RENORMALISED,
    ) -> None:
        """Run all experts through kprime's implementation: k' by token, counted, on `backend`.

        `input_ids_BS`: a few tokens, to find out how the routers rank and weigh. Raises
        NotElasticError where the rule above the trained k does not apply, ValueError where the
        backend does not.
        """
        by_layer = rules(self.model, self.layers, input_ids_BS, above_k)
        by_weight = ranks_by_weight(self.model, self.layers, input_ids_BS)
        self.elastic = [
            ElasticExperts(layer, rule, backend, by_weight)
            for layer, rule in zip(self.layers, by_layer, strict=True)
        ]
        experts.use(self.model)

    @property
    def plan(self) -> tuple[int, ...]:
        return tuple(layer.k for layer in self.layers)

    @property
    def max_k(self) -> int:
        return min(layer.max_k for layer in self.layers)

    def set(self, plan: Sequence[int]) -> None:
        """Set k' layer by layer. Raises ValueError, changing nothing, on a plan that cannot be."""
        self.check(plan)
        for layer, k in zip(self.layers, plan, strict=True):
            layer.k = k
        for elastic in self.elastic:
            elastic.clear_budgets()

    def set_by_token(self, plans: Sequence[Sequence[int]], choice_T: torch.Tensor) -> None:
        """Set k' token by token for forward passes of as many tokens as `choice_T`.

        Token t runs under `plans[choice_T[t]]`, until the next call of this or of `set`. Needs
        `install`. Raises ValueError, changing nothing, on a plan that cannot be.
        """
        assert self.elastic, "k' by token needs install()"
        for plan in plans:
            self.check(plan)
        self.set([max(ks) for ks in zip(*plans, strict=True)])
        for ks, elastic in zip(zip(*plans, strict=True), self.elastic, strict=True):
            if len(set(ks)) > 1:
                elastic.set_budgets(ks, choice_T)

    def check(self, plan: Sequence[int]) -> None:
        """Raise ValueError, naming the layer, if the model cannot run `plan`."""
        if len(plan) != len(self.layers):
            raise ValueError(
                f"plan {list(plan)} has {len(plan)} layers, the model {len(self.layers)}"
            )
        for layer, k in zip(self.layers, plan, strict=True):
            if not 1 <= k <= layer.max_k:
                raise ValueError(f"{layer.name}: k'={k} is not in 1..{layer.max_k}")

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
            with self.at([k] * len(self.layers)), watch_experts(self.layers) as seen:
                turned = self.model(input_ids_BS).logits
            for layer in self.layers:
                width = seen[layer.name].index_TK.shape[-1] if layer.name in seen else 0
                if width != k:
                    raise NotElasticError(f"{layer.name}: set k'={k}, but {width} experts ran")
            if k not in self.trained_plan and torch.equal(turned, before):
                raise NotElasticError(f"k'={k} leaves the output unchanged: the dial has no effect")
        if not torch.equal(self.model(input_ids_BS).logits, before):
            raise NotElasticError(
                "restoring the trained k' does not restore the output bit for bit"
            )

    @torch.inference_mode()
    def prove_by_token(self, input_ids_BS: torch.Tensor) -> None:
        """Show that sequences of one batch run each at its own k' as each would alone.

        Raises NotElasticError if not: something in the model beside its experts depends on k'.
        """
        num_tokens = input_ids_BS.shape[1]
        plans = [[k] * len(self.layers) for k in (1, max(1, self.max_k // 2))]
        alone = []
        for plan in plans:
            with self.at(plan):
                alone.append(self.model(input_ids_BS[:1]).logits[0])
        pair = input_ids_BS[:1].repeat(2, 1)
        before = self.plan
        choice_T = torch.arange(2, device=pair.device).repeat_interleave(num_tokens)
        self.set_by_token(plans, choice_T)
        try:
            together = self.model(pair).logits
        finally:
            self.set(before)
        for plan, expected, logits in zip(plans, alone, together, strict=True):
            error = (logits - expected).abs().max() / expected.abs().max()
            if error > BY_TOKEN_ERROR[logits.dtype]:
                raise NotElasticError(
                    f"a sequence at k'={plan[0]} beside another k' differs from itself alone by "
                    f"{error:.0%} of its largest logit"
                )
