"""Choosing the next tokens of a step, each request by its own settings.

transformers' processors sort the whole vocabulary twice for every request, greedy ones included; at
a decode batch of 32 that was a quarter of the step (docs/log.md). Here a greedy row costs an argmax
and only rows with a nucleus are sorted. Shapes: B rows, V tokens of the vocabulary.
"""

from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
    ContinuousBatchingTemperatureLogitsWarper,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

GREEDY = 0.0  # as a top_p: nothing but the best token


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0

    def arguments(self) -> dict[str, float]:
        if self.temperature == 0:
            return {"temperature": 1.0, "top_p": GREEDY}
        return {"temperature": self.temperature, "top_p": self.top_p}


def processors(nucleus: "Nucleus") -> ContinuousBatchingLogitsProcessorList:
    """Temperature, then `nucleus`; every request brings its own values."""
    temperature = ContinuousBatchingTemperatureLogitsWarper(TemperatureLogitsWarper(1.0))
    both = LogitsProcessorList([temperature, nucleus])
    chosen = ContinuousBatchingLogitsProcessorList(both)
    chosen.tensors_required = len(both)
    return chosen


class Nucleus(ContinuousBatchingLogitsProcessor):
    """Keep the fewest best tokens that hold a share top_p: all at 1, the first of the best at 0."""

    supported_kwargs: dict[str, type] = {"top_p": float}  # noqa: RUF012  (the base has it so)
    ignored_kwargs = ()

    def __init__(self) -> None:
        self.all_greedy = False  # the rows of the step that runs

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.copy_(torch.ones_like(int32_tensor, dtype=torch.float32).view(torch.int32))

    def prepare_tensor_args(
        self, requests_with_new_token: list[FutureRequestState]
    ) -> torch.Tensor:
        top_ps = [
            request.state.logit_processor_kwargs.get("top_p", 1.0)
            for request in requests_with_new_token
        ]
        self.all_greedy = all(top_p == GREEDY for top_p in top_ps)
        return torch.tensor(top_ps, dtype=torch.float32).view(torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if self.all_greedy:
            return scores
        top_p_B = tensor_arg[: len(scores)].view(torch.float32)
        greedy_B = top_p_B == GREEDY
        if greedy_B.any():
            # bf16 logits do tie: of equals the first, as argmax takes it, never a draw.
            best_B1 = scores.argmax(-1, keepdim=True)
            only_best_BV = torch.full_like(scores, -torch.inf).scatter_(1, best_B1, 0.0)
            scores = torch.where(greedy_B[:, None], only_best_BV, scores)
        nucleus_B = (top_p_B < 1) & ~greedy_B
        if nucleus_B.any():
            scores = scores.clone()
            scores[nucleus_B] = _cut(scores[nucleus_B], top_p_B[nucleus_B])
        return scores


def draw(scores_BV: torch.Tensor, all_greedy: bool) -> torch.Tensor:
    """One token a row, (B,)."""
    if all_greedy:
        return scores_BV.argmax(-1)
    return torch.multinomial(scores_BV.softmax(-1), num_samples=1)[:, 0]


def _cut(scores_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    ranked_BV, token_BV = scores_BV.sort(-1, descending=True)
    share_BV = ranked_BV.softmax(-1)
    before_BV = share_BV.cumsum(-1) - share_BV  # what better tokens already hold
    ranked_BV = ranked_BV.masked_fill(before_BV >= top_p_B[:, None], -torch.inf)
    return torch.empty_like(scores_BV).scatter_(-1, token_BV, ranked_BV)
