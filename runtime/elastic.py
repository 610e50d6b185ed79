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
        # Slots that every expert of every layer ran, until someone sets them back to 0.
        self.load_LE = torch.zeros(
            len(self.layers), max(layer.num_experts for layer in self.layers), dtype=torch.int32
        )
        self.not_by_token: str | None = None  # why tokens of one batch cannot differ in k'

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
        self.load_LE = self.load_LE.to(input_ids_BS.device)
        self.elastic = [
            ElasticExperts(layer, rule, backend, load_E[: layer.num_experts], by_weight)
            for layer, rule, load_E in zip(self.layers, by_layer, self.load_LE, strict=True)
        ]
        experts.use(self.model)
        self.not_by_token = self._disprove_by_token(input_ids_BS)

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

    def set_by_token(
        self,
        plans: Sequence[Sequence[int]],
        choice_T: torch.Tensor,
        caps: Sequence[int] | None = None,
    ) -> None:
        """Set k' token by token for forward passes of as many tokens as `choice_T`.

        Token t runs under `plans[choice_T[t]]`, until the next call of this or of `set`. `caps`
        limits the distinct experts of a pass, layer by layer: tokens then share those that serve
        all best. Needs `install`. Raises ValueError, changing nothing, on what cannot be.
        """
        self.check_by_token(plans, caps)
        self.set([max(ks) for ks in zip(*plans, strict=True)])
        for number, ks in enumerate(zip(*plans, strict=True)):
            cap = caps[number] if caps else None
            if cap is not None:
                self.layers[number].k = self.layers[number].max_k  # ranks all of them
            if cap is not None or len(set(ks)) > 1:
                self.elastic[number].set_budgets(ks, choice_T, cap)

    def check(self, plan: Sequence[int]) -> None:
        """Raise ValueError, naming the layer, if the model cannot run `plan`."""
        if len(plan) != len(self.layers):
            raise ValueError(
                f"plan {list(plan)} has {len(plan)} layers, the model {len(self.layers)}"
            )
        for layer, k in zip(self.layers, plan, strict=True):
            if not 1 <= k <= layer.max_k:
                raise ValueError(f"{layer.name}: k'={k} is not in 1..{layer.max_k}")

    def check_by_token(
        self, plans: Sequence[Sequence[int]], caps: Sequence[int] | None = None
    ) -> None:
        """Raise ValueError if tokens of one batch cannot run under `plans` and `caps`."""
        assert self.elastic, "k' by token needs install()"
        for plan in plans:
            self.check(plan)
        if caps is not None:
            self.check(caps)
            if not all(elastic.ranks_by_weight for elastic in self.elastic):
                raise NotElasticError(
                    "distinct experts cannot be capped: the routers do not rank by weight"
                )
        if self.not_by_token and any(tuple(plan) != tuple(plans[0]) for plan in plans):
            raise NotElasticError(f"one k' for all tokens of a step: {self.not_by_token}")

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
    def _disprove_by_token(self, input_ids_BS: torch.Tensor) -> str | None:
        """Why sequences of one batch cannot each run at its own k' as it would alone, if so.

        In some families more than the experts depends on k', and that part sees one k' a step.
        """
        plans = [[k] * len(self.layers) for k in (1, max(1, self.max_k // 2))]
        ids_1S, before, alone = input_ids_BS[:1], self.plan, []
        for plan in plans:
            with self.at(plan):
                alone.append(self.model(ids_1S).logits[0])
        choice_T = torch.arange(2, device=ids_1S.device).repeat_interleave(ids_1S.shape[1])
        self.set_by_token(plans, choice_T)
        together = self.model(ids_1S.repeat(2, 1)).logits
        self.set(before)
        for plan, expected, logits in zip(plans, alone, together, strict=True):
            error = float((logits - expected).abs().max() / expected.abs().max())
            if error > BY_TOKEN_ERROR[logits.dtype]:
                return (
                    f"at k'={plan[0]}, beside a sequence at another, logits are off by {error:.0%}"
                )
        return None
