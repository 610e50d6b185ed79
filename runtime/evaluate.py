"""Held-out quality at any plan: NLL, bits per byte and next-token accuracy, with intervals.

Takes a text; cuts it into windows, which are also the units of the bootstrap. All plans see the
same windows, so differences between plans are paired.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from runtime.checkpoint import Checkpoint

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


class TextError(ValueError):
    """The text cannot be evaluated on."""


@dataclass(frozen=True)
class Windows:
    """Equal stretches of held-out text, shape (windows, tokens)."""

    ids_WS: torch.Tensor
    bytes_per_token: float


@dataclass(frozen=True)
class Quality:
    """Per window, so that plans can be compared pairwise: nats a token and share of hits."""

    nll_W: np.ndarray
    accuracy_W: np.ndarray

    @property
    def nll(self) -> float:
        return float(self.nll_W.mean())

    @property
    def accuracy(self) -> float:
        return float(self.accuracy_W.mean())


def cut_windows(
    checkpoint: Checkpoint, text: str, window: int, limit: int | None = None
) -> Windows:
    """Consecutive windows of `window` tokens; `limit` of them, evenly spread, if given.

    Raises TextError if the text does not fill one.
    """
    ids = checkpoint.tokenizer.encode(text)
    num_windows = len(ids) // window
    if num_windows == 0:
        raise TextError(f"the text has {len(ids)} tokens; a window takes {window}")
    ids_WS = torch.tensor(ids[: num_windows * window]).view(num_windows, window)
    if limit is not None and limit < num_windows:
        ids_WS = ids_WS[np.linspace(0, num_windows - 1, limit).astype(int)]
    return Windows(ids_WS, len(text.encode()) / len(ids))


@torch.inference_mode()
def evaluate(
    checkpoint: Checkpoint,
    windows: Windows,
    plan: Sequence[int],
    on_window: Callable[[], None] = lambda: None,
) -> Quality:
    """Teacher-forced quality of every window with the layers at `plan`."""
    nll, accuracy = [], []
    with checkpoint.dial.at(plan):
        for ids_S in windows.ids_WS:
            ids_1S = ids_S[None].to(checkpoint.model.device)
            logits_SV = checkpoint.model(ids_1S).logits[0, :-1].float()
            nll.append(torch.nn.functional.cross_entropy(logits_SV, ids_1S[0, 1:]).item())
            accuracy.append((logits_SV.argmax(-1) == ids_1S[0, 1:]).float().mean().item())
            on_window()
    return Quality(np.array(nll), np.array(accuracy))


def interval(values_W: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over windows."""
    picks = np.random.default_rng(seed).integers(0, len(values_W), (NUM_RESAMPLES, len(values_W)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_W[picks].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def retention(at_plan: Quality, at_full: Quality) -> tuple[float, float, float]:
    """Perplexity at full k' over that at the plan, with its paired interval; 1.0 = as good."""
    gain_W = at_full.nll_W - at_plan.nll_W
    low, high = interval(gain_W)
    return math.exp(float(gain_W.mean())), math.exp(low), math.exp(high)
