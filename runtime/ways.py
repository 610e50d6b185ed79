"""The three ways of measuring what a layer loses, side by side, and how their ranks agree."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr

from runtime.checkpoint import Checkpoint
from runtime.evaluate import Windows
from runtime.moe_layers import NotElasticError
from runtime.sensitivity import (
    Evaluate,
    isolated_losses_by_layer,
    losses_by_layer,
    output_changes_by_layer,
)

ALONE, ISOLATED, DATA_FREE = "alone", "isolated", "data-free"
WAYS = (ALONE, ISOLATED, DATA_FREE)

Losses = Sequence[Mapping[int, float]]  # by layer, by k'


@dataclass(frozen=True)
class Correlation:
    """Spearman's, of two ways: over all layers and k' but the trained one, over those below it, and
    over the layers at one k', the mean of the k' below.
    """

    overall: float
    below: float
    between_layers: float


def sensitivities(
    checkpoint: Checkpoint,
    choosing: Windows,
    ks: Sequence[int],
    evaluate: Evaluate,
    on_plan: Callable[[], object] = lambda: None,
) -> dict[str, Losses]:
    """By way: what every layer loses at each k'. `on_plan` as the two ways with text call it.

    Without the data-free one where a layer does not run on random hidden states.
    """
    losses: dict[str, Losses] = {
        ALONE: losses_by_layer(checkpoint, choosing, ks, on_plan, evaluate),
        ISOLATED: isolated_losses_by_layer(checkpoint, choosing, ks, on_plan, evaluate),
    }
    with suppress(NotElasticError):
        losses[DATA_FREE] = output_changes_by_layer(checkpoint, ks)
    return losses


def correlations(losses: Mapping[str, Losses], full_k: int) -> dict[str, Correlation]:
    """Of every pair of ways."""
    ks = sorted(set(losses[ALONE][0]) - {full_k})
    below = [number for number, k in enumerate(ks) if k < full_k]
    table_KL = {way: np.array([[loss[k] for loss in losses[way]] for k in ks]) for way in losses}

    def spearman(one: np.ndarray, other: np.ndarray) -> float:
        return float(spearmanr(one.ravel(), other.ravel()).statistic)

    found = {}
    for one, other in combinations(losses, 2):
        a_KL, b_KL = table_KL[one], table_KL[other]
        found[f"{one}, {other}"] = Correlation(
            spearman(a_KL, b_KL),
            spearman(a_KL[below], b_KL[below]),
            float(np.mean([spearman(a_KL[number], b_KL[number]) for number in below])),
        )
    return found
