"""How long an engine step takes, from what it has to compute and the plan it runs under.

Takes the work of a step and k' by layer, or what was counted when it ran; gives seconds. Fitted by
`kprime calibrate`, a part of every profile.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from controller.signals import Correction, KByLayer, Phased, Step, Work

REFERENCE_BATCH = 8  # requests that decode together, where one has to be named


class Strict(BaseModel):
    """A part of a profile: refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Layer(Strict):
    """What a MoE layer's experts are."""

    num_experts: PositiveInt
    size: float = Field(gt=0)  # an expert's weights over those of one in the largest layer
    spread: float = Field(gt=0, le=1)  # n tokens touch as many experts as n^spread strangers

    def distinct(self, k: float, tokens: float) -> float:
        """T: the experts that `tokens` tokens touch at `k` each, in the mean.

        N (1 - (1 - k/N)^n) if tokens chose alone (arXiv 2511.02237 compares it with measurements);
        tokens of one text do not, so fewer count.
        """
        if tokens <= 0:
            return 0.0
        share = min(1.0, k / self.num_experts)
        missed: float = (1.0 - share) ** (tokens**self.spread)
        return self.num_experts * (1.0 - missed)


class Parts(NamedTuple):
    """A step by what its time is spent on, each with a number in `Correction`."""

    base_s: float
    experts_s: float
    rest_s: float  # what else grows with tokens and keys
    decode_tokens: float  # take what the profile does not know


class StepTime(Strict):
    """Seconds of a step of n tokens, layers l at k'_l with T_l distinct experts:

        base + token * n + sum_l size_l * (expert * T_l + slot * n * k'_l)
             + prefill_key * (keys read by prompts) + decode_key * (keys read by decoding requests)
             + decode_token * (decoding requests)

    `expert` is reading an expert's weights, what decode pays for; `slot` is multiplying by them,
    what prefill pays for (arXiv 2511.02237, equation of a layer). T is measured where a step has
    run, and from the layer's `spread` where it is planned.
    """

    base_s: float = Field(ge=0)
    token_s: float = Field(ge=0)
    expert_s: float = Field(ge=0)
    slot_s: float = Field(ge=0)
    prefill_key_s: float = Field(ge=0)
    decode_key_s: float = Field(ge=0)
    layers: tuple[Layer, ...] = Field(min_length=1)
    decode_token_s: float = Field(default=0.0, ge=0)  # besides; no profile has it, corrections do

    def step_s(self, plan: KByLayer, work: Work) -> float:
        """Of a step to come. Where tokens differ in k', the plan is their mean."""
        tokens = work.tokens
        if isinstance(plan, Phased):
            plan = plan.over(work)
        expert_s, slot_s, experts_s = self.expert_s, self.slot_s, 0.0
        # As `experts_s`, without lists between: a decision foresees dozens of steps.
        for layer, k in zip(self.layers, plan, strict=True):
            touched = layer.distinct(k, tokens)
            experts_s += layer.size * (expert_s * touched + slot_s * (k * tokens))
        return self.base_s + experts_s + self.rest_s(work)

    def ran_parts(self, step: Step) -> Parts:
        """What a step that ran should have taken."""
        experts_s = self.experts_s(step.expert_slots, step.distinct_experts)
        return Parts(self.base_s, experts_s, self.rest_s(step.work), step.work.decode_tokens)

    def corrected(self, correction: Correction) -> "StepTime":
        """The same model with its parts multiplied, and what decoding tokens take besides."""
        base, experts, rest = correction.base, correction.experts, correction.rest
        return self.model_copy(
            update={
                "base_s": base * self.base_s,
                "token_s": rest * self.token_s,
                "expert_s": experts * self.expert_s,
                "slot_s": experts * self.slot_s,
                "prefill_key_s": rest * self.prefill_key_s,
                "decode_key_s": rest * self.decode_key_s,
                "decode_token_s": self.decode_token_s + correction.decode_token_s,
            }
        )

    def layer_s(self, layer: int, k: int, tokens: float) -> float:
        """A layer's share of a step: what is saved with it at k' = 0."""
        this = self.layers[layer]
        return this.size * (self.expert_s * this.distinct(k, tokens) + self.slot_s * k * tokens)

    def prompt_s(self, plan: KByLayer, prompt_tokens: float, chunk_tokens: int) -> float:
        """Engine time of a prompt in full chunks; its last one counts by its share."""
        keys = chunk_tokens * (prompt_tokens + 1) / 2  # a token reads those before it, and itself
        return prompt_tokens / chunk_tokens * self.step_s(plan, Work(chunk_tokens, 0, keys, 0))

    def decode_s(self, plan: KByLayer, context_tokens: float, batch: float) -> float:
        """A step of so many requests that decode."""
        return self.step_s(plan, Work(0, batch, 0, batch * context_tokens))

    def request_s(
        self, plan: KByLayer, prompt_tokens: float, output_tokens: float, chunk_tokens: int
    ) -> float:
        """Engine time that a request takes of a saturated engine, whose steps are full: with prompt
        and decoding tokens side by side, as many of each as requests have.

        An engine with time to spare runs smaller steps, in which a token costs more.
        """
        tokens = prompt_tokens + output_tokens
        if not tokens:
            return 0.0
        prefill = chunk_tokens * prompt_tokens / tokens
        decode = chunk_tokens - prefill
        keys = prefill * (prompt_tokens + 1) / 2, decode * (prompt_tokens + output_tokens / 2)
        return tokens / chunk_tokens * self.step_s(plan, Work(prefill, decode, *keys))

    def experts_s(self, slots: Sequence[float], distinct: Sequence[float]) -> float:
        """Of a step's experts: token-expert pairs and T, by layer."""
        expert_s, slot_s, seconds = self.expert_s, self.slot_s, 0.0
        # Every step that runs or is foreseen comes by here: a generator would take twice as long.
        for layer, touched, ran in zip(self.layers, distinct, slots, strict=True):
            seconds += layer.size * (expert_s * touched + slot_s * ran)
        return seconds

    def rest_s(self, work: Work) -> float:
        """What else of it grows with tokens and keys."""
        return (
            self.token_s * (work.prefill_tokens + work.decode_tokens)
            + self.prefill_key_s * work.prefill_keys
            + self.decode_key_s * work.decode_keys
            + self.decode_token_s * work.decode_tokens
        )
